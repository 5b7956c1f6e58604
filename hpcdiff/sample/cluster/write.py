"""The files of one cluster's posterior: FITS maps with coordinates, masses as JSON and CSV. All appear together, or none does."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import numpy as np

from hpcdiff import __version__, files
from hpcdiff.errors import UserError
from hpcdiff.launch import provenance
from hpcdiff.maps import UNITS
from hpcdiff.sample.cluster.picture import draw
from hpcdiff.sample.cluster.posterior import Posterior
from hpcdiff.sections import FIELDS
from hpcdiff.world import World

FORMAT = "hpcdiff-cluster"
OURS = re.compile(rf"masses\.(json|csv)|cluster\.png|({'|'.join(FIELDS)})_(input|mean|std|samples)\.fits")
"""Names of what is written; all others are somebody else's."""
MASS_UNIT = "Msun / Mpc2"


def write(posterior: Posterior, out: str | Path, device: str = "cpu", precision: str = "fp32") -> None:
    """Write everything into a folder, which gets its name when it is whole.

    Args:
        posterior: of the cluster.
        out: the folder; it must not stand there, or hold nothing but an earlier posterior's files, which are replaced.
        device, precision: with which it was drawn, for the record.
    Raises:
        UserError: something else stands there.
    """
    refuse_foreign(out := Path(out))
    out = out.resolve()
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    files.remove(partial)
    files.make_folder(partial)
    try:
        about = describe(posterior, json.loads(provenance(World(), device=device, precision=precision)))
        for name, hdu in images(posterior, about).items():
            buffer = io.BytesIO()
            hdu.writeto(buffer, checksum=True)
            files.write_atomic(partial / name, buffer.getvalue())
        buffer = io.BytesIO()
        draw(posterior).savefig(buffer, format="png")
        files.write_atomic(partial / "cluster.png", buffer.getvalue())
        files.write_atomic(partial / "masses.csv", table(posterior))
        files.write_json(partial / "masses.json", about)
        files.sync(partial)
        if out.exists():
            os.replace(out, old)
        os.replace(partial, out)
        files.remove(old)
    finally:
        files.remove(partial)


def refuse_foreign(out: Path) -> None:
    """Raise a UserError if `out` is anything but a folder of ours, an empty one, or not there, or if it cannot be written."""
    place = out.resolve()
    if place in (here := Path.cwd().resolve(), *here.parents):
        raise UserError("the folder that you are in cannot be replaced", out, "name one below it in --out")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError("something else stands where the folder is to be written", out, "name another in --out")
    strange = sorted(p.name for p in out.iterdir() if not OURS.fullmatch(p.name)) if out.is_dir() else []
    if strange or (out.is_dir() and any(out.iterdir()) and not (out / "masses.json").exists()):
        raise UserError(f"the folder holds other files ({', '.join(strange[:3]) or 'FITS'})", out, "name another in --out")
    above = next(p for p in place.parents if p.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise UserError("the folder cannot be written there", out, "name another in --out")


def describe(posterior: Posterior, made: dict) -> dict:
    """What `masses.json` holds."""
    o, trained = posterior.observed, posterior.observed.trained
    return {
        "format": FORMAT,
        "version": 1,
        "settings": posterior.settings,
        "provenance": made,
        "inputs": o.sources,
        "redshift": o.redshift,
        "centre": {"ra_deg": o.grid.centre[0], "dec_deg": o.grid.centre[1]}
        if o.grid.celestial
        else {"x_mpc": o.grid.centre[0], "y_mpc": o.grid.centre[1]},
        "pixel_mpc": o.grid.pixel_mpc,
        "angular_distance_mpc": o.grid.distance_mpc,
        "training": {"redshift": list(trained.redshift), "depth_mpc": trained.depth_mpc},
        "outside_the_training_range": o.unlike,
        "notes": o.notes,
        "masses": posterior.masses,
    }


def table(posterior: Posterior) -> str:
    """What `masses.csv` holds: a row a radius and field."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["within", "radius_mpc", "field", "mass_p16_msun", "mass_p50_msun", "mass_p84_msun", "mass_mean_msun", "samples"])
    for name in ("R500c", "R200c"):
        part = posterior.masses[name]
        for field, m in part["mass_msun"].items():
            values = [part["radius_mpc"]["p50"], field, m["p16"], m["p50"], m["p84"], m["mean"], m["samples"]]
            rows.writerow([name, *("" if v is None else v if isinstance(v, (str, int)) else f"{v:.7g}" for v in values)])
    return text.getvalue()


def images(posterior: Posterior, about: dict) -> dict[str, object]:
    """{file name: astropy HDU}: the inputs on the grid, and of each output the mean, the spread and the samples, float32.

    Mass fields are in Msun/Mpc^2, others in the map file's units; the header's MEANSIG is what one unit of the map file's is.
    """
    o = posterior.observed
    out = {f"{field}_input.fits": _hdu(x, _unit(field), field, "input on the model's grid", about, o) for field, x in o.maps.items()}
    spread = posterior.std
    for field, x in posterior.samples.items():
        factor = o.trained.msun_per_mpc2(field, o.redshift)
        unit, scale = (_unit(field), 1.0) if factor is None else (MASS_UNIT, factor)
        maps = {"mean": (posterior.mean[field], "mean of the posterior")}
        if field in spread:
            maps |= {"std": (spread[field], "standard deviation of the posterior"), "samples": (x, "samples of the posterior")}
        for kind, (image, what) in maps.items():
            hdu = _hdu(np.asarray(image, np.float64) * scale, unit, field, what, about, o)
            if factor is not None:
                hdu.header["MEANSIG"] = (factor, "Msun/Mpc2: mean density times depth")
            out[f"{field}_{kind}.fits"] = hdu
    return out


def _unit(field: str) -> str:
    return {"dimensionless": "", "erg/s/cm^2": "erg / (s cm2)"}.get(UNITS[field], UNITS[field])


def _hdu(image: np.ndarray, unit: str, field: str, what: str, about: dict, observed):
    """One image, or a cube of samples, `[..., i, j]`; FITS has j along its second axis and i along its first."""
    from astropy.io import fits

    header = observed.grid.wcs().to_header()
    if image.ndim == 3:
        header["WCSAXES"] = 3
        header.update({"CTYPE3": "SAMPLE", "CRPIX3": 1.0, "CRVAL3": 0.0, "CDELT3": 1.0})
    header["BUNIT"] = unit
    header["FIELD"], header["CONTENT"] = field, what
    settings = about["settings"]
    for key, value, comment in (
        ("REDSHIFT", observed.redshift, "of the cluster"),
        ("PIXMPC", observed.grid.pixel_mpc, "side of a pixel, physical Mpc"),
        ("DISTMPC", observed.grid.distance_mpc, "angular-diameter distance, Mpc"),
        ("ZTRAIN0", observed.trained.redshift[0], "lowest redshift of the training maps"),
        ("ZTRAIN1", observed.trained.redshift[1], "highest redshift of the training maps"),
        ("SAMPLER", settings["sampler"], "of the posterior"),
        ("STEPS", settings["steps"], "noise levels"),
        ("NSAMPLES", settings["samples"], "posterior samples"),
        ("SEED", settings["seed"], "of the noise"),
        ("MODEL", settings["model"], ""),
        (
            "FAMILIAR",
            None if about["outside_the_training_range"] is None else not about["outside_the_training_range"],
            "inputs as in training?",
        ),
        ("CREATOR", f"hpcdiff {__version__}", ""),
        ("DATE", str(about["provenance"].get("time", ""))[:19], "UTC"),
    ):
        if value is not None:
            header[key] = (value, comment)
    for name, source in about["inputs"].items():
        header.add_history(_ascii(f"input {name}: {source['file']}, {source['bunit']}, SHA-256 {source['sha256']}"))
    for line in (*(f"outside the training range: {u}" for u in about["outside_the_training_range"] or ()), *about["notes"]):
        header.add_comment(_ascii(line))
    return fits.PrimaryHDU(np.ascontiguousarray(np.swapaxes(image, -1, -2), dtype=np.float32), header)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
