"""Files that are missing, damaged, foreign or of something else: one line, status 2; and samples in shards."""

import json
import shutil

import h5py
import numpy as np
import pytest
from fake_run import copied, evaluated_run, measured, one_line, torchrun

from hpcdiff.config import read_config
from hpcdiff.evaluate.__main__ import main
from hpcdiff.evaluate.inputs import open_inputs
from hpcdiff.samples import SHARD_FORMAT, checksum
from hpcdiff.world import World


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory)


@pytest.fixture
def copy(run, tmp_path):
    return copied(run, tmp_path)


def truncate(path):
    with open(path, "r+b") as f:
        f.truncate(path.stat().st_size // 2)


def edit(change):
    def on(folder):
        with h5py.File(folder / "samples.h5", "r+") as f:
            change(f)

    return on


def put(name, index, value):
    def change(f):
        f[name][index] = value

    return edit(change)


def replace(name, value):
    def change(f):
        del f[name]
        f[name] = value

    return edit(change)


def unfinished(folder):
    (folder / "samples.h5").unlink()
    (folder / "samples.partial").mkdir()


def in_shards(folder, spoil):
    """The samples moved into two shards under a virtual dataset, as sampling leaves them; then one of them is spoilt."""
    shards = folder / "samples.shards"
    shards.mkdir()
    with h5py.File(folder / "samples.h5") as f:
        views, attributes = f["catalog/view"][:], dict(f.attrs)
        maps = {name: f["samples"][name][:] for name in f["samples"]}
    n, s, npix, _ = maps["gas"].shape
    layouts, table = {name: h5py.VirtualLayout(m.shape, "<f4") for name, m in maps.items()}, []
    for part in (slice(0, n // 2), slice(n // 2, n)):
        rows = views[part]
        name, columns = f"part-{rows[0]}.h5", (np.repeat(rows, s), np.tile(np.arange(s), len(rows)))
        flat = {field: m[part].reshape(-1, npix, npix) for field, m in maps.items()}
        with h5py.File(shards / name, "w") as f:
            f.attrs["format"] = SHARD_FORMAT
            f["catalog/view"], f["catalog/sample"] = columns
            for field, m in flat.items():
                f[f"samples/{field}"] = m
                source = h5py.VirtualSource(f"samples.shards/{name}", f"samples/{field}", m.shape, "<f4")
                layouts[field][part] = source
        table.append((name, (shards / name).stat().st_size, checksum(*columns, flat)))
    (folder / "samples.h5").unlink()
    with h5py.File(folder / "samples.h5", "w") as f:
        f.attrs.update(attributes)
        f["catalog/view"] = views
        for field, layout in layouts.items():
            f.create_virtual_dataset(f"samples/{field}", layout, fillvalue=np.nan)
        names, sizes, crcs = zip(*table, strict=True)
        f["shards/name"] = np.array(names, h5py.string_dtype())
        f["shards/bytes"], f["shards/crc32"] = np.array(sizes, np.int64), np.array(crcs, np.uint32)
    spoil(sorted(shards.iterdir())[1])


def damage(path):
    """One bit of one map."""
    with h5py.File(path, "r+") as f:
        f["samples/gas"][7, 3, 3] *= 2


def test_samples_in_shards_are_the_same_samples(run, copy):
    in_shards(copy, lambda path: None)
    assert measured(copy)["calibration"] == json.loads((run / "metrics.json").read_text())["calibration"]
    config = read_config(copy / "config.yaml", [])
    fingerprint = open_inputs(config)[1].fingerprint(World())
    assert fingerprint == json.loads((run / "metrics.json").read_text())["inputs"]["samples"]


BAD = {
    "shard missing": (lambda d: in_shards(d, lambda path: path.unlink()), "a shard of"),
    "shard truncated": (lambda d: in_shards(d, truncate), "bytes, not"),
    "shard damaged": (lambda d: in_shards(d, damage), "checksum"),
    "no samples": (lambda d: (d / "samples.h5").unlink(), "samples file is not there"),
    "sampling unfinished": (unfinished, "sampling is not finished"),
    "empty samples": (lambda d: (d / "samples.h5").write_bytes(b""), "not a whole HDF5"),
    "text for samples": (lambda d: (d / "samples.h5").write_text("samples"), "not a whole HDF5"),
    "truncated samples": (lambda d: truncate(d / "samples.h5"), "samples"),
    "no maps": (lambda d: (d / "maps.h5").unlink(), "map file is not there"),
    "truncated maps": (lambda d: truncate(d / "maps.h5"), "map file"),
    "maps for samples": (lambda d: shutil.copy(d / "maps.h5", d / "samples.h5"), "not a samples file"),
    "samples for maps": (lambda d: shutil.copy(d / "samples.h5", d / "maps.h5"), "not a map file"),
    "other maps": (edit(lambda f: f.attrs.modify("inputs", '{"maps": "deadbeef"}')), "another map file"),
    "inputs not JSON": (edit(lambda f: f.attrs.modify("inputs", "{")), "not JSON"),
    "unknown field": (edit(lambda f: f.move("samples/dm", "samples/star")), "star"),
    "missing field": (edit(lambda f: f.pop("samples/dm")), "task.outputs names gas, dm"),
    "missing views": (edit(lambda f: f.pop("catalog/view")), "samples file"),
    "view out of range": (put("catalog/view", -1, 10**6), "outside the map file"),
    "negative view": (put("catalog/view", 0, -1), "outside the map file"),
    "view twice": (put("catalog/view", 1, 0), "twice"),
    "not finite": (put("samples/dm", (3, 2, 1, 1), np.nan), "not finite"),
    "too few rows": (replace("samples/gas", np.zeros((3, 10, 32, 32), "f4")), "shape (3, 10, 32, 32)"),
    "not four axes": (replace("samples/gas", np.zeros((20, 32, 32), "f4")), "shape"),
    "no sample a view": (edit(lambda f: empty(f)), "shape (20, 0, 32, 32)"),
    "other pixels": (edit(lambda f: shrink(f)), "16 pixels"),
}


def empty(f):
    for field in ("gas", "dm"):
        del f["samples"][field]
        f["samples"][field] = np.zeros((20, 0, 32, 32), "f4")


def shrink(f):
    for field in ("gas", "dm"):
        small = f["samples"][field][:, :, :16, :16]
        del f["samples"][field]
        f["samples"][field] = small


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(copy, capsys, case):
    spoil, words = BAD[case]
    spoil(copy)
    assert main([str(copy / "config.yaml")]) == 2
    assert words in one_line(capsys)
    assert json.loads((copy / "evaluate.status.json").read_text())["exit"] == 2
    assert not any((copy / name).exists() for name in ("metrics.json", "report.html", "figures"))


@pytest.mark.parametrize("words", [("task.inputs=[sz,temperature]",), ("task.outputs=[gas]",)])
def test_fields_that_the_files_do_not_hold(copy, capsys, words):
    assert main([str(copy / "config.yaml"), *words]) == 2
    assert words[0].split("=")[0] in one_line(capsys)


def test_bad_input_under_torchrun_ends_every_rank_with_one_line(copy):
    BAD["not finite"][0](copy)
    done = torchrun(2, "-m", "hpcdiff.evaluate", str(copy / "config.yaml"))
    assert done.stderr.count("hpcdiff evaluate: error:") == 1 and "not finite (view" in done.stderr
    assert json.loads((copy / "evaluate.status.json").read_text())["exit"] == 2
