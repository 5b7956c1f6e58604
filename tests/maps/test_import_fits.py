"""FITS images: the same maps come back, and a header that contradicts the user's words is an error."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from exported import COSMOLOGY, export, write_import

from hpcdiff.maps import MapFile
from hpcdiff.maps.__main__ import main


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An exported map file of 20 halos and two axes, 16 pixels of 0.8 Mpc."""
    folder = tmp_path_factory.mktemp("source")
    maps, order = export(folder)
    return folder, maps, order


def header(**cards: object) -> fits.Header:
    out = fits.Header()
    for name, value in cards.items():
        out[name] = value
    return out


def spec(source, tmp_path, sz: str, **changes: object):
    fields = {"dm": str(source / "dm.npy"), "sz": sz}
    units = {"dm": "dimensionless", "sz": "uK"}
    return write_import(source, fields=fields, out=str(tmp_path / "out" / "maps.h5"), **{"units": units, **changes})


def same_sz(tmp_path, maps: MapFile, rtol: float = 0.0) -> None:
    new = MapFile(tmp_path / "out" / "maps.h5")
    rows = np.arange(maps.n_views)
    assert np.allclose(new.read("sz", rows), maps.read("sz", rows), rtol=rtol, atol=0)
    assert np.array_equal(new.read("dm", rows), maps.read("dm", rows))


def arcsec(z: float, mpc: float = 0.8) -> float:
    """The angle of a length at redshift z, by another program's cosmology."""
    distance = FlatLambdaCDM(H0=70, Om0=0.3).angular_diameter_distance(z).to_value("Mpc")
    return float(np.degrees(mpc / distance) * 3600)


WHOLE = {"BUNIT": "uK", "CDELT1": 0.8, "CDELT2": 0.8, "CUNIT1": "Mpc", "CUNIT2": "Mpc"}
SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}


@pytest.mark.parametrize("kind", ["primary", "extension", "compressed", "gzip"])
def test_a_cube(source, tmp_path, kind):
    folder, maps, order = source
    sz = maps.read("sz", np.arange(40))[order]
    about, path = header(**WHOLE), tmp_path / ("sz.fits.gz" if kind == "gzip" else "sz.fits")
    if kind in ("primary", "gzip"):
        fits.PrimaryHDU(sz, about).writeto(path)
    else:
        make = fits.CompImageHDU if kind == "compressed" else fits.ImageHDU
        options = {"compression_type": "GZIP_2", "quantize_level": 0} if kind == "compressed" else {}
        fits.HDUList([fits.PrimaryHDU(), make(0 * sz, name="NOISE"), make(sz, about, name="SZ", **options)]).writeto(path)
    name = str(path) if kind in ("primary", "gzip") else f"{path}[SZ]"
    assert main(["import", str(spec(folder, tmp_path, name))]) == 0
    same_sz(tmp_path, maps)


def test_an_image_a_view_named_by_the_catalogue(source, tmp_path):
    """Whatever the order of the files on the disk, each goes to the view that its name says; scaled integers are scaled."""
    folder, maps, _ = source
    for row in range(40):
        sz, c = maps.read("sz", np.array([row]))[0], maps.catalog
        step = float(sz.max() / 30000)
        hdu = fits.PrimaryHDU(np.rint(sz / step).astype(np.int16), header(BSCALE=step, **WHOLE))
        hdu.header["BSCALE"] = step
        hdu.writeto(tmp_path / f"halo{c['halo_id'][row]:04d}_{'xyz'[c['axis'][row]]}.fits")
    assert main(["import", str(spec(folder, tmp_path, str(tmp_path / "halo{halo_id:04d}_{axis}.fits")))]) == 0
    new = MapFile(tmp_path / "out" / "maps.h5")
    a, b = (m.read("sz", np.arange(40)) for m in (new, maps))
    assert (abs(a - b).max(axis=(1, 2)) < b.max(axis=(1, 2)) / 50000).all()
    (tmp_path / "halo0003_z.fits").unlink()
    assert main(["import", str(spec(folder, tmp_path, str(tmp_path / "halo{halo_id:04d}_{axis}.fits"))), "--overwrite"]) == 2


@pytest.mark.parametrize(
    ("cards", "redshift", "words"),
    [
        ({**WHOLE, "BUNIT": "K"}, 0, "BUNIT is 'K', and units.sz is 'uK'"),
        ({**WHOLE, "BUNIT": "keV"}, 0, "BUNIT is 'keV'"),
        ({**WHOLE, "CDELT1": 1.6, "CDELT2": 1.6}, 0, "pixels of 1.6 Mpc, and you say 0.8 Mpc"),
        ({**WHOLE, "CUNIT1": "kpc", "CUNIT2": "kpc"}, 0, "and you say 0.8 Mpc"),
        ({**WHOLE, "CUNIT1": "s", "CUNIT2": "s"}, 0, "a length or an angle"),
        ({**WHOLE, "CDELT1": -0.4}, 0, "square pixels"),
        ({**SKY, "CDELT1": -arcsec(0.5) / 3600 * 1.02, "CDELT2": arcsec(0.5) / 3600 * 1.02}, 0.5, "at z = 0.5, and you say 0.8 Mpc"),
    ],
)
def test_headers_that_contradict(source, tmp_path, capsys, cards, redshift, words):
    folder, maps, order = source
    fits.PrimaryHDU(maps.read("sz", np.arange(40))[order], header(**cards)).writeto(tmp_path / "sz.fits")
    assert main(["import", str(spec(folder, tmp_path, str(tmp_path / "sz.fits"), redshift=redshift))]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cards", "redshift", "note"),
    [
        ({"BUNIT": "uK", **SKY, "CDELT1": -arcsec(0.5) / 3600, "CDELT2": arcsec(0.5) / 3600}, 0.5, ""),
        ({**SKY, "CUNIT1": "arcsec", "CUNIT2": "arcsec", "CDELT1": -arcsec(1.2), "CDELT2": arcsec(1.2)}, 1.2, ""),
        ({"CD1_1": 0.48, "CD1_2": -0.64, "CD2_1": 0.64, "CD2_2": 0.48, "CUNIT1": "Mpc", "CUNIT2": "Mpc"}, 0, ""),
        ({**SKY, "CDELT1": -0.01, "CDELT2": 0.01}, 0, "so they are not compared"),
        ({"CDELT1": 3.0, "CDELT2": 3.0}, 0, "CDELT has no CUNIT"),
        ({**WHOLE, "CUNIT1": "Mpc/h", "CUNIT2": "Mpc/h"}, 0, "CUNIT 'Mpc/h' is no unit"),
        ({"BUNIT": "microkelvins or so"}, 0, "no unit that astropy knows"),
        ({}, 0, ""),
    ],
)
def test_headers_that_agree_or_cannot_be_compared(source, tmp_path, capsys, cards, redshift, note):
    folder, maps, order = source
    fits.PrimaryHDU(maps.read("sz", np.arange(40))[order], header(**cards)).writeto(tmp_path / "sz.fits")
    options = {"redshift": redshift, "cosmology": {**COSMOLOGY}}
    # the radii in the catalogue are those at z = 0, which only the comparison with the source would notice
    assert main(["import", str(spec(folder, tmp_path, str(tmp_path / "sz.fits"), **options))]) == 0
    same_sz(tmp_path, maps)
    said = capsys.readouterr().out
    assert note in said and ("note:" in said) == bool(note)


def test_files_that_are_no_images(source, tmp_path, capsys):
    folder, maps, order = source
    sz = maps.read("sz", np.arange(40))[order]
    path = tmp_path / "sz.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(sz, name="A"), fits.ImageHDU(sz, name="B")]).writeto(path)
    raw = path.read_bytes()
    for content, name, words in (
        (raw, str(path), "say which: sz.fits[A]"),
        (raw, f"{path}[C]", "no image in the extension 'C'"),
        (raw[: len(raw) // 2], f"{path}[B]", ""),
        (b"SIMPLE", str(path), "not a whole FITS file"),
    ):
        path.write_bytes(content)
        capsys.readouterr()
        assert main(["import", str(spec(folder, tmp_path, name))]) == 2
        line = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(line) == 1 and words in line[0], line
