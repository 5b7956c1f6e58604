"""Closed forms: a plane wave until it breaks, two bodies, the cosmic energy equation; and a run taken up from the disk."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody import evolve as evolution
from hpcdiff.simulate.nbody.evolve import State, energies, evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.initial import Waves, displaced, power, white

SIDE, OM = 40.0, 0.3


def test_a_plane_wave_grows_as_zeldovich_says():
    n = 16
    waves = Waves(SIDE, n)
    modes = np.zeros((n, n, n // 2 + 1), complex)
    breaks = 2.0  # growth factor at which it would break
    modes[1, 0, 0] = modes[-1, 0, 0] = 0.5 / breaks
    start, end = (displaced(waves, modes, OM, a)[0] for a in (0.1, 1.0))
    p = displaced(waves, modes, OM, 0.1)[1]
    gravity, mass = Gravity(SIDE, 32, 0.5, OM), np.ones(n**3)
    done = evolve(State(0.1, start, p), mass, gravity, OM, 0.5, 0.3)
    moved = ((done.x - start + SIDE / 2) % SIDE - SIDE / 2)[:, 0]
    expected = ((end - start + SIDE / 2) % SIDE - SIDE / 2)[:, 0]
    assert np.abs(moved - expected).max() < 0.02 * np.abs(expected).max()
    want = displaced(waves, modes, OM, 1.0)[1][:, 0]
    assert np.abs(done.p[:, 0] - want).max() < 0.03 * np.abs(want).max()


def test_the_step_follows_the_fine_particles():
    """Coarse ones that pull each other hard don't shorten it, nor do many that are at rest lengthen it."""
    gravity, rng = Gravity(SIDE, 32, 0.2, OM), np.random.default_rng(0)
    tight = 10 + 0.3 * rng.normal(size=(100, 3))
    loose = rng.uniform(0, SIDE, (2000, 3))
    x = np.concatenate([tight, loose])

    def steps(fine):
        return evolve(State(0.8, x, np.zeros_like(x)), np.ones(len(x)), gravity, OM, 0.2, 0.01, until=0.85, longest=1.0, fine=fine).steps

    of_tight, of_loose = np.arange(len(x)) < 100, np.arange(len(x)) >= 100
    assert steps(of_tight) > steps(None) > steps(of_loose)
    assert steps(np.ones(len(x), bool)) == steps(None)


def test_a_few_of_the_fastest_particles_do_not_shorten_the_step():
    """Less than one in a hundred of all, or less than two of the fine ones where there are coarse ones."""
    x, mixed = np.zeros((1000, 3)), np.arange(1000) < 900

    def steps(fast, fine=None):
        pull = np.zeros((1000, 3))
        pull[:fast] = 1e3
        gravity = SimpleNamespace(
            side=SIDE, far=lambda x, mass: 0.5 * pull, near=lambda x, mass, on=None: 0.5 * pull[slice(None) if on is None else on]
        )
        return evolve(State(0.9, x, x), np.ones(1000), gravity, OM, 0.2, 0.3, fine=fine).steps

    assert steps(0) == steps(8) < steps(12)
    assert steps(0) == steps(16, mixed) < steps(20, mixed) == steps(20)


class Counted:
    """Gravity that counts how often its mesh and each particle's pairs are asked for."""

    def __init__(self, of, n):
        self.of, self.side, self.far_asked, self.near_asked = of, of.side, 0, np.zeros(n, int)

    def far(self, *what):
        self.far_asked += 1
        return self.of.far(*what)

    def near(self, x, mass, on=None):
        self.near_asked[slice(None) if on is None else on] += 1
        return self.of.near(x, mass, on)


def test_each_particle_has_steps_of_its_own(monkeypatch):
    """A clump that oscillates among particles that hardly move: these and the mesh are asked for their forces an eighth as often, and all move as with short steps for all."""
    rng = np.random.default_rng(0)
    x = np.concatenate([20 + 0.5 * rng.normal(size=(200, 3)), rng.uniform(0, SIDE, (400, 3))])
    begin, mass = State(0.7, x, np.zeros_like(x)), np.repeat([1.0, 0.2], [200, 400])

    def run(deepest, accuracy, longest=0.02):
        steps, gravity = [0], Counted(Gravity(SIDE, 32, 0.3, OM), len(x))
        monkeypatch.setattr(evolution, "DEEPEST", deepest)
        done = evolve(begin, mass, gravity, OM, 0.3, accuracy, until=0.74, longest=longest, after=lambda state: steps.append(state.steps))
        assert done.a == 0.74 and gravity.far_asked == len(steps)
        return done, gravity.near_asked - 1, np.diff(steps)

    alone, asked, short = run(0, 0.06)
    assert set(short) == {1} and set(asked) == {alone.steps} and alone.steps > 30
    several, asked, short = run(3, 0.06)
    assert set(short) <= {1, 2, 4, 8} and 8 in short and asked.max() == several.steps == short.sum()
    assert asked.min() == len(short) < 0.2 * several.steps and np.median(asked[200:]) < 0.3 * several.steps < asked[:200].min()
    moved = np.linalg.norm(alone.x - x, axis=1)
    off = np.linalg.norm(several.x - alone.x, axis=1)
    assert off.max() < 0.03 * moved.max() and np.median(off[:200]) < 2e-3 * np.median(moved[:200])
    _, asked, short = run(3, 1.0, longest=0.004)  # as long as they may be, they are not cut
    assert set(short) == {1} and len(short) == np.ceil(np.log(0.74 / 0.7) / 0.004)
    _, _, short = run(3, 0.06, longest=0.001)
    assert len(short) == np.ceil(np.log(0.74 / 0.7) / 0.001)


def test_two_kinds_of_steps_meet_at_the_same_time():
    """Under a pull that does not change, wherever the particles are, all come to where the equations of motion say, whatever steps they have."""
    pull = np.geomspace(1, 400, 7)[:, None] * [1.0, -0.5, 0.2]

    def near(x, mass, on=None):
        return 0.9 * pull[slice(None) if on is None else on]

    gravity = SimpleNamespace(side=1e6, far=lambda x, mass: 0.1 * pull, near=near)
    x = np.full((7, 3), 5e5)
    deep = []
    done = evolve(
        State(0.8, x, np.zeros((7, 3))), np.ones(7), gravity, OM, 0.2, 0.02, until=0.83, after=lambda state: deep.append(state.steps)
    )
    assert max(np.diff([0, *deep])) == 8
    a = np.linspace(0.8, 0.83, 3001)
    e = np.sqrt(OM / a**3 + 1 - OM)
    kicked = np.concatenate([[0], np.cumsum(np.diff(a) * 0.5 * ((1 / (a**2 * e))[1:] + (1 / (a**2 * e))[:-1]))])
    there = np.trapezoid(kicked / (a**3 * e), a)
    assert done.p == pytest.approx(pull * kicked[-1], rel=1e-6)
    assert done.x - x == pytest.approx(pull * there, rel=1e-3)


def test_two_bodies_circle_each_other():
    """In a time far below the Hubble time they go round by the angle that Newton's force says, at their distance, ten softenings."""
    apart, eps = 0.02, 0.002
    gravity, mass = Gravity(1.0, 32, eps, OM), np.ones(2)
    pull = gravity._point_mass(mass)[0] / apart**2  # of each on the other
    v = np.sqrt(pull * apart / 2)
    angle = 1.5 * np.pi
    until = np.exp(angle * apart / 2 / v)  # H = 1 today, so ln a runs as time
    x = np.array([[0.5 - apart / 2, 0.5, 0.5], [0.5 + apart / 2, 0.5, 0.5]])
    state = evolve(State(1.0, x, np.array([[0, -v, 0], [0, v, 0]])), mass, gravity, OM, eps, 0.3, until=until)
    separation = (state.x[1] - state.x[0]) * state.a
    assert np.linalg.norm(separation) == pytest.approx(apart, rel=0.02)
    turned = np.arctan2(separation[1], separation[0]) % (2 * np.pi)
    assert turned == pytest.approx(angle, abs=0.15)


def test_the_cosmic_energy_equation_holds(tmp_path):
    """Layzer-Irvine: d(T + W)/da = -(2T + W)/a."""
    n = 16
    waves = Waves(SIDE, n)
    modes = white(waves, 4) * np.sqrt(power(Background(), waves))
    x, p = displaced(waves, modes, OM, 0.05)
    gravity, mass = Gravity(SIDE, 48, 0.15, OM), np.ones(n**3)
    history, saved = [], []

    def look(state):
        history.append((state.a, *energies(state, mass, gravity)))
        if state.steps >= 20 and not saved:
            state.save(tmp_path / "state.npz")
            saved.append(state)

    keep = (0.3, 0.6)
    done = evolve(State(0.05, x, p), mass, gravity, OM, 0.15, 0.4, keep=keep, after=look)
    a, t, w = np.array(history).T
    change = t + w - (t + w)[0]
    work = -np.concatenate([[0], np.cumsum(0.5 * np.diff(np.log(a)) * ((2 * t + w)[1:] + (2 * t + w)[:-1]))])
    assert np.abs(change - work).max() < 0.02 * np.abs(w).max()
    assert np.linalg.norm(done.p.mean(axis=0)) < 1e-3 * np.linalg.norm(done.p, axis=1).mean()
    again = evolve(State.load(tmp_path / "state.npz"), mass, gravity, OM, 0.15, 0.4, keep=keep)
    assert again.steps == done.steps and (again.x == done.x).all() and (again.p == done.p).all()
    assert [k[0] for k in again.kept] == [k[0] for k in done.kept] and len(done.kept) == 2
    assert all((one[1] == two[1]).all() for one, two in zip(again.kept, done.kept, strict=True))


def test_a_damaged_state_is_not_taken_up(tmp_path):
    state = State(0.5, np.random.default_rng(0).uniform(0, 1, (50, 3)), np.zeros((50, 3)), 7, ((0.3, np.ones((50, 3), np.float32)),))
    state.save(tmp_path / "state.npz")
    again, data = State.load(tmp_path / "state.npz"), bytearray((tmp_path / "state.npz").read_bytes())
    assert (again.x == state.x).all() and again.steps == 7 and again.kept[0][0] == 0.3
    assert State.load(tmp_path / "none.npz") is None
    for bad in (data[: len(data) // 2], data[:900] + bytes([data[900] ^ 1]) + data[901:], b""):
        (tmp_path / "state.npz").write_bytes(bad)
        assert State.load(tmp_path / "state.npz") is None
