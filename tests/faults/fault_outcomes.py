"""Is it the same result? Has a finished piece been lost? Was it refused as the contract wants?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
from conftest import PACKAGE
from fault_harness import OWN, Ended

from hpcdiff import maps


def difference(stage: str, case: Path, base: Path, logs: bool = True) -> str | None:
    """What in the stage's outputs is not as in an undisturbed run; None if all is the same.

    Args:
        logs: compare the lines of `stats.jsonl` too.
    """
    final = {"simulate": "halos.hdf5", "project": "maps.h5", "train": "model", "sample": "samples.h5", "evaluate": "metrics.json"}[stage]
    if not (case / final).exists():
        return f"{final} is not there"
    if left := [name for name in OWN[stage] if "partial" in name and (case / name).exists()]:
        return f"{left[0]} was left"
    if stage == "simulate":
        names = sorted(p.name for p in (base / "snapshot").iterdir())
        if sorted(p.name for p in (case / "snapshot").iterdir()) != names:
            return "other chunks"
        pairs = [("halos.hdf5", ()), *((f"snapshot/{name}", ()) for name in names)]
        return next((f"{name}: {d}" for name, _ in pairs if (d := _hdf5(case / name, base / name))), None)
    if stage == "project":
        return _hdf5(case / final, base / final)
    if stage == "train":
        return _trained(case, base, logs)
    if stage == "sample":
        return _hdf5(case / final, base / final, ("shards",))
    if (case / final).read_bytes() != (base / final).read_bytes():
        return f"{final} has other bytes"
    for path in sorted((base / "figures").iterdir()):
        other = case / "figures" / path.name
        if not other.exists() or (path.suffix == ".csv" and path.stem != "training" and other.read_bytes() != path.read_bytes()):
            return f"figures/{path.name} is not there or has another content"
    return None if (case / "report.html").exists() else "report.html is not there"


def _hdf5(a: Path, b: Path, skipped: tuple[str, ...] = ()) -> str | None:
    try:
        return _unlike(a, b, skipped)
    except (OSError, RuntimeError, KeyError) as error:
        return f"it cannot be read ({error})"


def _unlike(a: Path, b: Path, skipped: tuple[str, ...]) -> str | None:
    with h5py.File(a) as f, h5py.File(b) as g:
        names: list[str] = []
        g.visit(names.append)
        theirs: list[str] = []
        f.visit(theirs.append)
        if names != theirs:
            return "other groups or datasets"
        for name in ("/", *names):
            if name.split("/")[0] in skipped:
                continue
            x, y = f[name], g[name]
            for key in set(x.attrs) | set(y.attrs):
                if key == "provenance":
                    continue
                if key not in x.attrs or key not in y.attrs or not np.array_equal(_text(x.attrs[key]), _text(y.attrs[key])):
                    return f"attribute {key} of {name}"
            if isinstance(x, h5py.Dataset) and (x.shape != y.shape or x[()].tobytes() != y[()].tobytes()):
                return f"dataset {name}"
    return None


def _text(value: object) -> object:
    """An attribute without the folder of the run and its provenance."""
    if isinstance(value, str):
        return re.sub(r"dir: \S+?(,|\}|$)", r"dir: X\1", value, flags=re.MULTILINE)
    return np.asarray(value)


def _trained(case: Path, base: Path, logs: bool) -> str | None:
    if (case / "model/model.safetensors").read_bytes() != (base / "model/model.safetensors").read_bytes():
        return "the weights have other bytes"
    both = []
    for folder in (case, base):
        content = json.loads((folder / "model/config.json").read_text())
        content["info"].pop("provenance")
        content["config"]["run"].pop("dir")
        for key in ("timeout", "first_timeout"):
            content["config"]["train"].pop(key)
        content.pop("sha256", None)
        both.append(content)
    if both[0] != both[1]:
        return "model/config.json has another content"
    if logs:
        a, b = ([json.loads(line)["images"] for line in (folder / "stats.jsonl").read_text().splitlines()] for folder in (case, base))
        if a != b:
            return f"stats.jsonl has images {a}, not {b}"
    return None if max(p.name for p in (case / "checkpoints").glob("[0-9]" * 12)) == "000000000048" else "the last checkpoint is not there"


def pieces(stage: str, case: Path, damaged: Path | None = None) -> dict:
    """What has been finished whole and must outlive a fault: {name: what shows that it was not made again}."""
    found: dict = {}
    if stage == "simulate":
        for folder in (case / "snapshot", case / "simulate.partial/snapshot"):
            found |= {p.name: _mark(p) for p in folder.glob("*.hdf5") if p != damaged}
    if stage == "sample":
        for folder in (case / "samples.shards", case / "samples.partial"):
            found |= {p.name: _mark(p) for p in folder.glob("part-*.h5") if p != damaged}
    if stage == "train":
        whole = [p.name for p in (case / "checkpoints").glob("[0-9]" * 12) if damaged is None or p not in damaged.parents]
        found = {"image": max(whole)} if whole else {}
    if stage == "project" and (partial := case / "maps.h5.partial").exists() and damaged != partial:
        with h5py.File(partial) as f:
            stored = f["catalog/checksum"][:]
            rows = np.flatnonzero(stored)
            found = {"views": int(maps.layout.intact(f, rows, stored[rows]).sum())}
    return found


def _mark(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def lost(stage: str, case: Path, before: dict, said: str) -> str | None:
    """Which finished piece the rerun has not taken up; None if it took all."""
    if stage in ("simulate", "sample") and before:
        now = pieces(stage, case)
        return next((f"{name} was made again or is gone" for name, mark in before.items() if now.get(name) != mark), None)
    if stage == "train" and before and "already trained" not in said:
        began = re.search(r"from image (\d+) to", said)
        if began is None or int(began[1]) < int(before["image"]):
            return f"training began at {began and began[1]}, and a checkpoint of image {int(before['image'])} was there"
    if stage == "project" and before.get("views") and "finished already" not in said:
        taken = re.search(r"(\d+) of them from before", said)
        if taken is None or int(taken[1]) < before["views"]:
            return f"{before['views']} views were there, and {taken and taken[1]} were taken up"
    return None


def our_traceback(ended: Ended) -> str | None:
    """The last line of a traceback through this package, if one was printed."""
    if f'File "{PACKAGE}/' not in ended.out:
        return None
    lines = [line for line in ended.out.splitlines() if re.match(r"(\w+\.)*\w+(Error|Exception|Exit|Interrupt|Image)\b", line)]
    return lines[-1][:200] if lines else "Traceback"


def refusal_fault(stage: str, ended: Ended, case: Path, named: Path | None = None) -> str | None:
    """What is wrong with a refusal: not exit 2, not one line, a traceback, or the damaged file not named; None if it is as it should be."""
    status = json.loads((case / f"{stage}.status.json").read_text()) if (case / f"{stage}.status.json").exists() else {}
    if trace := our_traceback(ended):
        return f"traceback: {trace}"
    if len(ended.errors) != 1:
        return f"{len(ended.errors)} error lines"
    if not (set(ended.status) == {2} or status.get("exit") == 2):
        return f"exit {ended.status}"
    if named is not None:
        parts = named.relative_to(case).parts
        if not any(part in ended.errors[0] for part in parts):
            return f"{named.relative_to(case)} is not named: {ended.errors[0][:160]}"
    return None
