"""A cluster's region in a wider box: which particles there are, where they stand, what comes out, and what is refused."""

import h5py
import numpy as np
import pytest
from refused_config import refused_in_one_line
from test_nbody_box import plan_of
from test_nbody_stage import config, contents

from hpcdiff import checked
from hpcdiff.errors import Stopped
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.nbody import box, peak, work
from hpcdiff.simulate.nbody.halos import wrapped
from hpcdiff.simulate.nbody.plan import YIELD
from hpcdiff.simulate.nbody.zoom import levels

CELL, WIDE = 60.0, 90.0
ZOOM = (f"simulate.cell={CELL}", f"simulate.surroundings={WIDE}", "simulate.clusters=2", "simulate.mass_range=[6e14, 8e14]")
ZOOM += ("simulate.particle_mass=1.83e12", "simulate.accuracy=1")


@pytest.fixture(scope="module")
def plan():
    return plan_of(*ZOOM)


def test_all_of_the_mass_is_there_and_fine_particles_are_about_the_cluster(plan):
    of = levels(plan, 1.4e15, plan.lattice)
    assert of.masses(plan).sum() == pytest.approx((plan.m_dm + plan.m_gas) * plan.lattice**3, rel=1e-12)
    share = 8 * of.inside.sum() / plan.lattice**3
    radius = 1.75 * np.cbrt(3 * 1.4e15 / (4 * np.pi * plan.background.rho_mean()))
    assert share == pytest.approx(4 * np.pi / 3 * (radius / WIDE) ** 3, rel=0.15)
    assert of.fine == 8 * of.inside.sum() and of.is_fine().sum() == 2 * of.fine and len(of.is_fine()) == 2 * of.n < plan.lattice**3
    assert plan.lattice % 4 == 0
    assert plan.share == pytest.approx(levels(plan, 8e14 / YIELD, plan.lattice).n / plan.n_box, rel=0.1)
    alike = levels(plan_of(*ZOOM, "simulate.surroundings=null"), 1.4e15, 20)
    assert alike.n == alike.fine == 20**3 and alike.is_fine().all()


def test_both_kinds_stand_where_those_of_one_fine_box_do(plan):
    """The fine ones exactly; a coarse one in the middle of the eight that it is instead of, but for the waves that it cannot have."""
    sphere = 1.4e15
    of = levels(plan, sphere, plan.lattice)
    mixed = peak.start(plan, 0, sphere, plan.lattice)
    alike = peak.start(plan_of(*ZOOM[:1], *ZOOM[2:], "simulate.surroundings=null", f"simulate.cell={WIDE}"), 0, sphere, plan.lattice)
    n = plan.lattice
    cells = of.inside.repeat(2, 0).repeat(2, 1).repeat(2, 2).ravel()
    moved = []
    for kind, offset in ((0, 0.0), (1, 0.5)):
        x, p = (a[kind * n**3 : (kind + 1) * n**3] for a in (alike.x, alike.p))
        fine, coarse = of.parts()[2 * kind : 2 * kind + 2]
        assert np.array_equal(mixed.x[fine], x[cells]) and np.array_equal(mixed.p[fine], p[cells])
        lattice = (np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3) + offset) * WIDE / n
        shift = wrapped(x - lattice, WIDE).reshape(n // 2, 2, n // 2, 2, n // 2, 2, 3).mean(axis=(1, 3, 5))[~of.inside]
        middle = lattice.reshape(n // 2, 2, n // 2, 2, n // 2, 2, 3).mean(axis=(1, 3, 5))[~of.inside]
        own = wrapped(mixed.x[coarse] - middle, WIDE)
        moved.append(np.sqrt(np.mean((own - shift) ** 2) / np.mean(shift**2)))
    assert max(moved) < 0.2
    total = of.masses(plan)[:, None] * mixed.p
    assert np.abs(total.sum(axis=0)).max() < 0.02 * np.abs(total).sum(axis=0).max()


@pytest.fixture(scope="module", autouse=True)
def known():
    """The sphere of both clusters: no search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "sphere_of", lambda plan, box, threads: 1.2e15)
        yield


@pytest.fixture(scope="module")
def zoomed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoomed")
    assert main(config(folder, *ZOOM)) == 0
    return folder


def test_the_cell_is_cut_out_and_the_header_knows_how_many_there_are(zoomed, plan):
    with h5py.File(zoomed / "halos.hdf5") as f:
        position, mass = (f[k][:] for k in ("position", "mass_200m"))
    assert (mass > 2e14).all() and (mass < 2e15).all()
    files = [h5py.File(path) for path in sorted((zoomed / "snapshot").iterdir())]
    total = np.sum([f["Header"].attrs["NumPart_ThisFile"] for f in files], axis=0)
    ids = []
    for i, f in enumerate(files):
        assert (f["Header"].attrs["NumPart_Total"] == total).all() and f["Header"].attrs["BoxSize"] == pytest.approx(2 * CELL * 700)
        corner = plan.corner(i)
        assert position[i] == pytest.approx(corner + CELL / 2)
        inside = 0.0
        for kind, name in enumerate(("PartType0", "PartType1")):
            x, m, h = (f[name][k][:] for k in ("Coordinates", "Masses", "SmoothingLength"))
            assert len(x) == f["Header"].attrs["NumPart_ThisFile"][kind] and np.isfinite(h).all()
            assert (np.abs(x / 700 - position[i]) <= CELL / 2 * (1 + 1e-6)).all()
            near = np.linalg.norm(x / 700 - position[i], axis=1) < np.cbrt(mass[i] * 3 / (800 * np.pi * plan.background.rho_mean()))
            inside += m[near].sum() * 1e10 / 0.7
            ids.append(f[name]["ParticleIDs"][:])
            if name == "PartType1":
                heavy = m > 2 * m.min()
                assert np.unique(np.round(m * 1e10 / 0.7 / plan.m_dm, 3)) == pytest.approx([1, 8])
                assert m[near & heavy].sum() < 0.05 * m[near].sum() and heavy[~near].any()
            else:
                density = f[name]["Density"][:] * 1e10 * 0.7**2 * 1e9 / plan.background.rho_mean(component="gas")
                assert (density > 0).all() and (f[name]["InternalEnergy"][:] > 0).all()
                far = np.argsort(-np.linalg.norm(x / 700 - position[i], axis=1))[:40]  # coarse ones most of them, in no halo
                coarse = m[far] * 1e10 / 0.7 > 4 * plan.m_gas
                assert m[far][coarse] * 1e10 / 0.7 == pytest.approx(8 * plan.m_gas, rel=1e-3) and coarse.sum() > 20
                assert 0.1 < np.median(density[far][coarse]) < 5
        assert inside == pytest.approx(mass[i], rel=0.15)  # gas that the halo does not hold lies farther out
    assert len(np.unique(np.concatenate(ids))) == total.sum()
    for f in files:
        f.close()


def test_a_run_that_was_stopped_goes_on_with_its_own_particles(zoomed, tmp_path, monkeypatch):
    """The same bytes; the saved state knows the sphere, and so which particles are fine."""

    def look(self, state):
        if state.steps == 7:
            raise Stopped("seven steps")

    with monkeypatch.context() as patch:
        patch.setattr(work._Look, "__call__", look)
        assert main(config(tmp_path, *ZOOM)) == 75
    (saved,) = (tmp_path / "simulate.partial").rglob("00000?.npz")
    first = int(saved.stem)
    real = box.sphere_of
    monkeypatch.setattr(box, "sphere_of", lambda plan, i, threads: None if i == first else real(plan, i, threads))
    assert main(config(tmp_path, *ZOOM)) == 0
    assert contents(tmp_path) == contents(zoomed)


def test_a_run_that_was_killed_between_the_headers_ends_as_any_other(zoomed, tmp_path, monkeypatch):
    real, done = checked.changing, []

    def killed(path):
        if done:
            raise KeyboardInterrupt
        done.append(path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checked, "changing", killed)
        assert main(config(tmp_path, *ZOOM)) != 0
    assert len(done) == 1 and not (tmp_path / "halos.hdf5").exists()
    assert main(config(tmp_path, *ZOOM)) == 0
    assert contents(tmp_path) == contents(zoomed)


def test_coarse_boxes_have_both_kinds_too(plan):
    for wide in (84.0, 90.0):
        of = plan_of("simulate.cell=42", f"simulate.surroundings={wide}", "simulate.mass_range=[1.5e14, 2e14]", "simulate.clusters=1")
        n = peak.pilot_lattice(of, 0)
        assert n % 4 == of.whole(1.5 * n) % 4 == of.lattice % 4 == 0 and n < of.whole(1.5 * n) < of.lattice


def test_mass_is_that_of_a_box_of_fine_particles_alone(plan, tmp_path):
    """The same sphere and the same waves: what is around the region need not be fine."""
    found = []
    for more in ((), ("simulate.surroundings=null", f"simulate.cell={WIDE}")):
        of = plan_of(*ZOOM, *more)
        found.append(peak.coarse_mass(of, 1, 1.2e15, 1, plan.lattice))
    assert found[0] == pytest.approx(found[1], rel=0.15) and found[0] > 2e14


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["simulate.surroundings=60"], "the cell of 60 Mpc is not smaller than its surroundings"),
        (["simulate.box=60"], "one periodic box has no surroundings"),
        (["simulate.surroundings=-1"], "simulate.surroundings"),
        (
            ["simulate.surroundings=64", "simulate.mass_range=[6e14, 5e15]"],
            "a box of 64 Mpc cannot hold a cluster of 5e+15 Msun, simulate.surroundings",
        ),
    ],
)
def test_surroundings_that_cannot_be_are_refused(tmp_path, capsys, more, said):
    refused_in_one_line(main, config(tmp_path, *ZOOM, *more), tmp_path, said, capsys)
