"""A model of a toy sky, and FITS images of it in any units, pixels and coordinates."""

import astropy.coordinates
import astropy.cosmology
import astropy.io.fits as fits
import astropy.wcs
import numpy as np
import torch

import hpcdiff
from hpcdiff import seen
from hpcdiff.config import read_config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.maps import CATALOG, UNITS, MapFile, MapWriter
from hpcdiff.model import Model, save_model
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


def posterior_of_the_maps(folder):
    """What a run's model makes of the maps themselves, without FITS."""
    maps = {f: pixel_averages(f) for f in ("sz", "xray")}
    return hpcdiff.load(folder / "model").sample(maps, samples=4, sampler="dpmpp_2m", steps=6, seed=5, init="prior")


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
