"""A cluster's region in a wider box: which particles there are, where they stand, what comes out, and what is refused."""

import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from refused_config import refused_in_one_line
from test_nbody_box import plan_of
from test_nbody_stage import config, contents

from hpcdiff import checked
from hpcdiff.errors import Stopped
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.nbody import box, coarse, peak, work
from hpcdiff.simulate.nbody.coarse import CoarseBoxes, also_fine
from hpcdiff.simulate.nbody.evolve import FORMAT
from hpcdiff.simulate.nbody.halos import Matter, wrapped
from hpcdiff.simulate.nbody.plan import YIELD
from hpcdiff.simulate.nbody.zoom import levels

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from gates import convergence

CELL, WIDE = 60.0, 90.0
ZOOM = (f"simulate.cell={CELL}", f"simulate.surroundings={WIDE}", "simulate.clusters=2", "simulate.mass_range=[6e14, 8e14]")
ZOOM += ("simulate.particle_mass=1.83e12", "simulate.accuracy=1")


@pytest.fixture(scope="module")
def plan():
    return plan_of(*ZOOM)


def test_all_of_the_mass_is_there_and_fine_particles_are_about_the_cluster(plan):
    of = levels(plan, 1.4e15, plan.lattice)
    for masses in (of.masses(plan), of.masses_apart(plan)):
        assert masses.sum() == pytest.approx((plan.m_dm + plan.m_gas) * plan.lattice**3, rel=1e-12)
    assert of.masses_apart(plan)[: of.n].sum() == pytest.approx(plan.m_dm * plan.lattice**3, rel=1e-12)
    assert np.array_equal(of.apart(of.masses(plan))[of.is_fine().nonzero()[0]], of.masses_apart(plan)[of.is_fine().nonzero()[0]])
    share = 8 * of.inside.sum() / plan.lattice**3
    radius = 1.75 * np.cbrt(3 * 1.4e15 / (4 * np.pi * plan.background.rho_mean()))
    assert share == pytest.approx(4 * np.pi / 3 * (radius / WIDE) ** 3, rel=0.15)
    assert of.fine == 8 * of.inside.sum() and of.is_fine().sum() == 2 * of.fine and len(of.is_fine()) == of.n + of.fine < plan.lattice**3
    assert plan.lattice % 4 == 0
    for share, target in zip(plan.shares, plan.mass, strict=True):
        assert share == pytest.approx(levels(plan, target / YIELD, plan.lattice).n / plan.n_box, rel=0.1)
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
    parts, shifts, centres = of.parts(), 0.0, 0.0
    for kind, offset, weight in ((0, 0.0, plan.m_dm), (1, 0.5, plan.m_gas)):
        x, p = (a[kind * n**3 : (kind + 1) * n**3] for a in (alike.x, alike.p))
        fine = parts[2 * kind]
        assert np.array_equal(mixed.x[fine], x[cells]) and np.array_equal(mixed.p[fine], p[cells])
        lattice = (np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3) + offset) * WIDE / n
        share = weight / (plan.m_dm + plan.m_gas)
        for_each = [
            a.reshape(n // 2, 2, n // 2, 2, n // 2, 2, 3).mean(axis=(1, 3, 5))[~of.inside] for a in (wrapped(x - lattice, WIDE), lattice)
        ]
        shifts, centres = shifts + share * for_each[0], centres + share * for_each[1]
    own = wrapped(mixed.x[parts[1]] - centres, WIDE)
    assert np.sqrt(np.mean((own - shifts) ** 2) / np.mean(shifts**2)) < 0.2
    assert len(mixed.x) == parts[2].stop
    total = of.masses(plan)[:, None] * mixed.p
    assert np.abs(total.sum(axis=0)).max() < 0.02 * np.abs(total).sum(axis=0).max()


@pytest.fixture(scope="module", autouse=True)
def known():
    """The sphere of both clusters: no search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "sphere_of", lambda coarse: 1.2e15)
        yield


@pytest.fixture(scope="module")
def zoomed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoomed")
    assert main(config(folder, *ZOOM)) == 0
    return folder


def test_the_cell_is_cut_out_and_the_header_knows_how_many_there_are(zoomed, plan):
    with h5py.File(zoomed / "halos.hdf5") as f:
        position, mass, rough = (f[k][:] for k in ("position", "mass_200m", "coarse_fraction"))
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
                assert 0 <= rough[i] == pytest.approx(m[near & heavy].sum() / m[near].sum(), abs=0.02)
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
    monkeypatch.setattr(box, "sphere_of", lambda coarse: None if coarse.box == first else real(coarse))
    assert main(config(tmp_path, *ZOOM)) == 0
    assert contents(tmp_path) == contents(zoomed)


def test_a_run_that_was_stopped_in_its_coarse_boxes_goes_on(zoomed, tmp_path, monkeypatch):
    asked = []

    def told(self, state):
        asked.append(state.steps)
        if len(asked) == 5:
            raise Stopped("five steps")

    with monkeypatch.context() as patch:
        patch.setattr(work._Look, "stop_if_told", told)
        assert main(config(tmp_path, *ZOOM)) == 75
    assert asked == [1, 2, 3, 4, 5] and not list((tmp_path / "simulate.partial").rglob("00000?.npz"))
    assert main(config(tmp_path, *ZOOM)) == 0
    assert contents(tmp_path) == contents(zoomed)


@pytest.mark.parametrize("what", ["state", "rows"])
def test_what_another_version_left_is_made_anew(zoomed, tmp_path, monkeypatch, capsys, what):
    """A state or a finished box with the format of another version, as of a run that was begun with it."""

    def look(self, state):
        if state.steps == 3 and (what == "state" or any(self.folder.chunk(box).exists() for box in self.todo)):
            raise Stopped("three steps")

    with monkeypatch.context() as patch:
        patch.setattr(work._Look, "__call__", look)
        patch.setattr("hpcdiff.simulate.nbody.evolve.FORMAT", FORMAT - 1)
        patch.setattr(box, "WRITTEN", box.WRITTEN - 1)
        assert main(config(tmp_path, *ZOOM)) == 75
    capsys.readouterr()
    assert main(config(tmp_path, *ZOOM)) == 0
    assert "npz is damaged, or of another version" in capsys.readouterr().out
    assert contents(tmp_path) == contents(zoomed)


def test_a_chunk_that_a_finished_run_lacks_has_the_headers_of_the_others(zoomed, tmp_path):
    shutil.copytree(zoomed / "snapshot", tmp_path / "snapshot")
    shutil.copy(zoomed / "halos.hdf5", tmp_path)
    min((tmp_path / "snapshot").iterdir(), key=lambda path: path.stat().st_size).unlink()
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


def test_the_gates_spectrum_of_a_box_evolved_again_is_that_of_its_chunk(zoomed, monkeypatch):
    """With the plan's steps and softening; with others it differs."""
    monkeypatch.setattr(box, "sphere_of", lambda coarse: 1.2e15)
    plan = plan_of(*ZOOM, "run.seed=5")
    state = box.begun(plan, 0, 1)
    (chunk, _) = sorted((zoomed / "snapshot").iterdir())
    there = convergence._of_chunk(chunk, plan)
    assert convergence.spectrum(plan, state, 1.0, 1.0, 0.0) == pytest.approx(there, rel=1e-3)
    for changed in ((0.5, 1.0), (1.0, 0.5)):
        assert not np.allclose(convergence.spectrum(plan, state, *changed, 0.0), there, rtol=0.01)


def test_maps_that_reach_beyond_the_cell_are_said():
    """Turned cubes reach farther than those along the axes."""

    def said(*more):
        return [line for line in plan_of(*ZOOM, *more).lines() if "beyond its cell" in line]

    assert not said() and not said("project.width=2 R200m") and not said("project.depth={}")
    (line,) = said("project.width=40", "project.depth={sz: 10, dm: 30}", "project.views.sightlines=2")
    assert "reach 32 Mpc" in line and "simulate.cell of at least 64" in line
    assert not said("project.width=40", "project.depth={sz: 10, dm: 30}", "project.views.sightlines=1")
    assert said("project.width=61", "project.views.sightlines=1") and not said(
        "simulate.box=90", "simulate.surroundings=null", "project.width=99"
    )


def test_what_is_said_to_fit_into_memory_fits():
    """And the next lattice does not."""
    wide = ("simulate.cell=40", "simulate.surroundings=114")
    plan = plan_of(*wide, "simulate.particle_mass=1.27e10")
    for free in np.geomspace(0.3, 1.7, 20) * 1e9:
        how = plan.fitting(4 * free, 4)
        if "particle_mass" in how:
            fits = plan_of(*wide, f"simulate.particle_mass={how.split()[-1]}")
            assert fits.memory_bytes() <= free < plan._memory_of(fits.lattice + 4)
    assert plan.fitting(5.2e8, 2) == "take fewer ranks a node" and plan.fitting(2.6e8, 1) == "take a node with more memory"


def test_the_cell_s_particles_are_those_about_its_middle(plan):
    middle = np.array([1.0, 45.0, 89.0])
    x = (middle + np.array([[0, 0, 0], [29.9, 0, 0], [-29.9, 0, 29.9], [0, 30.1, 0], [0, 0, -30.1], [-44, 0, 0]])) % WIDE
    there, away = box.in_cell(plan, x, middle)
    assert there.tolist() == [0, 1, 2] and away[2] == pytest.approx([-29.9, 0, 29.9])
    alike = plan_of(*ZOOM[:1], *ZOOM[2:], "simulate.surroundings=null", f"simulate.cell={WIDE}")
    assert len(box.in_cell(alike, x, middle)[0]) == len(x)


@pytest.mark.parametrize("lattice", [16, 24, 32])
def test_cells_that_particles_began_in_are_found_on_any_lattice(plan, lattice):
    """Of all particles all cells; of those of a corner the corner; a coarse one stands for its eight, on lattices finer and coarser than the cells."""
    of, cells = levels(plan, 5e14, lattice), 12
    assert of.cells_of(np.arange(of.n + of.fine), cells).all()
    assert not of.cells_of(np.arange(0), cells).any()
    first = np.flatnonzero(~of.inside)[0]
    assert first == 0  # the corner of the box is coarse
    corner = of.cells_of(np.array([of.fine]), cells)
    wide = int(np.ceil(cells * 2 / lattice))
    assert corner[:wide, :wide, :wide].all() and corner.sum() == wide**3
    dm, gas = of.cells_of(np.array([0]), cells), of.cells_of(np.array([of.n]), cells)
    assert np.array_equal(dm, gas) and 1 <= dm.sum() <= 2**3
    i = np.argwhere(np.repeat(np.repeat(np.repeat(of.inside, 2, 0), 2, 1), 2, 2))[0]
    assert dm[tuple(i * cells // lattice)]


def test_what_falls_in_from_outside_of_the_region_is_fine_too(plan, tmp_path, monkeypatch, capsys):
    """A region that is made too small by hand: a coarse box says which cells beside it fall in, and with them fine no coarse particle is in the cluster; else it is said."""
    from hpcdiff.simulate.nbody import zoom

    monkeypatch.setattr(zoom, "REGION", 0.8)
    monkeypatch.setattr(box, "sphere_of", lambda coarse: 1.2e15)
    rough, asked, found = {}, [], Matter.halos

    def halos(self, least, among=None):
        asked.append(among is not None and 0 < among.sum() < len(self.x))
        return found(self, least, among)

    monkeypatch.setattr(Matter, "halos", halos)

    def look(self, state):
        if state.steps == 9:
            raise Stopped("nine steps")

    for name in ("more", "none"):
        with monkeypatch.context() as patch:
            if name == "none":
                patch.setattr(box, "also_fine", lambda *args: None)
            assert main(config(tmp_path / name, *ZOOM)) == 0
        with h5py.File(tmp_path / name / "halos.hdf5") as f:
            rough[name] = f["coarse_fraction"][:]
        mixed, said = int(np.sum(rough[name] > 0.01)), capsys.readouterr().out
        assert (f"2 halos ({mixed} of them have more than 1% of their mass in heavy particles: coarse_fraction) of " in said) == (mixed > 0)
    assert rough["none"].max() > 0.03 and rough["more"].max() < 0.3 * rough["none"].max()
    with monkeypatch.context() as patch:
        patch.setattr(work._Look, "__call__", look)
        assert main(config(tmp_path / "again", *ZOOM)) == 75
    assert main(config(tmp_path / "again", *ZOOM)) == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "more")
    assert asked and all(asked)  # halos are looked for among the fine particles


@pytest.mark.parametrize("of", [coarse, box])
def test_coarse_particles_are_twice_as_soft_and_the_step_follows_the_fine_ones(plan, tmp_path, monkeypatch, of):
    """In the coarse boxes and in the box itself; the fine ones are as soft as the step thinks."""
    told, sphere = {}, 1.2e15

    def evolve(state, mass, gravity, Om0, softening, *rest, fine=None, **more):
        told.update(softening=softening, fine=fine)
        raise Stopped("as by a signal")

    monkeypatch.setattr(of, "gravity_of", lambda side, mesh, softening, *rest: told.update(each=softening))
    monkeypatch.setattr(of, "evolve", evolve)
    monkeypatch.setattr(box, "also_fine", lambda *args: None)
    with pytest.raises(Stopped):
        if of is box:
            folder = Folder(tmp_path)
            folder.draws.mkdir(parents=True)
            box.run_box(plan, folder, 0, "{}", 1, lambda state: None)
        else:
            CoarseBoxes(plan, 0).evolved(sphere, plan.lattice)
    fine = levels(plan, sphere, plan.lattice).is_fine()
    assert 0 < told["softening"] < plan.period / plan.lattice / 8 and np.array_equal(told["fine"], fine)
    assert told["each"] == pytest.approx(told["softening"] * np.where(fine, 1, 2))


def test_cells_beside_the_region_are_kept_with_the_state(plan, tmp_path):
    sphere = 1.2e15
    more = np.zeros((plan.lattice // 2,) * 3, bool)
    more[1, 2, 3] = True
    state = peak.start(plan, 0, sphere, plan.lattice, more)
    assert len(state.x) == len(peak.start(plan, 0, sphere, plan.lattice).x) + 15  # one becomes eight of each type
    state.save(tmp_path / "state.npz")
    again = type(state).load(tmp_path / "state.npz")
    assert np.array_equal(again.also_fine, more) and len(levels(plan, again.sphere, plan.lattice, again.also_fine).is_fine()) == len(
        again.x
    )
    assert also_fine(CoarseBoxes(plan_of(*ZOOM[:1], *ZOOM[2:], "simulate.surroundings=null"), 0), sphere) is None


def test_what_began_in_the_sphere_is_known(plan):
    sphere = 1.4e15
    of = levels(plan, sphere, plan.lattice)
    began = of.began_in(plan, sphere)
    mass = len(began) * (plan.m_dm + plan.m_gas)
    assert mass == pytest.approx(sphere, rel=0.15) and began.max() < of.fine
    x = peak.start(plan, 0, sphere, plan.lattice).x[began]
    away = np.linalg.norm(wrapped(x - WIDE / 2, WIDE), axis=1)
    assert away.max() < np.cbrt(3 * sphere / (4 * np.pi * plan.background.rho_mean())) + 1.0  # waves have moved them little
    assert len(of.began_in(plan, 1e10)) == 1
    alike = plan_of(*ZOOM[:1], *ZOOM[2:], "simulate.surroundings=null", f"simulate.cell={WIDE}")
    everywhere = levels(alike, sphere, plan.lattice).began_in(alike, sphere)
    assert len(everywhere) == len(began)
    assert np.array_equal(peak.start(alike, 0, sphere, plan.lattice).x[everywhere], x)


def test_mass_is_that_of_a_box_of_fine_particles_alone(plan, tmp_path):
    """The same sphere and the same waves: what is around the region need not be fine."""
    found = []
    for more in ((), ("simulate.surroundings=null", f"simulate.cell={WIDE}")):
        of = plan_of(*ZOOM, *more)
        found.append(CoarseBoxes(of, 1).mass(1.2e15, plan.lattice))
    assert found[0] == pytest.approx(found[1], rel=0.15) and found[0] > 2e14


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["simulate.surroundings=60"], "the cell of 60 Mpc is not smaller than its surroundings"),
        (["simulate.box=60"], "one periodic box has no surroundings, simulate.surroundings, set it to null"),
        (["simulate.surroundings=-1"], "simulate.surroundings"),
        (
            ["simulate.surroundings=64", "simulate.mass_range=[6e14, 5e15]"],
            "a box of 64 Mpc cannot hold a cluster of 5e+15 Msun, simulate.surroundings, take at least 116.3 Mpc, or masses up to 8.34e+14 Msun",
        ),
        (["simulate.cell=13"], "with what is around it does not fit into a cell of 13 Mpc, simulate.cell, take at least"),
        (["simulate.softening=2000"], "kpc is more than a halo of "),
    ],
)
def test_surroundings_that_cannot_be_are_refused(tmp_path, capsys, more, said):
    refused_in_one_line(main, config(tmp_path, *ZOOM, *more), tmp_path, said, capsys)
