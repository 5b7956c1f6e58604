"""A run folder with fake clusters and a posterior whose calibration is known: files only, as the stages would leave them."""

import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import yaml

from hpcdiff.config import read_config
from hpcdiff.evaluate.__main__ import main
from hpcdiff.evaluate.inputs import open_inputs
from hpcdiff.evaluate.run import measure
from hpcdiff.maps import UNITS, MapFile, MapWriter
from hpcdiff.world import World

WIDTH = 12.8
# every third halo is tested, some on the edges of the bins: 6e14 belongs to `high`, 1e15 closes it
TESTED = [1.5e14, 2e14, 3e14, 8e14, 6e14, 7e14, 1e15, 1.2e15, 4e14, 5e14]
MASS = [m for n, light in enumerate(np.geomspace(1.2e14, 9e14, 10)) for m in (TESTED[n], light, light * 1.4)]
EVALUATED = []


def smooth(rng, n, npix, scale):
    """n Gaussian random maps of unit variance, smoothed over `scale` pixels."""
    k = np.fft.fftfreq(npix)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    x = np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, npix, npix))) * np.exp(-2 * np.pi**2 * k2 * scale**2)).real
    return x / x.std(axis=(1, 2), keepdims=True)


def clusters(rng, mass, npix):
    """Elliptical clusters with lumps: ({field: maps}, known part {gas, dm}, scatter {gas, dm})."""
    x = (np.arange(npix) - (npix - 1) / 2) * WIDTH / npix
    out = {f: [] for f in ("gas", "dm", "sz", "xray", "known_gas", "known_dm", "scatter")}
    for m in mass:
        q, angle = rng.uniform(0.6, 1), rng.uniform(0, np.pi)
        r200 = 1.43 * (m / 1e14) ** (1 / 3)
        total = np.zeros((npix, npix))
        lumps = [(0.0, 0.0, 1.0)] + [(*rng.normal(0, r200 / 2, 2), rng.uniform(0.02, 0.2)) for _ in range(rng.integers(1, 6))]
        for cx, cy, w in lumps:
            a = (x[:, None] - cx) * np.cos(angle) + (x[None, :] - cy) * np.sin(angle)
            b = -(x[:, None] - cx) * np.sin(angle) + (x[None, :] - cy) * np.cos(angle)
            core = r200 / 6 * w ** (1 / 3)
            total += w ** (1 / 3) * 60 * (m / 1e14) ** (1 / 3) * (1 + (a * a + b * b / q**2) / core**2) ** -1.2
        gas = 0.5 * total**0.95 + 1
        out["known_gas"].append(gas)
        out["known_dm"].append(total + 1)
        temperature = (m / 1e14) ** (2 / 3) * rng.lognormal(0, 0.05)
        out["sz"].append(gas * temperature * 0.5)
        out["xray"].append(gas**2 * 1e-7 * np.sqrt(temperature))
        out["scatter"].append(1.0)
    out = {k: np.array(v) for k, v in out.items()}
    noise = {f: smooth(rng, len(mass), npix, 1.5) * s * out[f"known_{f}"] for f, s in (("gas", 0.03), ("dm", 0.15))}
    out["gas"], out["dm"] = out["known_gas"] + noise["gas"], out["known_dm"] + noise["dm"]
    return out


def write_run(folder, halos=30, views=3, npix=32, samples=10, seed=1, mass=None, shuffle=None, **attributes):
    """Write `maps.h5`, `samples.h5` and `config.yaml` below `folder`; the path of the config.

    The posterior is exact: truth and samples scatter alike about the known part, given the view.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    mass = rng.permutation(np.geomspace(1.2e14, 1.5e15, halos)) if mass is None else np.asarray(mass)
    halos = len(mass)
    n = halos * views
    each = np.repeat(mass, views)
    data = clusters(rng, each, npix)
    halo = np.repeat(np.arange(halos), views)
    part = np.where(halo % 3 == 0, 2, np.where(halo % 7 == 1, 1, 0)).astype(np.int8)
    catalog = {
        "halo_id": halo,
        "mass_200m": each,
        "radius_200m": 1.43 * (each / 1e14) ** (1 / 3),
        "sightline": np.tile([0.0, 0, 1], (n, 1)),
        "sightline_index": np.zeros(n, int),
        "axis": np.tile(np.arange(views) % 3, halos),
        "split": part,
        "frame": np.tile(np.eye(3), (n, 1, 1)),
        "width_mpc": np.full(n, WIDTH),
        "depth_mpc": np.full(n, WIDTH),
        "redshift": np.zeros(n),
        "position": np.zeros((n, 3)),
        "group": halo,
    }
    fields = ("gas", "dm", "sz", "xray")
    provenance = json.dumps({"engine": "fake clusters"})
    root = {"config": "{}", "provenance": provenance, "inputs": "{}", "h": 0.7, "Om0": 0.3, "Ob0": 0.045, "width_mpc": WIDTH}
    writer = MapWriter(folder / "maps.h5", World(), catalog, {f: {"units": UNITS[f]} for f in fields}, npix, root)
    writer.write(0, {f: data[f].astype("<f4") for f in fields})
    writer.finish()
    rows = np.flatnonzero(part == 2)
    with h5py.File(folder / "samples.h5", "w") as f:
        f.attrs.update({"format": "hpcdiff-samples", "version": 1, "config": "{}", "provenance": "{}", "sampler": "dpmpp_2m_sde"})
        f.attrs.update({"steps": 18, "nfe": 35, "seed": 0, "model": "0" * 64})
        f.attrs["inputs"] = json.dumps({"maps": MapFile(folder / "maps.h5").fingerprint, "model": "0" * 64})
        f.attrs.update(attributes)
        f["catalog/view"] = rows.astype(np.int64)
        source = rows if shuffle is None else np.roll(rows, shuffle * views)
        for field, s in (("gas", 0.03), ("dm", 0.15)):
            known = np.repeat(data[f"known_{field}"][source], samples, 0)
            x = known * (1 + s * smooth(rng, len(known), npix, 1.5))
            f[f"samples/{field}"] = x.reshape(len(rows), samples, npix, npix).astype("<f4")
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"dir": str(folder)}, "project": {"npix": npix}}))
    return folder / "config.yaml"


def evaluated_run(factory):
    """The folder of one whole run, evaluated by one process, with the training's statistics; made once, nobody changes it."""
    if not EVALUATED:
        folder = factory.mktemp("evaluated") / "run"
        config = write_run(folder, mass=MASS, views=2)
        lines = [{"images": n, "loss": 1 / n, "lr": 1e-3, "gradient_norm": None} for n in (100, 200, 300)]
        lines[1]["validation_loss"] = 0.25
        (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"images": 400, "lo')
        assert main([str(config)]) == 0
        EVALUATED.append(folder)
    return EVALUATED[0]


def copied(run, folder, names=("maps.h5", "samples.h5")):
    """Files of a run in a folder of their own, with a config; the folder."""
    for name in names:
        shutil.copy(run / name, folder / name)
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"dir": str(folder)}}))
    return folder


def measured(folder, *overrides):
    """The metrics alone, without pictures."""
    config = read_config(folder / "config.yaml", list(overrides))
    return measure(config, World(), *open_inputs(config), {})


def torchrun(ranks, *words):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run([*launch, *words], capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


def one_line(capsys):
    """The one line that says what is wrong."""
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "error:" in line or "Traceback" in line]
    assert len(lines) == 1, lines
    return lines[0]
