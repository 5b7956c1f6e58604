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
    assert engine() == "nbody (gates not met: c(M), P(k))" == engine("simulate.accuracy=0.2")
    monkeypatch.setattr(gated, "NOT_MET", ())
    assert engine() == "nbody"


@pytest.mark.parametrize(
    "change",
    [
        "simulate.particle_mass=1.27e10",
        "simulate.particle_mass=1.4e11",
        "simulate.softening=60",
        "simulate.accuracy=0.4",
        "simulate.mass_range=[1.5e14, 1.4e15]",
        "simulate.mass_range=[1.2e14, 1.2e15]",
        "simulate.box=60",
        "simulate.cell=55",
        "simulate.device=cuda",
        "cosmology.Om0=0.31",
    ],
)
def test_what_the_gates_were_not_run_on_is_experimental(change):
    assert engine(change) == EXPERIMENTAL


def test_what_the_gates_were_run_on_is_what_is_called_so():
    for _, changes in evolved.overrides(14, 11):
        assert engine(*changes) != EXPERIMENTAL


def test_the_gates_that_are_not_met_are_those_that_were_measured():
    measured = json.loads((RESULTS / "simulation_gates_nbody.json").read_text())
    assert list(gated.NOT_MET) == failing(measured["gates"])


@pytest.mark.parametrize("name", ["simulation_gates", "simulation_gates_nbody"])
def test_the_tables_of_the_documentation_are_the_measured_ones(name):
    table = markdown(json.loads((RESULTS / f"{name}.json").read_text()))
    assert table in (ROOT / "docs" / "simulation.md").read_text()
