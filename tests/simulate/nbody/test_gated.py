"""What results call the engine: what is known of its gates, as measured, and experimental where they were not run."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from gates import evolved
from gates.table import failing, markdown

from hpcdiff.config import read_config
from hpcdiff.simulate.nbody import gated
from hpcdiff.simulate.nbody.plan import Plan

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results"
EXPERIMENTAL = "nbody (experimental: gates not run)"


def engine(*changes):
    return Plan(read_config(ROOT / "configs" / "nbody.yaml", list(changes))).engine


def test_the_preset_says_which_gates_are_not_met(monkeypatch):
    monkeypatch.setattr(gated, "NOT_MET", ("c(M)", "P(k)"))
    assert engine() == "nbody (gates not met: c(M), P(k))" == engine("simulate.accuracy=0.15")
    monkeypatch.setattr(gated, "NOT_MET", ())
    assert engine() == "nbody"


@pytest.mark.parametrize(
    "change",
    [
        "simulate.particle_mass=1.27e10",
        "simulate.particle_mass=1.4e11",
        "simulate.softening=60",
        "simulate.accuracy=0.3",
        "simulate.mass_range=[1.5e14, 1.4e15]",
        "simulate.mass_range=[1.2e14, 1.2e15]",
        "simulate.surroundings=110",
        "simulate.cell=35",
        "simulate.device=cuda",
        "cosmology.Om0=0.31",
    ],
)
def test_what_the_gates_were_not_run_on_is_experimental(change):
    assert engine(change) == EXPERIMENTAL


@pytest.mark.parametrize("box", ["simulate.cell=114", "simulate.box=114"])
def test_boxes_without_surroundings_are_experimental(box):
    """As wide as the preset's, with its particles."""
    assert engine("simulate.surroundings=null", box) == EXPERIMENTAL


def test_wider_boxes_and_cells_are_those_of_the_gates():
    assert engine("simulate.surroundings=142.5", "simulate.cell=50") != EXPERIMENTAL


def test_what_the_gates_were_run_on_is_what_is_called_so():
    assert engine(*evolved.overrides(14, 11)) != EXPERIMENTAL


def test_the_gates_that_are_not_met_are_those_that_were_measured():
    measured = json.loads((RESULTS / "simulation_gates_nbody.json").read_text())
    assert list(gated.NOT_MET) == failing(measured["gates"])


@pytest.mark.parametrize("name", ["simulation_gates", "simulation_gates_nbody"])
def test_the_tables_of_the_documentation_are_the_measured_ones(name):
    table = markdown(json.loads((RESULTS / f"{name}.json").read_text()))
    assert table in (ROOT / "docs" / "simulation.md").read_text()
