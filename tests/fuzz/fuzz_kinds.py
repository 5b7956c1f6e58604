"""The kinds of input: how one is mutated, and which stages then read it. A seed and a number name an input for ever."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fuzz_foreign
import fuzz_text
import h5py
from fuzz_case import Case
from fuzz_fork import Outcome
from fuzz_inputs import CATALOGUES, CONFIG, DIALECTS, link_or_copy

from hpcdiff.config import all_keys


def config(case: Case) -> None:
    """The YAML text and dotted overrides; nothing is done but read, checked and planned."""
    rng, path = case.rng, case.folder / "config.yaml"
    path.write_text(CONFIG.replace("RUN", "run"))
    words = [fuzz_text.mutate_override(rng, all_keys()) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    if not words or rng.random() < 0.5:
        case.mutate(path)
    case.what += f" overrides {[w[:80] for w in words]}"
    stage = rng.choice(["simulate", "project", "train", "sample", "evaluate"])
    words = [w for w in words if w]
    case.command(stage, str(path), *words, "--dry-run")


def catalogue(case: Case) -> None:
    """Each format of halo catalogue, projected with its snapshot."""
    name = case.rng.choice(list(CATALOGUES))
    path = case.folder / "in" / CATALOGUES[name]
    link_or_copy(case.base / "halos" / CATALOGUES[name], path)
    case.mutate(path)
    words = [f"project.catalog={name.replace('hdf5', 'hpcdiff').replace('eagle', 'subfind')}"] if case.rng.random() < 0.3 else []
    case.stage("project", f"project.snapshot={case.base / 'snapshot' / 'box100.hdf5'}", f"project.halos={path}", *words, *_check(case))


def snapshot(case: Case) -> None:
    """Each dialect of HDF5 snapshots."""
    name = case.rng.choice(["box100", "box100", *DIALECTS])
    path = case.folder / "in" / f"{name}.hdf5"
    link_or_copy(case.base / "snapshot" / f"{name}.hdf5", path)
    link_or_copy(path, case.folder / "other" / "whole.hdf5")
    case.mutate(path)
    halos = case.base / ("halos/halos.hdf5" if name == "box100" else "snapshot/halos40.hdf5")
    case.stage("project", f"project.snapshot={path}", f"project.halos={halos}", *_check(case))


def _check(case: Case) -> list[str]:
    return ["--check"] if case.rng.random() < 0.15 else []


def maps(case: Case) -> None:
    """A map file as every stage and command meets it, and the unfinished one that projection goes on with."""
    rng, path = case.rng, case.run / "maps.h5"
    what = rng.choice(["verify", "info", "clear", "train", "train", "sample", "sample", "evaluate", "project", "project", "finished"])
    case.what = what
    if what in ("project", "finished"):
        more = [f"project.snapshot={case.base / 'snapshot' / 'box100.hdf5'}", f"project.halos={case.base / 'halos' / 'halos.hdf5'}"]
        path = path.with_name("maps.h5.partial" if what == "project" else "maps.h5")
        link_or_copy(case.base / "half" / path.name, path)
        unseal(case, path)
        case.mutate(path, "h5")
        case.stage("project", *more)
        return
    link_or_copy(case.base / "full" / "maps.h5", path)
    unseal(case, path)
    case.mutate(path)
    if what in ("verify", "info"):
        case.command("maps", what, str(path))
    elif what == "clear":
        case.command("maps", "clear", str(path), *rng.choice([[], ["--rows", "0,3"]]))
    elif what == "train":
        case.stage("train", "train.images=4", "--dry-run") if rng.random() < 0.2 else case.stage("train", "train.images=4")
    else:
        for name in ("model", "samples.h5", "samples.shards")[: 1 if what == "sample" else 3]:
            link_or_copy(case.base / "full" / name, case.run / name)
        case.stage(what)


def unseal(case: Case, path: Path) -> None:
    """In half of the cases a map file without the catalogue's checksum, as another program may write it."""
    if case.rng.random() < 0.5:
        with h5py.File(path, "r+") as f:
            f.attrs.pop("crc32", None)


def samples(case: Case) -> None:
    """samples.h5, its shards, and the unfinished shards that sampling goes on with."""
    rng, full = case.rng, case.base / "full"
    for name in ("maps.h5", "model", "samples.h5", "samples.shards"):
        link_or_copy(full / name, case.run / name)
    what = rng.choice(["samples.h5", "samples.h5", "samples.h5", "shard", "unfinished", "unfinished", "own"])
    case.what = what
    shards = sorted((case.run / "samples.shards").glob("*.h5"))
    if what == "own":  # as another program may write it: the samples themselves
        with h5py.File(case.run / "samples.h5", "r+") as f:
            held = {name: f["samples"][name][:] for name in f["samples"]}
            del f["samples"], f["shards"]
            for name, values in held.items():
                f[f"samples/{name}"] = values
        shutil.rmtree(case.run / "samples.shards")
    if what == "unfinished":
        (case.run / "samples.h5").unlink()
        (case.run / "samples.shards").rename(case.run / "samples.partial")
        shard = sorted((case.run / "samples.partial").glob("*.h5"))
        case.mutate(rng.choice([*shard, case.run / "samples.partial" / "run.json"]))
        for path in shard[: rng.randrange(len(shard))]:
            path.unlink(missing_ok=True)
        case.stage("sample")
        return
    case.mutate(rng.choice(shards) if what == "shard" else case.run / "samples.h5")
    case.stage(rng.choice(["evaluate", "evaluate", "sample"]))


def checkpoint(case: Case) -> None:
    """The manifest and the tensors, with hashes that fit in half of the cases; training goes on from it, or from an older one."""
    rng, full = case.rng, case.base / "full"
    for name in ("maps.h5", "checkpoints"):
        link_or_copy(full / name, case.run / name)
    folders = sorted((case.run / "checkpoints").iterdir())
    newest = folders[-1]
    if rng.random() < 0.5:
        for folder in folders[:-1]:
            shutil.rmtree(folder)
    manifest = newest / "manifest.json"
    if rng.random() < 0.5:
        case.mutate(manifest)
    else:
        shard = rng.choice(sorted(newest.glob("*.safetensors")))
        case.mutate(shard)
        if rng.random() < 0.7:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                tree = json.loads(manifest.read_text())
                for entry in tree["files"]:
                    if entry["name"] == shard.name:
                        entry |= {"bytes": shard.stat().st_size, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
                manifest.write_text(json.dumps(tree))
                seal(manifest)
    if rng.random() < 0.7:
        seal(manifest)
    case.stage("train", "train.images=12")


def seal(path: Path) -> None:
    """Give a manifest the hash of its own text, where it is JSON that has one."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = path.read_text()
        own = json.loads(text)["sha256"]
        text = text.replace(own, "0" * 64, 1)
        path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1))
        case = json.loads(path.read_text())
        assert case["sha256"]


def model(case: Case) -> None:
    """config.json and the weights, with a hash that fits in most cases; samples are drawn with it."""
    rng, full = case.rng, case.base / "full"
    for name in ("maps.h5", "model"):
        link_or_copy(full / name, case.run / name)
    about, weights = case.run / "model" / "config.json", case.run / "model" / "model.safetensors"
    if rng.random() < 0.8:  # as another program may write it, without a hash of its own
        tree = json.loads(about.read_text())
        tree.pop("sha256", None)
        about.write_text(json.dumps(tree, indent=1))
    if rng.random() < 0.6:
        case.mutate(about)
    else:
        case.mutate(weights)
        if rng.random() < 0.8:
            tree = json.loads(about.read_text())
            tree["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
            about.write_text(json.dumps(tree))
    case.stage("sample")


KINDS: dict[str, Callable[[Case], None]] = {
    "config": config,
    "catalogue": catalogue,
    "snapshot": snapshot,
    "maps": maps,
    "samples": samples,
    "checkpoint": checkpoint,
    "model": model,
    "images": fuzz_foreign.images,
    "import": fuzz_foreign.imported,
    "sweep": fuzz_foreign.sweep,
}


def run_case(base: Path, work: Path, kind: str, seed: int, number: int) -> tuple[Case, Outcome]:
    """Make one input and run it."""
    case = Case(base, work, kind, seed, number)
    KINDS[kind](case)
    return case, case.execute()
