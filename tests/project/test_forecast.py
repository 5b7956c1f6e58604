"""What --dry-run foretells, against what the run then finds."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from test_project import CENTRES
from tiny_box import particles, write_config, write_halos, write_snapshot

from hpcdiff.project.__main__ import main
from hpcdiff.project.forecast import neighbour_search, ranks_of_launcher
from hpcdiff.snapshot.nearest import Search
from hpcdiff.world import join_world


@pytest.fixture
def config(tmp_path) -> str:
    """Nine halos, three views each."""
    write_snapshot(tmp_path / "s.hdf5", particles(centres=CENTRES))
    write_halos(tmp_path / "halos.hdf5", CENTRES)
    keys = {"split": {"train": 1.0, "val": 0.0, "test": 0.0}}
    return str(write_config(tmp_path / "c.yaml", tmp_path / "run", tmp_path / "s.hdf5", tmp_path / "halos.hdf5", **keys))


def said(pattern: str, text: str) -> float:
    """The number that stands in the place of the group."""
    return float(re.search(pattern, text)[1])


@pytest.mark.parametrize("keys", [(), ("project.width=4", "project.depth=12"), ("project.views.sightlines=3",)])
def test_particles_and_views_are_foretold(config, capsys, keys):
    """Within a factor of two: the box is three parts clumps that look as the forecast assumes, one part uniform."""
    assert main([config, *keys, "--dry-run"]) == 0
    before = capsys.readouterr().out
    assert not Path(config).with_name("run").exists()
    assert main([config, *keys]) == 0
    after = capsys.readouterr().out
    pattern = r"([\d.e+]+) kB of particles"
    assert 0.5 < said(pattern, before) / said(pattern, after) < 2
    assert "9000 to read" in before and "1 pass," in before and " s a TB" in before


def test_less_memory_and_more_ranks_are_foretold(config, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "3")
    assert ranks_of_launcher() == 3
    assert main([config, "project.memory_gb=0.001", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "plan: 3 ranks" in out and "on 3 ranks" in out and said(r"ranks, (\d+) passes", out) > 1


def test_the_same_work_on_more_ranks_takes_less_time(config, capsys, monkeypatch):
    seconds = []
    for ranks in (1, 3):
        monkeypatch.setenv("SLURM_NTASKS", str(ranks))
        assert main([config, "project.npix=256", "--dry-run"]) == 0
        seconds.append(said(r"predicted [\d.]+, ([\d.]+) s", capsys.readouterr().out))
    assert np.divide(*seconds) == pytest.approx(3, rel=0.2)


def test_the_neighbour_search_is_foretold(config, capsys, monkeypatch):
    """Dark matter without smoothing lengths: its search is said, costs some ten microseconds a particle, and less on more ranks."""
    with h5py.File(Path(config).with_name("s.hdf5"), "r+") as f:
        n = len(f["PartType1/SmoothingLength"])
        del f["PartType1/SmoothingLength"]
    assert main([config, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert said(r"neighbours of (\d+) particles", out) == n and "smoothing lengths of dm" in out and "of gas" not in out
    assert said(r"forecast: ([\d.e-]+) s to find neighbours", out) == pytest.approx(1.1e-5 * n, rel=0.1)
    assert "in about 1 turn, positions read 1 time (" in out
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert main([config, "project.memory_gb=0.00075", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert said(r"forecast: ([\d.e-]+) s to find neighbours", out) == pytest.approx(0.55e-5 * n, rel=0.15)
    assert said(r"in about (\d+) turns", out) > 1


@pytest.mark.parametrize("memory", [1.0, 0.008])
def test_turns_and_reads_are_those_of_the_search(monkeypatch, memory):
    """What the search does, counted: turns of one rank, and positions read; domains come in halves, so there may be some more."""
    x, read, turns, turn = np.random.default_rng(0).uniform(0, 40, (40_000, 3)), [], [], Search._turn

    def positions(kind, start, stop):
        read.append(stop - start)
        return np.arange(start, stop), x[start:stop]

    monkeypatch.setattr(Search, "_turn", lambda self, *a: (turns.append(1), turn(self, *a)))
    snapshot = SimpleNamespace(box=40.0, count=lambda kind: len(x), positions=positions, has_h={"gas": True, "dm": False})
    Search(snapshot, "dm", join_world("project"), memory).run(SimpleNamespace(update=lambda n: None))
    (line,) = neighbour_search(snapshot, ["gas", "dm"], memory, 1)[1]
    assert 1 <= len(turns) / said(r"about (\d+) turn", line) < (1.01 if memory == 1.0 else 2.5)
    assert 1 <= sum(read) / len(x) / said(r"read (\d+) time", line) < (1.01 if memory == 1.0 else 2.5)
    assert (len(turns) == 1) == (memory == 1.0)
