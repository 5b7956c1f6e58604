"""What results call the engine: what is known of its gates, as measured, and experimental where they were not run."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import simulation_gates
from gates import evolved
from gates.table import failing, markdown

from hpcdiff.config import read_config
from hpcdiff.simulate import gated
from hpcdiff.simulate import plan as halo_model
from hpcdiff.simulate.nbody import plan as nbody

ROOT = Path(__file__).resolve().parents[2]
RESULTS = {"halo_model": "simulation_gates", "nbody": "simulation_gates_nbody"}
PRESETS = {"halo_model": simulation_gates.CONFIG, "nbody": evolved.CONFIG}
GROUPS = {"masses", "c(M)", "density", "projected density", "pressure", "gas fraction", "Y-M", "L_X-M", "shape", "subhalos"}
GROUPS |= {"inference", "shuffled inputs"}

EVOLVED = {"formation", "energy and momentum", "P(k)", "mass function"}


def engine(name, *changes):
    plan = {"halo_model": halo_model.Plan, "nbody": nbody.Plan}[name]
    return plan(read_config(PRESETS[name], list(changes))).engine


def measured(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{RESULTS[name]}.json").read_text())


@pytest.mark.parametrize("name", RESULTS)
def test_the_preset_says_which_gates_are_not_met(monkeypatch, name):
    monkeypatch.setitem(gated.NOT_MET, name, ("c(M)", "P(k)"))
    assert engine(name) == f"{name} (gates not met: c(M), P(k))"
    monkeypatch.setitem(gated.NOT_MET, name, ())
    assert engine(name) == name


COMMON = ["simulate.particle_mass=1.27e10", "simulate.mass_range=[1.5e14, 1.4e15]", "simulate.mass_range=[1.2e14, 1.2e15]"]
COMMON += ["cosmology.Om0=0.31"]
OF_NBODY = ["simulate.particle_mass=1.4e11", "simulate.softening=60", "simulate.accuracy=0.3", "simulate.surroundings=110"]
OF_NBODY += ["simulate.cell=35", "simulate.device=cuda"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("halo_model", change) for change in (*COMMON, "simulate.particle_mass=1.8e11", "simulate.cell=34")),
        *(("nbody", change) for change in (*COMMON, *OF_NBODY)),
    ],
)
def test_what_the_gates_were_not_run_on_is_experimental(name, change):
    assert engine(name, change) == f"{name} (experimental: gates not run)"


@pytest.mark.parametrize("box", ["simulate.cell=114", "simulate.box=114"])
def test_boxes_without_surroundings_are_experimental(box):
    """As wide as the preset's, with its particles."""
    assert engine("nbody", "simulate.surroundings=null", box) == "nbody (experimental: gates not run)"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("nbody", ["simulate.surroundings=142.5", "simulate.cell=50"]),
        ("nbody", ["simulate.accuracy=0.15"]),
        ("nbody", evolved.overrides(28, 11)),
        ("halo_model", ["simulate.clusters=216"]),
        ("halo_model", ["simulate.mass_range=[2e14, 1e15]"]),
    ],
)
def test_what_the_gates_were_run_on_is_what_is_called_so(name, changes):
    assert engine(name, *changes) == engine(name) and "experimental" not in engine(name)


@pytest.mark.parametrize("name", RESULTS)
def test_the_gates_that_are_not_met_are_those_that_were_measured(name):
    content = measured(name)
    assert list(gated.NOT_MET[name]) == failing(content["gates"])
    assert {row["group"] for row in content["gates"]} == GROUPS | (EVOLVED if name == "nbody" else set())
    assert content["clusters"] == simulation_gates.CLUSTERS[name]


@pytest.mark.parametrize("name", RESULTS)
def test_the_tables_of_the_documentation_are_the_measured_ones(name):
    assert markdown(measured(name)) in (ROOT / "docs" / "simulation.md").read_text()
