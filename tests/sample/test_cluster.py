"""One cluster from FITS images: the same posterior whatever the images' units, pixels and coordinates; what is written; bad input."""

import csv
import io
import json

import astropy.coordinates
import astropy.cosmology
import astropy.io.fits as fits
import astropy.wcs
import numpy as np
import pytest
import torch

import hpcdiff
from hpcdiff import seen
from hpcdiff.config import read_config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.errors import UserError
from hpcdiff.guided import Measured
from hpcdiff.maps import CATALOG, UNITS, MapFile, MapWriter
from hpcdiff.model import Model, save_model
from hpcdiff.sample.__main__ import main
from hpcdiff.sample.cluster import sample_cluster
from hpcdiff.sample.cluster.observed import observe
from hpcdiff.sample.cluster.posterior import infer
from hpcdiff.sample.cluster.write import write
from hpcdiff.sections import Guide
from hpcdiff.transform import Transform
from hpcdiff.world import World

NPIX, PIXEL, Z, RA, DEC = 32, 0.2, 0.25, 150.3, 32.0
WIDTH = NPIX * PIXEL
SUB = 4
"""Points along the side of an image's pixel, over which it is averaged."""
CONFIG = """
run: {{dir: {dir}, seed: 5}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1}}
diffusion: {{precondition: edm, sigma_max: 2.0}}
task: {{transform: asinh, method: {method}}}
sample: {{sampler: dpmpp_2m, steps: 6, samples: 4, batch_size: 4, init: prior}}
"""


def sky(field, u, v):
    """The inputs as functions of Mpc to the west and to the north: nothing about them is symmetric."""
    if field == "sz":
        a, b = (u - 0.15) * 0.9 + v * 0.4, v - 0.1 - 0.3 * u
        return 60 * np.exp(-(a**2 / 0.9 + b**2 / 0.4)) + 12 * np.exp(-((u + 1.1) ** 2 + (v - 1.5) ** 2) / 0.4) + 0.5
    return (
        4e-5 * np.exp(-((u - 0.1) ** 2 / 0.35 + (v - 0.1 * u) ** 2 / 0.6)) + 1e-5 * np.exp(-((u - 1.4) ** 2 + (v + 0.9) ** 2) / 0.3) + 2e-7
    )


def pixel_averages(field):
    """(NPIX, NPIX) [i, j]: i to the west, j to the north, averaged over the pixels."""
    sub = 8
    x = (np.arange(NPIX * sub) - (NPIX * sub - 1) / 2) * PIXEL / sub
    return sky(field, x[:, None], x[None, :]).reshape(NPIX, sub, NPIX, sub).mean((1, 3)).astype(np.float32)


def make_folder(folder, method="diffusion"):
    """A run with a map file and a model whose weights are noise: its answer depends on every pixel it is shown."""
    (folder / "c.yaml").write_text(CONFIG.format(dir=folder, method=method))
    config = read_config(folder / "c.yaml")
    n, rng = 6, np.random.default_rng(0)
    scale = np.geomspace(0.2, 5, n)[:, None, None]
    fields = {f: scale * pixel_averages(f) for f in ("sz", "xray")}
    fields |= {f: scale * pixel_averages("sz") * rng.uniform(0.9, 1.1, (n, NPIX, NPIX)) for f in ("gas", "dm")}
    columns = {name: np.zeros((n, *shape)) for name, (_, shape) in CATALOG.items()}
    columns |= {"halo_id": np.arange(n), "group": np.arange(n), "axis": np.full(n, 2), "frame": np.tile(np.eye(3), (n, 1, 1))}
    columns |= {"width_mpc": np.full(n, WIDTH), "depth_mpc": np.full(n, 10.0), "redshift": np.full(n, 0.1)}
    columns = {k: np.asarray(v, CATALOG[k][0]) for k, v in columns.items()}
    about = {"config": "{}", "inputs": "{}", "provenance": "{}", "pixel_mpc": PIXEL, "width_mpc": WIDTH, "depth_mpc": 10.0}
    about |= {"Om0": 0.3, "Ob0": 0.045, "h": 0.7, "Tcmb0": 2.7255}
    writer = MapWriter(folder / "maps.h5", World(), columns, {f: {"units": UNITS[f]} for f in fields}, NPIX, about)
    writer.write(0, {k: v.astype(np.float32) for k, v in fields.items()})
    writer.finish()

    low = {"sz": 5.0, "xray": 5e-6, "gas": 20.0, "dm": 20.0}
    transforms = {f: Transform("asinh", 0.0, 4.0, s) for f, s in low.items()}
    zero, one = torch.zeros(2, NPIX, NPIX), torch.ones(2)
    statistics = {"mean": zero + 0.2, "std": zero + 0.1, "sigma_data": one * 0.1, "condition_mean": zero, "condition_std": one * 0.2}
    torch.manual_seed(0)
    denoiser = build_denoiser(config.resolved(), statistics)
    for p in denoiser.network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    described = {f: seen.bounds([seen.describe(fields[f])]) for f in ("sz", "xray")}
    info = {"npix": NPIX, "pixel_mpc": PIXEL, "units": {f: UNITS[f] for f in fields}, "seen": described}
    info |= {"inputs": {"maps": MapFile(folder / "maps.h5").fingerprint}}
    save_model(
        folder / "model", Model(config.resolved("run", "task", "network", "diffusion", "train"), info, transforms, denoiser, statistics), ""
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def expected(made):
    """The posterior of the maps themselves, without FITS."""
    maps = {f: pixel_averages(f) for f in ("sz", "xray")}
    return hpcdiff.load(made / "model").sample(maps, samples=4, sampler="dpmpp_2m", steps=6, seed=5, init="prior")


def on_the_sky(frame="icrs", pixel=0.11, npix=90, angle=0.5, mirror=False, centre=(RA, DEC)):
    """A header of pixels of `pixel` Mpc at redshift Z, turned and perhaps mirrored, and (west, north) in Mpc of points in them.

    The tangent plane is written out, and the distance is astropy's.
    """
    d_a = astropy.cosmology.FlatLambdaCDM(H0=70, Om0=0.3).angular_diameter_distance(Z).value
    side = np.degrees(pixel / d_a)
    middle = astropy.coordinates.SkyCoord(*centre, unit="deg").transform_to(frame)
    lon, lat = (middle.ra, middle.dec) if frame == "icrs" else (middle.l, middle.b)
    names = ("RA---TAN", "DEC--TAN") if frame == "icrs" else ("GLON-TAN", "GLAT-TAN")
    header = fits.Header({"CTYPE1": names[0], "CTYPE2": names[1], "CUNIT1": "deg", "CUNIT2": "deg", "REDSHIFT": Z})
    header.update({"CRVAL1": lon.deg, "CRVAL2": lat.deg, "CRPIX1": npix / 2 + 0.5, "CRPIX2": npix / 2 + 0.5})
    cd = side * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([-1 if mirror else 1, 1])
    header.update({f"CD{a + 1}_{b + 1}": cd[a, b] for a in (0, 1) for b in (0, 1)})
    x, y = np.meshgrid(points(npix), points(npix))
    where = astropy.wcs.WCS(header).pixel_to_world(x, y).icrs
    ra, dec, ra0, dec0 = (np.radians(v) for v in (where.ra.deg, where.dec.deg, RA, DEC))
    below = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
    west = -np.cos(dec) * np.sin(ra - ra0) / below
    north = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / below
    return header, west * d_a, north * d_a


def points(npix):
    """Places in pixels, `SUB` to each."""
    return (np.arange(npix * SUB) + 0.5) / SUB - 0.5


def averages(field, u, v):
    """An image of places given `SUB` times as finely."""
    n = len(u) // SUB
    return sky(field, u, v).reshape(n, SUB, n, SUB).mean((1, 3))


def in_lengths(unit="kpc", pixel=0.09, npix=100, swapped=False):
    """A linear header, x and y of points in its pixels in Mpc; `swapped`: the image's first axis is y, and runs backwards."""
    factor = {"kpc": 1e3, "Mpc": 1.0}[unit]
    header = fits.Header({"CTYPE1": "X", "CTYPE2": "Y", "CUNIT1": unit, "CUNIT2": unit, "CRVAL1": 700.0, "CRVAL2": -20.0})
    header.update({"CRPIX1": npix / 2 + 0.5, "CRPIX2": npix / 2 + 0.5})
    a, b = np.meshgrid((points(npix) - (npix - 1) / 2) * pixel, (points(npix) - (npix - 1) / 2) * pixel)
    header.update({"CDELT1": pixel * factor, "CDELT2": pixel * factor})
    if not swapped:
        return header, a, b
    header.update({"PC1_1": 0.0, "PC1_2": 1.0, "PC2_1": -1.0, "PC2_2": 0.0})
    return header, b, -a


UNIT = {"sz": ("uK_CMB", 1.0), "xray": ("erg/s/cm2", 1.0)}
OTHER_UNIT = {"sz": ("Compton y", 1 / 2.7255e6), "xray": ("W/m2", 1e-3)}


def save(folder, header, u, v, units=UNIT, **changed):
    """Both images; {field: path}. `changed`: {field: function of the image, or None = header keys}."""
    paths = {}
    for field, (unit, factor) in units.items():
        image = averages(field, u, v) * factor
        if field in changed:
            image = changed[field](image)
        one = header.copy()
        one["BUNIT"] = unit
        paths[field] = folder / f"{field}.fits"
        fits.PrimaryHDU(image.astype(np.float32), one).writeto(paths[field], overwrite=True)
    return paths


def command(made, paths, out, *more):
    """The command line for these images."""
    images = [word for field, path in paths.items() for word in (f"--{field}", str(path))]
    return [str(made / "c.yaml"), *images, "--out", str(out), *map(str, more)]


def assert_close(samples, expected, within=0.02):
    """Equal within a part of the range, and different from the same maps turned or mirrored."""
    for field, truth in expected.items():
        truth, span = truth[0], np.ptp(truth)
        worst = np.abs(samples[field] - truth).max() / span
        assert worst < within, f"{field}: {worst}"
        for turned in (truth.swapaxes(1, 2), truth[:, ::-1], truth[:, :, ::-1], truth[:, ::-1, ::-1]):
            assert np.abs(samples[field] - turned).max() / span > 5 * within


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
    posterior = sample_cluster(hpcdiff.load(made / "model"), paths, maps=[made / "maps.h5"], **settings)
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
    posterior = sample_cluster(model, paths | {"total": tmp_path / "total.fits"}, maps=[made / "maps.h5"], guide=guide, **settings)
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
