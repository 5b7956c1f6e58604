"""Where halos began, and what the linear density is there: on what is known."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gates import clusters, halos, projected, protohalos
from gates.table import Table

from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody.excursion import Excursion
from hpcdiff.simulate.nbody.initial import Waves, power, white, with_peak

ROOT = Path(__file__).resolve().parents[2]
B = Background()


def test_the_middle_of_what_lies_across_the_walls():
    points = np.array([[9.5, 5.0, 0.5], [0.5, 5.0, 9.5], [0.0, 6.0, 0.0]])
    assert protohalos.middle(points, 10.0) == pytest.approx([0.0, 16 / 3, 0.0])
    assert protohalos.middle((points + 4.0) % 10.0, 10.0) == pytest.approx([4.0, 28 / 3, 4.0])


def test_what_is_measured_at_a_peak_is_what_it_was_given():
    """Height and curvature, no slope; elsewhere there is one, and the field's own mean around a point is that of the mesh."""
    waves = Waves(80.0, 32)
    spectrum = power(B, waves)
    modes = white(waves, 3) * np.sqrt(spectrum)
    peak = Excursion(B).peak(9.0, 0.3, 0.8)
    whole, centre = with_peak(waves, modes, spectrum, peak), np.full(3, 40.0)
    height, *around, curvature, slope = protohalos.about(waves, whole, centre, peak.radius, peak.narrow)
    assert height == pytest.approx(peak.height, rel=1e-9) and curvature == pytest.approx(peak.curvature, rel=1e-9) and abs(slope) < 1e-9
    assert height > around[0] > around[1] > around[2]
    assert protohalos.about(waves, whole, centre + 5.0, peak.radius, peak.narrow)[-1] > 1e-3
    narrow = protohalos.about(waves, whole, np.full(3, 2.5 * 13), 1e-3, 0.0)[0]  # of a sphere without extent
    assert narrow == pytest.approx(waves.mesh(whole)[13, 13, 13], rel=1e-6)


def test_rings_of_a_uniform_box_are_its_density_along_each_line_of_sight():
    """Twice as dense in the half x > 0: seen along y and z it is 1.5 times, and along x within a slab that only reaches 1 Mpc to each side as well."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-4, 4, (400_000, 3))
    mass = np.where(x[:, 0] > 0, 2.0, 1.0) * 512 / len(x)
    found = projected.rings(x, mass, np.array([0.0, 1.0, 2.0, 3.5]), 1.0)
    assert found == pytest.approx(np.full((3, 3), 1.5 * 2.0), rel=0.03)
    assert projected.rings(x[x[:, 2] > 2], mass[x[:, 2] > 2], np.array([0.0, 1.0]), 1.0)[2] == 0


def test_the_mean_has_the_error_of_a_mean_and_needs_two():
    table = Table()
    table.mean("g", "what", np.array([1.0, 2.0, 3.0, 6.0]), 0.8, 1.2)
    table.mean("g", "one", np.array([1.0]), 0.8, 1.2)
    found = [(row["value"], row["error"], row["holds"]) for row in table.rows]
    assert found == [(3.0, pytest.approx(1.08, rel=1e-3), False), (None, None, False)]


def test_what_is_around_a_halo_is_gated_in_the_mean_of_three_lines_of_sight(monkeypatch):
    """A neighbour on the z axis, which only lines along x and y see beside the halo; of halos of which one has twice as much the mean is gated, not the median."""
    monkeypatch.setattr(projected, "expected", lambda mass, c, edges, half, background: np.ones(len(edges) - 1))
    at = {"mass_200m": np.array([1e14]), "radius_200m": np.array([1.0])}
    x = np.array([[0.0, 0.0, 2.5], [0.0, 0.0, 2.5]])
    snapshot = SimpleNamespace(halos=at, m={"dm": np.array([3.0, 5.0])}, background=B, about=lambda i, kind, radius: (np.arange(2), x))
    found = halos._projected(snapshot, 0, 5.0, 0.3)
    ring = 2 * 8.0 / (np.pi * (3.0**2 - 2.0**2)) / 3 / (1 - B.Ob0 / B.Om0)
    assert np.isnan(found[0]) and found[-3:] == pytest.approx([0, ring, 0])
    n, even = 8, np.ones(8)
    of = {k: even for k in ("mass", "c", "f_gas", "roundness", "gas_roundness")} | {k: 1e14 * (1 + np.arange(n)) for k in ("m200c", "m500")}
    of |= {"density": np.ones((n, 5)), "pressure": np.ones((n, 5)), "y500": of["m500"] ** (5 / 3), "l500": of["m500"] ** (4 / 3)}
    of["projected"] = np.where(np.arange(n)[:, None] == 0, 3.0, np.full((n, len(halos.RINGS) - 1), 0.9))
    table = Table()
    clusters.gates(table, of, B)
    assert [row["value"] for row in table.rows if row["group"] == "projected density"] == pytest.approx([(3 + 7 * 0.9) / 8] * 8, rel=1e-3)


def test_halos_of_a_box_began_at_peaks_of_their_scale(monkeypatch):
    """Of a small box: where its halos began it is about as dense as the barrier, curved, less dense outside, and flat; they hold most of what began there (one of six is two that have merged)."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "protohalos.py"))
    plan, rings = script["plan_of"](70.0, 26, 9e13, 2), projected.rings

    def of_dark_matter(x, mass, edges, half):
        assert mass == pytest.approx(np.full(len(x), plan.m_dm))
        return rings(x, mass, edges, half)

    monkeypatch.setattr(projected, "rings", of_dark_matter)
    found = protohalos.measured(plan)
    assert len(found.mass) >= 2 and (found.mass >= 9e13).all()
    assert (np.abs(found.barrier) < 1.2).all() and (found.curvature > 0.5).all() and (found.slope < 1).all() and np.median(found.own) > 0.6
    for around in (found.around, found.drawn_around):
        assert (np.diff(around, axis=1) < 0).mean() > 0.8 and (around[:, 0] < 1.686 + 1).all()
    assert (found.drawn_barrier > 0).all() and (found.drawn_curvature > 0.5).all()
    assert (found.rings > 0.1).all() and (np.median(found.rings) < 3)
    rows = script["rows_of"](found, 9e13)
    light = found.mass < 2e14
    assert rows[0]["from"] == 9e13 and rows[0]["halos"] == light.sum()
    assert rows[0]["barrier"] == pytest.approx([found.barrier[light].mean(), found.barrier[light].std(ddof=1)])
    assert rows[0]["rings"]["median"] == pytest.approx(np.median(found.rings[light], axis=0))
    assert rows[0]["rings"]["mean"] == pytest.approx(found.rings[light].mean(axis=0))


def test_the_table_of_the_documentation_is_the_measured_one():
    content = json.loads((ROOT / "benchmarks" / "results" / "protohalos.json").read_text())
    assert protohalos.markdown(content) in (ROOT / "docs" / "simulation.md").read_text()
