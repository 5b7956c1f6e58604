"""Bad images and folders: one line each, and nothing of anybody else is touched."""

import astropy.io.fits as fits
import numpy as np
import pytest
from cluster_images import averages, command, in_lengths, make_folder, on_the_sky, pixel_averages, posterior_of_the_maps, save

import hpcdiff
from hpcdiff.sample.__main__ import main
from hpcdiff.sample.cluster.observed import observe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def expected(made):
    return posterior_of_the_maps(made)


def change(path, **keys):
    """Rewrite a header; None removes a key."""
    data, header = fits.getdata(path), fits.getheader(path)
    for key, value in keys.items():
        if value is None:
            header.remove(key, ignore_missing=True)
        else:
            header[key] = value
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)


def blank(image):
    image[45, 40] = np.nan
    return image


BAD = {
    "no unit": (lambda p: change(p["sz"], BUNIT=None), [], ["no BUNIT", "uK_CMB", "sz.fits"]),
    "a wrong unit": (lambda p: change(p["xray"], BUNIT="count/s"), [], ["count/s", "erg/s/cm2", "xray.fits"]),
    "no coordinates": (
        lambda p: fits.PrimaryHDU(fits.getdata(p["sz"]), fits.Header({"BUNIT": "uK"})).writeto(p["sz"], overwrite=True),
        [],
        ["WCS"],
    ),
    "angles without a projection": (lambda p: change(p["sz"], CTYPE1="X", CTYPE2="Y"), [], ["CUNIT", "deg"]),
    "broken coordinates": (lambda p: change(p["sz"], CD1_1=0.0, CD1_2=0.0, CD2_1=0.0, CD2_2=0.0), [], ["sz.fits"]),
    "no redshift": (lambda p: [change(q, REDSHIFT=None) for q in p.values()], [], ["--redshift"]),
    "two redshifts": (lambda p: change(p["sz"], REDSHIFT=0.3), [], ["REDSHIFT", "0.3", "0.25"]),
    "a redshift that is a text": (lambda p: change(p["sz"], REDSHIFT="near"), [], ["REDSHIFT", "near"]),
    "redshift 0": (None, ["--redshift", "0"], ["redshift 0"]),
    "a map that is too small": (None, ["--redshift", "0.12"], ["% of the model's grid", "outside the sz map", "6.4 Mpc"]),
    "another place": (None, ["--ra", "20", "--dec", "3"], ["all of the model's grid"]),
    "half a centre": (None, ["--ra", "20"], ["--dec"]),
    "no such file": (lambda p: p["sz"].unlink(), [], ["sz.fits", "not there"]),
    "no FITS": (lambda p: p["sz"].write_text("SIMPLE  = no"), [], ["sz.fits", "FITS"]),
    "cut short": (lambda p: p["sz"].write_bytes(p["sz"].read_bytes()[:9000]), [], ["sz.fits"]),
    "a missing field": (lambda p: p.pop("xray"), [], ["xray", "missing", "erg/s/cm2"]),
    "a field too many": (lambda p: p.update(temperature=p["sz"]), [], ["temperature", "sz, xray"]),
    "sz twice": (lambda p: p.update(compton_y=p["sz"]), [], ["twice"]),
    "an unknown option": (None, ["--redshfit", "0.2"], ["--redshfit", "--redshift"]),
    "a number that is none": (None, ["--r500", "1Mpc"], ["1Mpc", "--r500"]),
    "another width": (None, ["--width", "9"], ["6.4"]),
    "one sample": (None, ["sample.samples=1"], ["sample.samples", "two"]),
    "an unknown key": (None, ["sample.step=3"], ["sample.step"]),
    "no model": (None, ["run.model=/nowhere"], ["/nowhere"]),
    "a map of the wrong sign": (lambda p: change_data(p["sz"], lambda x: -x), [], ["positive", "sz.fits"]),
    "a blank pixel": (lambda p: change_data(p["sz"], blank), [], ["NaN", "--fill-nan", "(41, 46)"]),
    "other coordinates": (lambda p: save_one_linear(p["xray"]), [], ["lengths", "xray.fits"]),
}


def change_data(path, how):
    fits.PrimaryHDU(how(fits.getdata(path)), fits.getheader(path)).writeto(path, overwrite=True)


def save_one_linear(path):
    header, u, v = in_lengths()
    header["BUNIT"] = "erg/s/cm2"
    fits.PrimaryHDU(averages("xray", u, v), header).writeto(path, overwrite=True)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path, made, capsys, case):
    spoil, more, words = BAD[case]
    paths = save(tmp_path, *on_the_sky())
    if spoil:
        spoil(paths)
    assert main(command(made, paths, tmp_path / "out", *more)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("hpcdiff sample: error: ") and said.err.count("\n") == 1
    for word in words:
        assert word in said.err, said.err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_blank_pixels_are_filled_if_asked(tmp_path, made):
    paths = save(tmp_path, *on_the_sky(), sz=blank)
    observed = observe(hpcdiff.load(made / "model"), paths, [made / "maps.h5"], fill_nan=True)
    assert "nearest" in " ".join(observed.notes)
    assert np.abs(observed.inputs["sz"] - pixel_averages("sz")).max() < 0.05 * observed.inputs["sz"].max()


def test_other_peoples_files_are_left_alone(tmp_path, made, capsys):
    paths = save(tmp_path, *on_the_sky())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    for more in ([], ["--overwrite"]):
        assert main(command(made, paths, tmp_path / "out", *more)) == 2
        assert "thesis.tex" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.tex").read_text() == "x"


def test_images_beside_a_posterior_and_the_folder_one_is_in_are_not_removed(tmp_path, made, capsys, monkeypatch):
    paths = save(tmp_path, *on_the_sky())
    out = tmp_path / "out"
    assert main(command(made, paths, out)) == 0
    mine = out / "sz.fits"  # where a user may well keep it
    mine.write_bytes(paths["sz"].read_bytes())
    assert main(command(made, paths, out, "--overwrite", "run.seed=6")) == 2
    assert "sz.fits" in capsys.readouterr().err and mine.exists()
    mine.unlink()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.chdir(out)
    for place in (".", "..", str(out)):
        assert main(command(made, paths, place, "--overwrite", "run.seed=6")) == 2
        assert "you are in" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    monkeypatch.chdir(tmp_path)
    assert main(command(made, paths, "out", "--overwrite", "run.seed=6")) == 0
    assert (out / "masses.json").read_bytes() != before["masses.json"]
    assert {p.name for p in tmp_path.iterdir()} == {"sz.fits", "xray.fits", "out"}


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path, made, capsys, monkeypatch):
    paths = save(tmp_path, *on_the_sky())
    monkeypatch.setattr("hpcdiff.sample.cluster.posterior.weigh", lambda *a: 1 / 0)
    assert main(command(made, paths, tmp_path / "sz.fits" / "out")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_help_and_dry_run_say_the_command_and_write_nothing(tmp_path, made, capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "--out DIR" in said and "[section.key=value ...]" in said and "BUNIT" in said
    paths = save(tmp_path, *on_the_sky())
    assert main([*command(made, paths, tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 maps by dpmpp_2m, 6 network evaluations each" in said and "redshift 0.25" in said and not (tmp_path / "out").exists()
    assert main([str(made / "c.yaml"), "--dry-run", "sample.sampler=auto", "sample.steps=9"]) == 0
    said = capsys.readouterr().out
    assert "dpmpp_2m_sde (auto), 9 noise levels from a prior start" in said and "FILE.fits" in said
    assert main([str(made / "c.yaml"), "--dry-run", "task.method=regression"]) == 0
    assert "regression" in capsys.readouterr().out
