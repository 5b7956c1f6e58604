"""Support radii from the 64th neighbour: exact, the same for any ranks and memory, kept in a cache that is not trusted blindly."""

from __future__ import annotations

import subprocess

import h5py
import numpy as np
import pytest
from conftest import LAUNCHERS, ROOT, environment, kill
from tiny_box import BOX, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.errors import Stopped, UserError
from hpcdiff.snapshot import domains, nearest, open_snapshot, support_files, support_radii
from hpcdiff.world import World

N, LITTLE = 12000, 2.6e-3
"""Particles that need several domains in so little memory (GB)."""
SOME = slice(None, None, 15)
"""Rows compared with all others."""
SCRIPT = """
import sys
from pathlib import Path
from hpcdiff.cosmology import Background
from hpcdiff.snapshot import open_snapshot, support_radii
from hpcdiff.world import join_world
snapshot, path, memory = sys.argv[1:4]
support_radii(open_snapshot(snapshot, Background()), "dm", join_world("project"), Path(path), float(memory))
"""


class Points:
    """A snapshot of points in memory, of which some rows may be no particles; counts how often it is read."""

    def __init__(self, position: np.ndarray, box: float = 1.0, kept: np.ndarray | None = None) -> None:
        self.position, self.box, self.reads = position, box, 0
        self.kept = np.ones(len(position), bool) if kept is None else kept

    def count(self, kind: str) -> int:
        return len(self.position)

    def positions(self, kind: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        self.reads += 1
        index = start + np.flatnonzero(self.kept[start:stop])
        return index, self.position[index]

    def fingerprint(self, kinds: list[str]) -> str:
        return f"{kinds} {self.position.sum()}"


def clustered(n: int, seed: int = 0) -> np.ndarray:
    """Half in clumps, one of them about the corner of the unit box, half all over it; in no order."""
    rng = np.random.default_rng(seed)
    centres = np.concatenate([np.zeros((1, 3)), rng.uniform(0, 1, (4, 3))])
    near = centres[rng.integers(5, size=n // 2)] + rng.normal(0, 0.02, (n // 2, 3))
    return rng.permutation(np.concatenate([near, rng.uniform(0, 1, (n - n // 2, 3))]) % 1)


def brute(position: np.ndarray, box: float = 1.0, n: int = 64, rows: slice = slice(None)) -> np.ndarray:
    """Distance of some rows to their n-th other particle, or the furthest, from all pairs."""
    squared = np.zeros((len(position[rows]), len(position)))
    for axis in range(3):
        step = abs(position[rows, axis, None] - position[None, :, axis])
        squared += np.minimum(step, box - step) ** 2
    return np.sqrt(np.partition(squared, min(n, len(position) - 1), axis=1)[:, min(n, len(position) - 1)])


def found(tmp_path, points: Points, memory_gb: float = 4.0, **more) -> np.ndarray:
    return support_radii(points, "dm", World(), tmp_path / "smoothing.h5", memory_gb, **more).read(0, len(points.position))


def test_equal_to_all_pairs_whatever_the_memory(tmp_path):
    points = Points(clustered(N))
    whole = found(tmp_path, points)
    assert whole[SOME] == pytest.approx(brute(points.position, rows=SOME), rel=1e-6)
    rows = []
    query = nearest.Search._query
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest.Search, "_query", lambda self, table: rows.append(len(table)) or query(self, table))
        (tmp_path / "little").mkdir()
        pieces = found(tmp_path / "little", points, LITTLE)
    assert len(rows) > 4 and max(rows) * nearest.PARTICLE_BYTES < LITTLE * 1e9
    assert np.array_equal(pieces, whole)


def test_a_lattice(tmp_path):
    side = (np.arange(12) + 0.5) / 12
    lattice = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    radii = found(tmp_path, Points(7 * lattice, 7.0))
    assert radii == pytest.approx(7 * np.sqrt(6) / 12)  # shells of 6, 12, 8, 6, 24 and 24


@pytest.mark.parametrize("n", [1, 2, 40, 65, 66, 300])
def test_few_particles(tmp_path, n):
    position = np.random.default_rng(n).uniform(0, 1, (n, 3))
    expected = np.maximum(brute(position), 1e-6)
    assert found(tmp_path, Points(position)) == pytest.approx(expected, rel=1e-6)


def test_particles_at_one_point_and_lone_ones(tmp_path):
    rng = np.random.default_rng(3)
    clump = 0.3 + 0.01 * rng.normal(size=(3000, 3))
    position = np.concatenate([np.full((200, 3), 0.25), clump, [[0.8, 0.8, 0.8], [0.99, 0.01, 0.5]]])
    radii = found(tmp_path, Points(position))
    assert radii[:200] == pytest.approx(1e-6)
    assert radii[200:] == pytest.approx(brute(position)[200:], rel=1e-6)


def test_rows_that_are_no_particles_are_no_neighbours(tmp_path):
    position = clustered(1500, seed=4)
    kept = np.random.default_rng(4).uniform(size=1500) < 0.5
    radii = found(tmp_path, Points(position, kept=kept))
    assert radii[kept] == pytest.approx(brute(position[kept]), rel=1e-6) and not radii[~kept].any()


def test_the_reach_holds_in_the_worst_place():
    # 64 particles in the far corner of the block around the query's cell, and one a little nearer, beyond the block
    query, corner, beyond = np.array([7.999] * 3), np.array([6.001] * 3), np.array([7.999 + 3.4, 7.999, 7.999])
    points = np.concatenate([[query], np.tile(corner, (64, 1)), [beyond]])
    counts = np.bincount(domains.cell_of(points, 20.0, 20), minlength=8000).reshape(20, 20, 20)
    assert np.linalg.norm(beyond - query) < np.linalg.norm(corner - query)
    assert domains.reach(counts, 65)[7, 7, 7] >= int(beyond[0]) - 7
    assert domains.reach(counts, 67)[7, 7, 7] == domains.FAR


def test_a_domain_needs_every_image_within_reach():
    rng = np.random.default_rng(1)
    side = 7
    counts = rng.integers(0, 3, (side,) * 3)
    near = np.where(counts > 0, rng.integers(1, 4, counts.shape), 0).astype(np.int16)
    parts = domains.bisect(counts, 5)
    assert sum(counts[d.slices()].sum() for d in parts) == counts.sum()
    for domain in parts:
        cells, shift = domains.cells_needed(domain, counts, near)
        expected = set()
        for own in np.argwhere(near[domain.slices()] > 0) + domain.low:
            reach = near[tuple(own)]
            for step in np.ndindex(*[2 * reach + 1] * 3):
                at = own + step - reach
                if counts[tuple(at % side)]:
                    expected.add((*(at % side), *(at // side)))
        got = np.column_stack([*np.unravel_index(cells, counts.shape), shift])
        assert len(got) == len(expected) and set(map(tuple, got.tolist())) == expected


def test_too_little_memory_names_what_is_enough(tmp_path):
    points = Points(np.full((5000, 3), 0.5) + 1e-3 * np.random.default_rng(0).normal(size=(5000, 3)))
    with pytest.raises(UserError, match=r"project.memory_gb, give at least 0\.0013"):
        found(tmp_path, points, 1e-4)
    assert found(tmp_path, points, 1.4e-3).all()


def test_lone_particles_beside_what_does_not_fit_are_compared_with_all(tmp_path):
    rng = np.random.default_rng(0)
    lone = np.array([[0.5, 0.5, 0.85], [0.52, 0.5, 0.86], [0.5, 0.2, 0.5]])
    position = np.concatenate([0.5 + 1e-3 * rng.normal(size=(5000, 3)), lone])
    little = found(tmp_path, Points(position), 5002 * nearest.PARTICLE_BYTES / 0.6e9)
    assert little[-3:] == pytest.approx(brute(position, rows=slice(-3, None)), rel=1e-6)
    (tmp_path / "large").mkdir()
    assert np.array_equal(found(tmp_path / "large", Points(position)), little)


def test_a_finished_cache_is_taken_up_and_a_damaged_or_foreign_one_made_again(tmp_path):
    points = Points(clustered(1000))
    radii = found(tmp_path, points)
    (path,) = tmp_path.iterdir()
    assert path in support_files(tmp_path / "smoothing.h5")
    whole, reads = path.read_bytes(), points.reads
    assert np.array_equal(found(tmp_path, points), radii) and points.reads == reads
    for k in (whole.find(radii[500].astype("<f4").tobytes()), 0):  # a number, then the file's signature
        assert k >= 0
        damaged = bytearray(whole)
        damaged[k] ^= 1
        path.write_bytes(damaged)
        assert np.array_equal(found(tmp_path, points), radii) and points.reads > reads
        assert path.read_bytes() == whole
        reads = points.reads
    other = Points(clustered(1000, seed=1))
    assert found(tmp_path, other) == pytest.approx(brute(other.position), rel=1e-6)


def test_a_stop_signal_leaves_no_finished_file(tmp_path):
    points, world = Points(clustered(500)), World()
    world.stop = True
    with pytest.raises(Stopped):
        support_radii(points, "dm", world, tmp_path / "smoothing.h5", 4.0)
    assert not list(tmp_path.iterdir())


def dm_snapshot(tmp_path, n: int) -> str:
    """A snapshot whose dark matter has no smoothing lengths, in 2 chunks."""
    data = {1: {"Coordinates": BOX * clustered(n), "Masses": np.full(n, 1e10)}}
    write_snapshot(tmp_path / "s.hdf5", data, chunks=2)
    return str(tmp_path / "s.*.hdf5")


def script(tmp_path, ranks: int, *arguments: object, code: str = SCRIPT) -> int:
    """Run the script on some ranks; its exit status."""
    (tmp_path / "script.py").write_text(code)
    command = [*LAUNCHERS["mpirun" if ranks > 1 else "alone"](ranks), str(tmp_path / "script.py"), *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        out = process.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        kill(process)
        pytest.fail(f"{' '.join(command)} did not end")
    print(out)
    return process.returncode


@pytest.mark.parametrize("n", [2, N])  # of 2 particles the third rank has none
def test_any_number_of_ranks_gives_the_same_bytes(tmp_path, n):
    snapshot = dm_snapshot(tmp_path, n)
    radii = support_radii(open_snapshot(snapshot, Background()), "dm", World(), tmp_path / "alone.h5", 4.0).read(0, n)
    rows = SOME if n == N else slice(None)
    assert radii[rows] == pytest.approx(brute(BOX * clustered(n), BOX, rows=rows), rel=2e-6)
    for ranks, memory in ((2, 4.0), (3, LITTLE)):
        assert script(tmp_path, ranks, snapshot, tmp_path / f"{ranks}.h5", memory) == 0
        assert (tmp_path / f"{ranks}.dm.h5").read_bytes() == (tmp_path / "alone.dm.h5").read_bytes()


ONE_CANNOT_OPEN = """
from mpi4py import MPI
from hpcdiff.errors import UserError
from hpcdiff.snapshot import neighbours
class Lost(neighbours.SupportRadii):
    def __init__(self, path):
        if MPI.COMM_WORLD.rank == 1:
            raise UserError("gone")
        super().__init__(path)
neighbours.SupportRadii = Lost
def refused(call):
    try:
        call()
    except UserError as error:
        return str(error)
"""


def test_all_ranks_fail_if_one_cannot_open_the_cache(tmp_path):
    """In the run that makes the cache, and in one that finds it: no rank may go on to wait for the one that failed."""
    call = SCRIPT.strip().split("\n")[-1]
    code = ONE_CANNOT_OPEN + SCRIPT.replace(call, f"for _ in range(2):\n    assert refused(lambda: {call}) == 'gone'")
    assert script(tmp_path, 2, dm_snapshot(tmp_path, 500), tmp_path / "smoothing.h5", 4.0, code=code) == 0


@pytest.mark.parametrize("where", ["hpcdiff.snapshot.nearest.Search._query", "os.replace"])
def test_killed_half_way_and_run_again(tmp_path, where):
    snapshot = dm_snapshot(tmp_path, N)
    module, _, name = where.rpartition(".")
    dying = (
        "import os, signal, hpcdiff.snapshot.nearest\ncalls = []\n"
        f"was = {where}\n"
        "def dies(*arguments):\n    calls.append(1)\n"
        f"    if len(calls) == {1 if module == 'os' else 3}: os.kill(os.getpid(), signal.SIGKILL)\n    return was(*arguments)\n"
        f"{where} = dies\n" + SCRIPT
    )
    assert script(tmp_path, 1, snapshot, tmp_path / "smoothing.h5", LITTLE, code=dying) == -9
    assert not (tmp_path / "smoothing.dm.h5").exists()
    if module == "os":
        assert (tmp_path / "smoothing.dm.h5.partial").exists()
    assert script(tmp_path, 1, snapshot, tmp_path / "smoothing.h5", LITTLE) == 0
    with h5py.File(tmp_path / "smoothing.dm.h5") as f:
        assert f["radius"][SOME] == pytest.approx(brute(BOX * clustered(N), BOX, rows=SOME), rel=2e-6)
    assert not (tmp_path / "smoothing.dm.h5.partial").exists()
