"""One cluster from FITS images: the same posterior whatever the images' units, pixels and coordinates; what is written."""

import csv
import io
import json

import astropy.coordinates
import astropy.cosmology
import astropy.io.fits as fits
import astropy.wcs
import numpy as np
import pytest
from cluster_images import (
    DEC,
    NPIX,
    OTHER_UNIT,
    PIXEL,
    RA,
    UNIT,
    Z,
    assert_close,
    averages,
    command,
    in_lengths,
    make_folder,
    on_the_sky,
    pixel_averages,
    posterior_of_the_maps,
    save,
)

import hpcdiff
from hpcdiff.errors import UserError
from hpcdiff.guided import Measured
from hpcdiff.sample.__main__ import main
from hpcdiff.sample.cluster.observed import observe
from hpcdiff.sample.cluster.posterior import infer
from hpcdiff.sample.cluster.write import write
from hpcdiff.sections import Guide


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def expected(made):
    return posterior_of_the_maps(made)


CASES = {
    "sky, turned": (on_the_sky, {}, UNIT),
    "sky, mirrored and coarser": (on_the_sky, {"mirror": True, "angle": -1.2, "pixel": 0.23, "npix": 50}, OTHER_UNIT),
    "sky, galactic": (on_the_sky, {"frame": "galactic", "angle": 0.0}, UNIT),
    "kpc": (in_lengths, {}, OTHER_UNIT),
    "Mpc, axes swapped": (in_lengths, {"unit": "Mpc", "swapped": True}, UNIT),
}


@pytest.mark.parametrize("case", CASES)
def test_the_posterior_is_that_of_the_maps_themselves(tmp_path, made, expected, case):
    make, options, units = CASES[case]
    paths = save(tmp_path, *make(**options), units)
    settings = {"samples": 4, "sampler": "dpmpp_2m", "steps": 6, "seed": 5, "init": "prior"}
    model = hpcdiff.load(made / "model")
    posterior = infer(model, observe(model, paths, [made / "maps.h5"]), **settings)
    for field, x in posterior.observed.inputs.items():
        truth = pixel_averages(field)
        assert np.abs(x - truth).max() < 0.01 * truth.max(), field
    assert_close(posterior.samples, expected)


@pytest.fixture(scope="module")
def done(made, tmp_path_factory):
    """A finished command: its folder and its images."""
    folder = tmp_path_factory.mktemp("done")
    paths = save(folder, *on_the_sky())
    assert main(command(made, paths, folder / "out", "--r200", 2.0, "--r500", 1.2)) == 0
    return folder / "out", paths


def test_what_is_written(done, made, expected):
    out, _ = done
    kinds = [f"{f}_{k}.fits" for f in ("gas", "dm") for k in ("mean", "std", "samples")]
    assert {p.name for p in out.iterdir()} == {*kinds, "sz_input.fits", "xray_input.fits", "masses.json", "masses.csv", "cluster.png"}
    about = json.loads((out / "masses.json").read_text())
    rho = 0.7**2 * 2.775e11 * 1.1**3 * 10.0
    for field, omega in (("gas", 0.045), ("dm", 0.255)):
        with fits.open(out / f"{field}_samples.fits", checksum=True) as hdus:
            x, header = hdus[0].data, hdus[0].header
        assert x.shape == (4, NPIX, NPIX) and header["BUNIT"] == "Msun / Mpc2"
        assert header["MEANSIG"] == pytest.approx(omega * rho, rel=1e-3)
        assert_close({field: x.swapaxes(1, 2) / header["MEANSIG"]}, {field: expected[field]})
        for kind, of in (("mean", x.mean(0)), ("std", x.std(0, ddof=1))):
            np.testing.assert_allclose(fits.getdata(out / f"{field}_{kind}.fits"), of, rtol=2e-4)
        assert header["MODEL"] == about["settings"]["model"] and header["SEED"] == 5 and header["NSAMPLES"] == 4 and header["FAMILIAR"]
        fine = np.hypot(*np.mgrid[-255.5:256, -255.5:256]) * PIXEL / 16 < 1.2
        expected_mass = (x * fine.reshape(NPIX, 16, NPIX, 16).mean((1, 3))).sum((1, 2)) * PIXEL**2
        masses = np.array(about["masses"]["R500c"]["mass_samples_msun"][field])
        np.testing.assert_allclose(masses, expected_mass, rtol=0.01)
        part = about["masses"]["R500c"]["mass_msun"][field]
        assert part["p16"] <= part["p50"] <= part["p84"] and part["p50"] == pytest.approx(np.median(masses))
    assert about["outside_the_training_range"] == [] and any("redshift 0.25" in note and "0.1" in note for note in about["notes"])
    rows = list(csv.DictReader((out / "masses.csv").open()))
    assert [(r["within"], r["field"]) for r in rows] == [(w, f) for w in ("R500c", "R200c") for f in ("gas", "dm", "total")]
    assert float(rows[0]["mass_p50_msun"]) == pytest.approx(about["masses"]["R500c"]["mass_msun"]["gas"]["p50"], rel=1e-6)
    assert float(rows[0]["radius_mpc"]) == 1.2 and "68 %" in about["masses"]["interval"]


def test_the_written_maps_lie_where_the_images_did(done):
    out, paths = done
    for field in paths:
        with fits.open(out / f"{field}_input.fits") as hdus:
            ours, header = hdus[0].data, hdus[0].header
        theirs, from_header = fits.getdata(paths[field]), fits.getheader(paths[field])
        places = []
        for image, h in ((ours, header), (theirs, from_header)):
            weight = np.where(image > 0.3 * image.max(), image, 0)
            y, x = (np.sum(weight * axis) / weight.sum() for axis in np.indices(image.shape))
            places.append(astropy.wcs.WCS(h).pixel_to_world(x, y).icrs)
        assert places[0].separation(places[1]).deg < 0.1 * abs(header["CDELT1"])
        centre = astropy.wcs.WCS(header).pixel_to_world(NPIX / 2 - 0.5, NPIX / 2 - 0.5)
        assert (centre.ra.deg, centre.dec.deg) == pytest.approx((RA, DEC), abs=1e-6)
        d_a = astropy.cosmology.FlatLambdaCDM(H0=70, Om0=0.3).angular_diameter_distance(Z).value
        assert header["CDELT2"] == pytest.approx(np.degrees(PIXEL / d_a), rel=1e-4) and header["CDELT1"] < 0


def test_a_second_run_does_nothing_and_a_changed_one_is_refused(done, made, capsys):
    out, paths = done
    words = command(made, paths, out, "--r200", 2.0, "--r500", 1.2)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert main(words) == 0 and "already finished" in capsys.readouterr().out
    assert main([*words, "run.seed=6"]) == 2
    error = capsys.readouterr().err
    assert "seed was 5 and is now 6" in error and "--overwrite" in error and error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert main([*words, "run.seed=6", "--overwrite"]) == 0
    assert json.loads((out / "masses.json").read_text())["settings"]["seed"] == 6
    assert not list(out.parent.glob(".*partial"))
    assert not np.array_equal(fits.getdata(out / "gas_samples.fits"), fits.getdata(io.BytesIO(before["gas_samples.fits"])))


def test_input_unlike_the_training_maps_is_said_everywhere(tmp_path, made, capsys):
    paths = save(tmp_path, *on_the_sky(), sz=lambda x: 100 * x)
    assert main(command(made, paths, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "masses.json").read_text())
    header = fits.getheader(tmp_path / "out" / "dm_mean.fits")
    assert "warning: sz: peak" in said and "not to be trusted" in said
    assert any(line.startswith("sz: peak") for line in about["outside_the_training_range"])
    assert header["FAMILIAR"] is False and "sz: peak" in "".join(header["COMMENT"])
    assert not any("xray" in line for line in about["outside_the_training_range"])


def test_a_centre_given_by_hand(tmp_path, made):
    d_a = astropy.cosmology.FlatLambdaCDM(H0=70, Om0=0.3).angular_diameter_distance(Z).value
    paths = save(tmp_path, *on_the_sky(npix=110))
    east = (90 * astropy.units.deg, 2 * PIXEL / d_a * astropy.units.rad)
    there = astropy.coordinates.SkyCoord(RA, DEC, unit="deg").directional_offset_by(*east)
    observed = observe(hpcdiff.load(made / "model"), paths, [made / "maps.h5"], ra=there.ra.deg, dec=there.dec.deg)
    shifted = np.roll(pixel_averages("sz"), 2, axis=0)  # two pixels to the east: the cluster moves to the west, along i
    assert np.abs(observed.inputs["sz"] - shifted)[3:].max() < 0.02 * shifted.max()


def test_a_regression_gives_its_mean_and_no_interval(tmp_path):
    folder = make_folder(tmp_path, "regression")
    paths = save(tmp_path, *in_lengths())
    assert main(command(folder, paths, tmp_path / "out", "--redshift", 0.1)) == 0
    assert not list((tmp_path / "out").glob("*_std.fits")) + list((tmp_path / "out").glob("*_samples.fits"))
    maps = {f: pixel_averages(f) for f in paths}
    truth = hpcdiff.load(folder / "model").sample(maps)["gas"]
    header = fits.getheader(tmp_path / "out" / "gas_mean.fits")
    assert_close({"gas": fits.getdata(tmp_path / "out" / "gas_mean.fits").T[None] / header["MEANSIG"]}, {"gas": truth})
    assert header["CTYPE1"].strip() == "X" and header["CUNIT1"] == "Mpc" and header["CRVAL1"] == pytest.approx(0.7)
    part = json.loads((tmp_path / "out" / "masses.json").read_text())["masses"]
    assert "no interval" in part["interval"] and part["R500c"]["mass_msun"]["dm"]["p16"] is None


def test_a_further_map_guides_as_it_does_from_arrays(tmp_path, made):
    header, u, v = on_the_sky()
    paths = save(tmp_path, header, u, v)
    model, rho = hpcdiff.load(made / "model"), 0.3 * 0.7**2 * 2.775366e11 * 1.1**3 * 10.0
    header["BUNIT"] = "Msun/Mpc2"
    fits.PrimaryHDU((2 * averages("sz", u, v) * rho).astype(np.float32), header).writeto(tmp_path / "total.fits")
    guide = Guide(field="total", noise=3.0, beam=0.5)
    settings = {"samples": 4, "sampler": "dpmpp_2m", "steps": 6, "seed": 5, "init": "prior"}
    with pytest.raises(UserError, match="total is missing"):
        observe(model, paths, [made / "maps.h5"], guide=guide)
    posterior = infer(model, observe(model, paths | {"total": tmp_path / "total.fits"}, [made / "maps.h5"], guide=guide), **settings)
    measured = Measured("total", 2 * pixel_averages("sz"), 3.0, 0.5, 0.3, 0.045)
    maps = {f: pixel_averages(f) for f in paths}
    assert_close(posterior.samples, model.sample(maps, guide=measured, **settings))
    assert not np.allclose(posterior.samples["dm"], model.sample(maps, **settings)["dm"][0], rtol=0.1)


def test_a_guide_says_nothing_where_it_has_no_value(tmp_path, made):
    header, u, v = on_the_sky(npix=66, angle=0.0)  # 7.3 Mpc wide
    paths = save(tmp_path, header, u, v)
    header["BUNIT"] = "dimensionless"
    image = averages("sz", u, v)
    image[33:] = np.nan
    for name in ("total", "filled"):
        image = np.where(np.isnan(image), 1e4, image) if name == "filled" else image
        fits.PrimaryHDU(image.astype(np.float32), header).writeto(tmp_path / f"{name}.fits")
    model, guide = hpcdiff.load(made / "model"), Guide(field="total", noise=3.0)
    masked = observe(model, paths | {"total": tmp_path / "total.fits"}, [made / "maps.h5"], guide=guide, fill_nan=True)
    none = np.isinf(masked.guide.noise)
    assert none[:, NPIX // 2 + 1 :].all() and not none[:, : NPIX // 2 - 1].any() and "not guided" in " ".join(masked.notes)
    whole = observe(model, paths | {"total": tmp_path / "filled.fits"}, [made / "maps.h5"], guide=guide)
    assert not np.isinf(whole.guide.noise).any()
    settings = {"samples": 2, "sampler": "dpmpp_2m", "steps": 3, "seed": 5, "init": "prior"}
    posterior = infer(model, masked, **settings)
    write(posterior, tmp_path / "out")
    assert np.isnan(fits.getdata(tmp_path / "out" / "total_input.fits")[NPIX // 2 + 1 :]).all()
    assert json.loads((tmp_path / "out" / "masses.json").read_text())["settings"]["guide"]["noise"] == 3.0
    image[:, 1:] = np.nan  # a value is left beyond the grid
    fits.PrimaryHDU(image.astype(np.float32), header).writeto(tmp_path / "total.fits", overwrite=True)
    for fill in (False, True):
        with pytest.raises(UserError, match="total map has no value"):
            observe(model, paths | {"total": tmp_path / "total.fits"}, [made / "maps.h5"], guide=guide, fill_nan=fill)


def test_a_fault_while_writing_leaves_nothing(tmp_path, made, monkeypatch):
    from hpcdiff.sample.cluster import write

    paths = save(tmp_path, *on_the_sky())
    monkeypatch.setattr(write, "draw", lambda posterior: 1 / 0)
    assert main(command(made, paths, tmp_path / "out")) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"sz.fits", "xray.fits"}
