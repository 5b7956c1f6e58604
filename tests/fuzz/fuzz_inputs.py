"""One whole input of each kind, as small as can be, and the runs that read them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import signal
import sys
import tempfile
import types
from pathlib import Path

import h5py
import numpy as np
import safetensors.numpy

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / folder) for folder in (".", "snapshot", "snapshot/catalogues", "sample", "maps")]

import astropy.io.fits  # noqa: E402
import fake_catalogues  # noqa: E402
import tiny_box  # noqa: E402
from cluster_images import in_lengths, on_the_sky  # noqa: E402
from cluster_images import save as save_images  # noqa: E402
from conftest import make_maps  # noqa: E402
from dialect_files import MPC, MSUN, physical  # noqa: E402
from dialect_files import write as write_dialect  # noqa: E402
from exported import export  # noqa: E402
from fuzz_fork import in_fork  # noqa: E402

from hpcdiff.scout import SCOUT  # noqa: E402
from hpcdiff.sweep.members import expand, write_members  # noqa: E402
from hpcdiff.sweep.spec import read_sweep  # noqa: E402

CONFIG = """
run: {dir: RUN, seed: 5}
cosmology: {Ob0: 0.045}
simulate: {clusters: 12, mass_range: [1.5e14, 1.2e15]}
project: {npix: 8, width: 8.0, depth: 8.0, fields: [gas, dm, sz, xray], views: {sightlines: 1, axes: [z]}, split: {train: 1.0, val: 0.0, test: 0.0}}
task: {inputs: [sz, xray], outputs: [gas, dm], transform: asinh}
network: {channels: 4, multipliers: [1, 1], blocks: 1, dropout: 0.0}
diffusion: {precondition: edm, sigma_min: 0.002, sigma_max: 0.5}
train: {batch_size: 4, images: 8, precision: fp32, lr: 1.0e-3, ema: 0.9, checkpoint_every: 4, keep: 3}
sample: {sampler: heun, steps: 3, samples: 2, init: matched, batch_size: 4}
evaluate: {mass_bins: {low: [1.0e14, 4.0e14], high: [4.0e14, 1.2e15]}}
"""
DIALECTS = ("gadget2", "gadget4", "tng", "simba", "swift", "eagle")
CATALOGUES = {
    "hdf5": "halos.hdf5",
    "csv": "halos.csv",
    "subfind": "fof_subhalo_tab_099.hdf5",
    "eagle": "eagle_subfind_tab_028_z000p000.0.hdf5",
    "soap": "halo_properties_0077.hdf5",
    "rockstar": "out_99.list",
    "ahf": "run.z0.000.AHF_halos",
}
"""Formats of the halo catalogue, and the files' names."""


def main_of(stage: str):
    """The `main` of a stage or command."""
    import importlib

    return importlib.import_module(f"hpcdiff.{stage}.__main__").main


def without_pictures(stage: str, argv: list[str]) -> int:
    """A stage's exit status; nothing is drawn, which takes longer than all that is read."""
    if stage == "evaluate":
        import hpcdiff.evaluate.report as report

        report.write_figures_and_report = lambda config, maps, samples, metrics: None
    elif stage == "train":
        import hpcdiff.train.validation as validation

        validation.sample_pictures = lambda *a, **k: {}
    elif stage == "sample":
        import hpcdiff.sample.cluster.write as cluster

        cluster.draw = lambda posterior: types.SimpleNamespace(savefig=lambda buffer, format: buffer.write(b"a picture"))
    elif stage == "sweep":
        import hpcdiff.sweep.figure as table

        table.draw = lambda path, rows: None
    return main_of(stage)(argv)


def not_finite(made: list[Path]) -> str:
    """Whether what a stage has just made holds numbers that are none; empty if not."""
    for path in made:
        if path.name in ("maps.h5", "samples.h5"):
            with h5py.File(path, "r") as f:
                for field, data in f["fields" if path.name == "maps.h5" else "samples"].items():
                    if not np.isfinite(data[()]).all():
                        return f"{path.name} holds values of {field} that are not finite"
        if path.name == "out":
            for image in path.glob("*.fits"):
                if not np.isfinite(astropy.io.fits.getdata(image)).all():
                    return f"{image.name} is not finite"
        if path.name == "model":
            for name, tensor in safetensors.numpy.load_file(path / "model.safetensors").items():
                if not np.isfinite(tensor).all():
                    return f"the model's {name} is not finite"
    return ""


def warm() -> None:
    """Import what the stages import, so that a fork need not."""
    import matplotlib.pyplot  # noqa: F401
    import torch
    import torch._dynamo  # by the first step of an optimiser
    import torch.utils.tensorboard  # noqa: F401
    import tqdm

    import hpcdiff.evaluate.report
    import hpcdiff.evaluate.run
    import hpcdiff.maps.imports.work
    import hpcdiff.sample.cluster.command
    import hpcdiff.sample.cluster.posterior
    import hpcdiff.sample.cluster.resample
    import hpcdiff.sample.cluster.write
    import hpcdiff.sample.run
    import hpcdiff.sweep.figure
    import hpcdiff.sweep.gather
    import hpcdiff.train.loop  # noqa: F401

    edges = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0), indexing="ij"), -1) + 0.5
    for size in (1, 8):  # compiles: fine pixels or not
        hpcdiff.sample.cluster.resample.resample(np.ones((80, 80)), size * edges)
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # a thread that a fork would lose
    for stage in ("simulate", "project", "train", "sample", "evaluate", "maps", "sweep"):
        main_of(stage)


def whole(folder: Path) -> Path:
    """Write one of each kind into a folder; every one of them is accepted, which is asserted.

    Layout: `config.yaml`, `snapshot/<dialect>.hdf5`, `halos/<name>`, `full/` a finished run, `half/` a projection, finished and unfinished.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    _snapshots(folder / "snapshot")
    _catalogues(folder / "halos")
    for code in DIALECTS:
        (folder / code).mkdir()
        where = [f"project.snapshot={folder / 'snapshot' / f'{code}.hdf5'}", f"project.halos={folder / 'snapshot' / 'halos40.hdf5'}"]
        stage(folder, folder / code, "project", *where)
        shutil.rmtree(folder / code)
    (folder / "any").mkdir()
    for name in CATALOGUES.values():
        stage(
            folder,
            folder / "any",
            "project",
            f"project.snapshot={folder / 'snapshot' / 'box100.hdf5'}",
            f"project.halos={folder / 'halos' / name}",
            "--overwrite",
        )
    half = folder / "half"
    half.mkdir()
    where = [f"project.snapshot={folder / 'snapshot' / 'box100.hdf5'}", f"project.halos={folder / 'halos' / 'halos.hdf5'}"]
    stage(folder, half, "project", *where)
    shutil.copyfile(half / "maps.h5", half / "maps.h5.partial")
    with h5py.File(half / "maps.h5.partial", "r+") as f:  # as if it had been killed before the last views
        for data in f["fields"].values():
            data[3:] = 0
    full = folder / "full"
    full.mkdir()
    make_maps(full / "maps.h5", halos=14, npix=8)
    stage(folder, full, "train")
    stage(folder, full, "sample")
    stage(folder, full, "evaluate")
    _foreign(folder)
    return folder


def stage(folder: Path, run_dir: Path, name: str, *more: str) -> None:
    """Run a stage of the whole inputs in a fork, so that no thread of it stays behind here."""
    argv = [str(folder / "config.yaml"), f"run.dir={run_dir}", *more]
    done = in_fork(lambda: main_of(name)(argv), run_dir, run_dir, folder.parent / "log", seconds=100)
    assert not done.fault and done.status == 0, (name, done.status, done.fault, done.stderr)


def _foreign(folder: Path) -> None:
    """Images of one cluster, images and a table to be imported, a sweep of which one member is done; each is accepted."""
    full, run_dir = folder / "full", folder / "any"
    for kind, (header, u, v) in {"sky": on_the_sky(pixel=0.6, npix=34), "lengths": in_lengths(pixel=0.6, npix=34)}.items():
        (folder / "cluster" / kind).mkdir(parents=True)
        for field, path in save_images(folder / "cluster" / kind, header, u, v).items():
            path = path.rename(folder / "cluster" / f"{field}_{kind}.fits")
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        words = [word for field in ("sz", "xray") for word in (f"--{field}", str(folder / "cluster" / f"{field}_{kind}.fits"))]
        where = [f"run.model={full / 'model'}", f"run.maps={full / 'maps.h5'}", "--out", str(run_dir / "out"), "--overwrite"]
        stage(folder, run_dir, "sample", *words, *where)
    (folder / "elsewhere").mkdir()
    export(folder / "elsewhere", axes=1, halos=6, npix=8)
    (folder / "elsewhere" / "maps.h5").unlink()
    for name in ("gas", "xray"):
        stack = np.load(folder / "elsewhere" / f"{name}.npy")
        (folder / "elsewhere" / f"{name}.npy").unlink()
        for n in range(6) if name == "xray" else ():
            astropy.io.fits.PrimaryHDU(stack[n]).writeto(folder / "elsewhere" / f"one_{n}.fits")
        if name == "gas":
            astropy.io.fits.PrimaryHDU(stack).writeto(folder / "elsewhere" / "gas.fits")
    text = f"base: {folder / 'config.yaml'}\ndir: SWEEP\nmaps: {full / 'maps.h5'}\nvary: {{run.seed: [0, 1], train.lr: [1.0e-3]}}\n"
    (folder / "sweep.yaml").write_text(text + "members: [{run.seed: 3, train.lr: 2.0e-3}]\n")
    (folder / "s.yaml").write_text((folder / "sweep.yaml").read_text().replace("SWEEP", str(folder / "sweep")))
    spec = read_sweep(folder / "s.yaml")
    members = expand(spec)
    write_members(spec, members)
    for done in members[:2]:
        for name in (
            "metrics.json",
            "stats.jsonl",
            "train.status.json",
            "sample.status.json",
            "evaluate.status.json",
            "samples.h5",
            "model",
        ):
            link_or_copy(full / name, done.folder / name)


def _snapshots(folder: Path) -> None:
    """Clumps that weigh what the catalogues say: of six clusters in a box of 100 Mpc, and in each dialect of four in one of 40 Mpc."""
    folder.mkdir()
    rng = np.random.default_rng(4)
    which = np.arange(300) % 6
    near = (fake_catalogues.POSITION[which] + rng.normal(0, 0.4, (300, 3))) % fake_catalogues.BOX
    gas, dark = (
        {"Coordinates": near, "Masses": part * fake_catalogues.M200M[which] / 50, "SmoothingLength": np.full(300, 0.6)}
        for part in (0.15, 0.85)
    )
    gas |= {"Density": np.full(300, 1e-28), "InternalEnergy": np.full(300, 1e5), "ElectronAbundance": np.full(300, 1.1)}
    tiny_box.write_snapshot(folder / "box100.hdf5", {0: gas, 1: dark}, BoxSize=fake_catalogues.BOX * 1e3 * tiny_box.H)
    centres = np.array([[8.0, 8, 8], [30, 8, 20], [8, 30, 30], [30, 30, 10]])
    tiny_box.write_halos(folder / "halos40.hdf5", centres)
    data = physical(0.0, n=200)
    for kind, part in (("gas", 0.15), ("dm", 0.85), ("star", 0.01)):
        data[kind]["position"] = (centres[np.arange(200) % 4] + rng.normal(0, 0.4, (200, 3))) % 40
        data[kind] |= {"mass": np.full(200, part * 2e14 / 50), "h": np.full(200, 0.5)}
    data["gas"]["density"] = 3 * data["gas"]["mass"] * MSUN / (4 * np.pi * (0.5 * MPC / 2) ** 3)
    for code in DIALECTS:
        write_dialect(code, folder / f"{code}.hdf5", data=data)
        with h5py.File(folder / f"{code}.hdf5", "r+") as f:  # the writers' dark matter weighs 5e9 where the table says it
            table = np.array(f["Header"].attrs["MassTable"], float)
            table[1] *= data["dm"]["mass"][0] / 5e9
            f["Header"].attrs["MassTable"] = table


def _catalogues(folder: Path) -> None:
    folder.mkdir()
    f = fake_catalogues
    columns = {"mass_200m": f.M200M, "radius_200m": f.radii(0.0)["R200m"], "richness": np.arange(6.0)}
    for suffix in ("hdf5", "csv"):
        tiny_box.write_halos(folder / f"halos.{suffix}", f.POSITION, **columns)
    for name, write in (("subfind", f.write_subfind), ("eagle", f.write_eagle)):
        write(folder / name)
        shutil.move(folder / name / CATALOGUES[name], folder / CATALOGUES[name])
        shutil.rmtree(folder / name)
    with h5py.File(folder / CATALOGUES["subfind"], "r+") as file:  # as many members as box100 has particles
        lengths = np.zeros((7, 6), np.int32)
        lengths[:, :2] = 40
        file["Group/GroupLenType"][...] = lengths
    f.write_soap(folder / CATALOGUES["soap"])
    f.write_rockstar(folder / CATALOGUES["rockstar"])
    f.write_ahf(folder / CATALOGUES["ahf"])


def link_or_copy(source: Path, target: Path) -> None:
    """A file or folder for a case of its own; small, so it is copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def warm_kernels(folder: Path) -> None:
    """Let numba load what projection needs, here and not in every fork."""
    where = [f"project.snapshot={folder / 'snapshot' / 'box100.hdf5'}", f"project.halos={folder / 'halos' / 'halos.hdf5'}"]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with (
        tempfile.TemporaryDirectory() as run_dir,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        assert main_of("project")([str(folder / "config.yaml"), f"run.dir={run_dir}", *where]) == 0, said.getvalue()
    SCOUT.rest()
    for number, handler in before.items():
        signal.signal(number, handler)
    assert len(threads := os.listdir("/proc/self/task")) == 1, f"{len(threads)} threads are alive, which a fork would lose"
