"""Projecting a snapshot of 5x10^9 rows of each kind, almost none ever written: the maps are those of the written rows alone."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run

sys.path.append(str(ROOT / "benchmarks"))

from scaling import sparse

from hpcdiff.project.__main__ import main

WRITTEN = len(sparse.STARTS) * sparse.MEMBERS


def project(folder: Path, particles: str, memory: float = 1.0, ranks: int = 1) -> dict[str, bytes]:
    """The maps of `folder`/snapshot, of which no more rows are read than are written."""
    work = folder / f"{particles}{ranks}"
    config = sparse.write_config(work / "config.yaml", folder / "snapshot", particles, memory)
    if ranks == 1:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert main([str(config)]) == 0
        said = said.getvalue()
    else:
        done = run("project", config, ranks=ranks)
        assert done.returncode == 0, done.stderr
        said = done.stderr
    assert int(re.findall(r"/(\d+) \[[^]]*particles/s", said)[-1]) == 2 * WRITTEN // ranks
    return sparse.maps(work / "maps.h5")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[str, bytes]:
    """The maps of a snapshot that has the written rows and no others."""
    folder = tmp_path_factory.mktemp("small")
    sparse.write(folder / "snapshot", WRITTEN)
    return project(folder, "all")


@pytest.mark.parametrize(
    ("files", "chunked", "particles", "ranks", "memory"),
    [(1, True, "members", 1, 1.0), (3, False, "members", 1, 0.003), (1, True, "all", 1, 0.003), (3, False, "all", 2, 1.0)],
)
def test_maps_of_rows_beyond_32_bits(tmp_path, small, files, chunked, particles, ranks, memory):
    """Runs of rows across 2^31, 2^32 and the border of files; read by the catalogue's offsets, or by the snapshot's own cells."""
    assert sparse.write(tmp_path / "snapshot", sparse.ROWS, files, chunked, cells=True) < 8e6
    assert sparse.STARTS[3] < 2**32 < sparse.STARTS[3] + sparse.MEMBERS
    assert project(tmp_path, particles, memory, ranks) == small
