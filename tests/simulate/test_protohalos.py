"""Where halos began, and what the linear density is there: on what is known."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gates import projected, protohalos
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
    assert [(row["value"], row["error"], row["holds"]) for row in table.rows] == [(3.0, pytest.approx(1.08, rel=1e-3), False)]


def test_the_table_of_the_documentation_is_the_measured_one():
    content = json.loads((ROOT / "benchmarks" / "results" / "protohalos.json").read_text())
    assert protohalos.markdown(content) in (ROOT / "docs" / "simulation.md").read_text()
