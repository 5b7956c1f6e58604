"""Training data on several ranks: the same bytes, one copy in memory, nothing left behind."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import LAUNCHERS, ROOT, environment, kill, make_maps

SCRIPT = Path(__file__).with_name("data_ranks.py")
SETTINGS = ["task.transform={sz: asinh, xray: log10 standard, gas: 4sigma}", "train.map_weights=[1, 2]", "observe.sz={noise: 3.0}"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    make_maps(folder / "a.h5", halos=90, npix=16, axes=3)
    make_maps(folder / "b.h5", halos=60, npix=16, seed=1)
    (folder / "c.yaml").write_text(f"run: {{dir: {folder}, maps: [{folder}/a.h5, {folder}/b.h5]}}\n")
    return folder / "c.yaml"


def started(ranks, *arguments):
    kind = "alone" if ranks == 1 else "torchrun"
    command = [*LAUNCHERS[kind](ranks), str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def lines_of(ranks, *arguments):
    process = started(ranks, *arguments)
    try:
        out, _ = process.communicate(timeout=120)
    finally:
        kill(process)
    lines = sorted(line.split() for line in out.splitlines() if line.startswith("rank "))
    assert [line[1] for line in lines] == [str(r) for r in range(ranks)], out
    return lines


def named_memory():
    return {name for name in os.listdir("/dev/shm") if name.startswith("hpcdiff-")}


def test_ranks_get_the_same_bytes_from_one_copy_in_memory(config):
    alone = lines_of(1, config, "digest", *SETTINGS)
    assert len(alone[0]) == 5, "one process alone needs no name in /dev/shm"
    two = lines_of(2, config, "digest", "train.stage=shared", *SETTINGS)
    three = lines_of(3, config, "digest", "train.stage=none", *SETTINGS)
    assert {line[3] for line in (*alone, *two, *three)} == {alone[0][3]}
    assert two[0][5] == two[1][5] and all(len(line) == 5 for line in three)


@pytest.mark.parametrize("mode", ["hold", "fill"])
def test_a_killed_run_leaves_no_memory_behind(config, mode):
    before = named_memory()
    process = started(2, config, mode, "train.stage=shared")
    try:
        words = [process.stdout.readline() for _ in range(2)]
        assert all("holds" in w or "fills" in w for w in words), words
        during = named_memory() - before
    finally:
        kill(process)
    assert not during and not named_memory() - before


def test_damage_that_one_rank_meets_is_said_on_every_rank(config, tmp_path):
    make_maps(tmp_path / "a.h5", halos=150, npix=16)
    with h5py.File(tmp_path / "a.h5", "r+") as f:
        row = np.flatnonzero(f["catalog/split"][:] == 0)[-1]
        f["fields/gas"][row, 3, 3] += 1
    lines = lines_of(2, config, "digest", f"run.maps={tmp_path}/a.h5")
    assert {" ".join(line[2:]) for line in lines} == {" ".join(lines[0][2:])}
    assert "1 views differ from their checksum" in " ".join(lines[0]) and str(row) in " ".join(lines[0])
