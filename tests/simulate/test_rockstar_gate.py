"""What the gates give to ROCKSTAR and take from it, with a program in its place that answers from what it was given."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gates import rockstar, subhalos
from mock_cluster import CONCENTRATION, MASS, RADIUS, B, snapshot_of

from hpcdiff.simulate import profiles

PROGRAM = """#!{python}
import sys
import numpy as np
assert sys.argv[1] == "-c", sys.argv
config = dict(line.split(" = ") for line in open(sys.argv[2]).read().strip().split("\\n"))
rows = np.loadtxt(sys.argv[3])
x, v, ids = rows[:, :3], rows[:, 3:6], rows[:, 6]
side, mass = float(config["BOX_SIZE"]), float(config["PARTICLE_MASS"])
assert (x > 0).all() and (x < side).all() and len(set(ids)) == len(ids) and config["FILE_FORMAT"] == '"ASCII"'
assert abs(float(config["FORCE_RES"]) - {softening}) < 1e-6 and config["SCALE_NOW"] == "1" and (float(config["Om"]), float(config["Ol"])) == (0.3, 0.7)
# a halo of each group of particles of one velocity
with open("halos_0.0.ascii", "w") as f:
    print("#id num_p mvir mbound_vir rvir x y z", file=f)
    print("#more that is said", file=f)
    for i, speed in enumerate(sorted(set(v[:, 0]))):
        own = v[:, 0] == speed
        print(i, own.sum(), 2 * own.sum() * mass, own.sum() * mass, 1.0, *x[own].mean(axis=0), file=f)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "rockstar"
    path.write_text(PROGRAM.format(python=sys.executable, softening=0.044 * B.h))
    path.chmod(0o755)
    return path


def test_hosts_have_what_is_bound_within_the_virial_radius(program):
    """A cluster of 3000 particles, subhalos of 200 and 50, one beyond the virial radius, and heavy particles, which are not given."""
    rng = np.random.default_rng(0)
    parts = [(3000, 0.0, 0), (200, 0.5, 700), (50, -0.3, 100), (400, 1.6, 50), (30, 0.2, 900)]
    x = np.concatenate([[r * RADIUS, 0, 0] + 0.01 * rng.normal(size=(n, 3)) for n, r, _ in parts])
    v = np.repeat([[speed, 0, 0] for *_, speed in parts], [n for n, *_ in parts], axis=0).astype(float)
    light = 1.0e11
    mass = np.where(np.arange(len(x)) < 3650, light, 8 * light)
    (host,) = rockstar.hosts(snapshot_of(x, v, mass), 0.044, program)
    m, r = profiles.critical(MASS, RADIUS, CONCENTRATION, profiles.virial_overdensity(B), B)
    each = light / (1 - B.Ob0 / B.Om0)
    assert host.psi == pytest.approx([200 * each / m, 50 * each / m], rel=1e-4)
    assert host.r == pytest.approx([0.5 * RADIUS / r, 0.3 * RADIUS / r], rel=5e-3)
    assert host.resolved == pytest.approx(30 * each / m) and host.fraction == pytest.approx(subhalos.mass_fraction(B, 0.6))


@pytest.mark.parametrize(("engine", "said"), [("nbody", "--rockstar: not a program: nowhere"), ("halo_model", "need velocities")])
def test_where_it_cannot_be_used_is_said_at_once(monkeypatch, capsys, engine, said):
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "simulation_gates.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--engine", engine, "--rockstar", "nowhere"])
    monkeypatch.setattr(subprocess, "run", lambda command, **more: pytest.fail(f"{command} was run"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_no_halo_is_no_subhalo_and_a_failure_is_said(tmp_path, program):
    program.write_text(f"#!{sys.executable}\nopen('halos_0.0.ascii', 'w').write('#id num_p mvir mbound_vir x y z\\n')\n")
    x = np.zeros((5, 3))
    at, mass = rockstar.run(x, x, 1e11, 0.044, B, program, tmp_path)
    assert at.shape == (0, 3) and mass.shape == (0,)
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no particles')\n")
    with pytest.raises(RuntimeError, match="rockstar ended with status 1: no particles"):
        rockstar.run(x, x, 1e11, 0.044, B, program, tmp_path)
