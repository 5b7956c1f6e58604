"""Forces of the compiled loops and of torch against a direct Ewald sum and each other, momentum, threads, and the edges of tiles and cells."""

import numpy as np
import pytest
import torch

from hpcdiff.errors import UserError
from hpcdiff.network import cannot_compile
from hpcdiff.simulate.nbody import torch_pairs
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.torch_gravity import TorchGravity

SIDE, EPS, OM = 10.0, 0.05, 0.3


def softened(r, eps):
    """Pull over r and depth of a unit mass with the density of Wendland's C2 function within three eps."""
    ball, v = 3 * eps, np.minimum(r / (3 * eps), 1)
    pull = (14 - 84 * v**2 + 140 * v**3 - 90 * v**4 + 21 * v**5) / ball**3
    depth = (3 - 7 * v**2 + 21 * v**4 - 28 * v**5 + 15 * v**6 - 3 * v**7) / ball
    return np.where(v < 1, pull, 1 / np.maximum(r, ball) ** 3), np.where(v < 1, depth, 1 / np.maximum(r, ball))


def ewald(x, m, eps):
    """-grad(phi) and phi of softened masses G m in a periodic box with a uniform background, by direct summation."""
    from scipy.special import erfc

    alpha = 2 / SIDE
    d = x - x[:, None]
    d -= SIDE * np.round(d / SIDE)
    force, phi = np.zeros_like(x), np.zeros(len(x))
    span = np.arange(-2, 3)
    for n in np.stack(np.meshgrid(span, span, span), -1).reshape(-1, 3):
        s = d + SIDE * n
        r = np.linalg.norm(s, axis=-1)
        if not n.any():
            np.fill_diagonal(r, np.inf)
        damped = erfc(alpha * r)
        r_safe = np.where(np.isinf(r), 1, r)
        f = (damped + 2 * alpha * r_safe / np.sqrt(np.pi) * np.exp(-((alpha * r) ** 2))) / r_safe**3 * ~np.isinf(r)
        p = damped / r
        if not n.any():
            pull, depth = softened(r_safe, eps)
            f += (pull - r_safe**-3.0) * ~np.isinf(r)
            p += depth * ~np.isinf(r) - 1 / r
        force += np.einsum("ij,ijk,j->ik", f, s, m)
        phi -= p @ m
    waves = np.arange(-5, 6)
    for n in np.stack(np.meshgrid(waves, waves, waves), -1).reshape(-1, 3):
        if n.any():
            k = 2 * np.pi / SIDE * n
            weight = 4 * np.pi / SIDE**3 * np.exp(-(k @ k) / (4 * alpha**2)) / (k @ k)
            phase = d @ k
            force += weight * (np.sin(phase) @ m)[:, None] * k
            phi -= weight * np.cos(phase) @ m
    return force, phi + 2 * alpha / np.sqrt(np.pi) * m + np.pi / (alpha**2 * SIDE**3) * m.sum()


@pytest.fixture(scope="module")
def scene():
    """Half of the particles everywhere, half in two clumps, one at a corner of the box."""
    rng = np.random.default_rng(1)
    x = (
        np.concatenate([rng.uniform(0, SIDE, (200, 3)), 0.3 * rng.normal(size=(100, 3)), [6, 5, 4] + 0.6 * rng.normal(size=(100, 3))])
        % SIDE
    )
    return x, rng.uniform(0.5, 2, len(x))


@pytest.fixture(scope="module")
def exact(scene):
    x, mass = scene
    return ewald(x, Gravity(SIDE, 32, EPS, OM)._point_mass(mass), EPS)


@pytest.fixture(params=[Gravity, TorchGravity])
def kind(request):
    torch.set_num_threads(1)  # numba's loops share the number of OpenMP's threads with torch, and leave it as large as theirs
    return request.param


def test_forces_are_those_of_an_ewald_sum(scene, exact, kind):
    x, mass = scene
    gravity = kind(SIDE, 32, EPS, OM)
    expected, phi = exact
    got = gravity.forces(x, mass)
    error = np.linalg.norm(got - expected, axis=1)
    assert np.sqrt(np.mean(error**2)) < 0.005 * np.sqrt(np.mean(expected**2))
    assert np.percentile(error / np.linalg.norm(expected, axis=1), 90) < 0.01
    got = gravity.potential(x, mass)
    assert np.abs(got - phi).max() < 0.005 * phi.std()


def test_of_two_softenings_the_larger_counts(scene, kind):
    x, mass = scene
    eps = np.random.default_rng(2).choice([EPS, 4 * EPS], len(x))
    gravity = kind(SIDE, 32, eps, OM)
    expected, phi = ewald(x, gravity._point_mass(mass), np.maximum(eps[:, None], eps))
    got = gravity.forces(x, mass)
    error = np.linalg.norm(got - expected, axis=1)
    assert np.sqrt(np.mean(error**2)) < 0.005 * np.sqrt(np.mean(expected**2))
    assert np.abs(gravity.potential(x, mass) - phi).max() < 0.005 * phi.std()
    assert np.linalg.norm((got * mass[:, None]).sum(axis=0)) < 1e-4 * np.linalg.norm(got * mass[:, None], axis=1).sum()
    alike = kind(SIDE, 32, np.full(len(x), EPS), OM).forces(x, mass)
    assert np.array_equal(alike, kind(SIDE, 32, EPS, OM).forces(x, mass)) and not np.allclose(alike, got, rtol=0.05)


@pytest.mark.parametrize("v", [0.03, 0.2, 0.5, 0.8, 0.97, 1.05, 1.3])
def test_a_pair_pulls_as_the_mass_of_the_softening_s_ball_within_its_distance(kind, v):
    """Density 21 / (2 pi R^3) (1 - v)^4 (1 + 4 v), integrated; the depth is what the pull does from there to the ball's radius."""
    eps = 0.1
    ball = 3 * eps
    shells = np.linspace(0, 1, 200001)
    density = 21 / (2 * np.pi) * (1 - shells) ** 4 * (1 + 4 * shells)
    within = np.concatenate([[0], np.cumsum(np.diff(shells) * (4 * np.pi * density * shells**2)[1:])])
    assert within[-1] == pytest.approx(1, abs=1e-4)
    gravity = kind(SIDE, 48, eps, OM)
    x = np.array([[3.0, 3.0, 3.0], [3.0 + v * ball, 3.0, 3.0], [3.0 + v * ball, 3.0 + 1.05 * ball, 3.0]])
    near, far = (gravity.forces(x[which], np.ones(2))[0] for which in ([0, 1], [0, 2]))
    unit = gravity._point_mass(np.ones(2))[0]
    pull = unit * np.interp(v, shells, within) / (v * ball) ** 2
    assert near[0] == pytest.approx(pull, rel=0.01, abs=1e-3 * unit / ball**2)
    assert np.linalg.norm(far) == pytest.approx(unit / np.sum((x[2] - x[0]) ** 2), rel=0.01)  # beyond the ball: a point's
    edge = np.array([[3.0, 3.0, 3.0], [3.0 + ball, 3.0, 3.0]])
    deeper = gravity.potential(edge, np.ones(2))[0] - gravity.potential(x[:2], np.ones(2))[0]
    path = np.linspace(min(v, 1), max(v, 1), 2001)
    work = np.trapezoid(np.interp(path, shells, within) / path**2, path) * unit / ball
    assert abs(deeper) == pytest.approx(work, rel=0.01, abs=1e-3 * unit / ball) and (deeper > 0) == (v < 1)


def test_momentum_is_conserved(scene, kind):
    x, mass = scene
    pull = kind(SIDE, 32, EPS, OM).forces(x, mass) * mass[:, None]
    assert np.linalg.norm(pull.sum(axis=0)) < 1e-4 * np.linalg.norm(pull, axis=1).sum()


def test_forces_on_some_are_those_that_they_have_among_all(scene, kind):
    x, mass = scene
    gravity, rng = kind(SIDE, 32, EPS, OM), np.random.default_rng(4)
    every = gravity.near(x, mass)
    assert np.abs(gravity.far(x, mass) + every - gravity.forces(x, mass)).max() < 1e-12 * np.abs(every).max()
    for on in (rng.random(len(x)) < 0.3, np.arange(len(x)) == 7, np.ones(len(x), bool)):
        some = gravity.near(x, mass, on)
        assert some.shape == (on.sum(), 3) and np.abs(some - every[on]).max() < 1e-12 * np.abs(every).max()


def test_forces_do_not_depend_on_where_the_box_is_cut(scene, kind):
    x, mass = scene
    gravity = kind(SIDE, 32, EPS, OM)
    whole_cells = np.array([3, 11, 29]) * SIDE / 32
    a, b = gravity.forces(x, mass), gravity.forces((x + whole_cells) % SIDE, mass)
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


def test_any_number_of_threads_gives_the_same_bits(scene):
    x, mass = scene
    one, two = (Gravity(SIDE, 32, EPS, OM, threads).forces(x, mass) for threads in (1, 2))
    assert (one == two).all()
    on = np.random.default_rng(4).random(len(x)) < 0.5
    assert (Gravity(SIDE, 32, EPS, OM, 2).near(x, mass, on) == Gravity(SIDE, 32, EPS, OM, 1).near(x, mass)[on]).all()


def test_torch_gives_the_same_bits_again(scene):
    x, mass = scene
    for of in ("forces", "potential"):
        one, two = (getattr(TorchGravity(SIDE, 32, EPS, OM), of)(x, mass) for _ in range(2))
        assert (one == two).all()


def clustered(n):
    """Clumps of an isothermal profile about points of which one is a corner of the box, and particles between them."""
    rng = np.random.default_rng(n)
    centres = np.concatenate([np.zeros((1, 3)), rng.uniform(0, SIDE, (5, 3))])
    way = rng.normal(size=(n // 2, 3))
    clumps = centres[rng.integers(0, 6, n // 2)] + way / np.linalg.norm(way, axis=1)[:, None] * rng.uniform(0, 1, (n // 2, 1))
    return np.concatenate([clumps, rng.uniform(0, SIDE, (n - n // 2, 3))]) % SIDE


def placed(*points):
    return np.array(points, float)


ABOVE, BELOW = 0.0, np.nextafter(SIDE, 0)
SCENES = {
    "clustered": clustered(3000),
    "at the walls": placed([ABOVE] * 3, [BELOW] * 3, [BELOW, 5, ABOVE], [0.2, 5, 0.1], [BELOW, BELOW, 0.1], [5, 5, 5], [5, 5.2, BELOW]),
    "in one cell": 4.0 + 1e-3 * np.random.default_rng(3).uniform(size=(300, 3)),
    "in one place": np.full((70, 3), 2.5),
    "fewer than a tile": placed([1, 1, 1], [1.3, 1, 9.9], [9.8, 1.1, 1]),
    "one": placed([3, 4, 5]),
    "a tile": clustered(64),
    "a tile and one": clustered(65),
}


@pytest.mark.parametrize("name", SCENES)
def test_torch_gives_the_forces_and_the_potential_of_the_compiled_loops(name):
    torch.set_num_threads(1)
    x = SCENES[name]
    mass = np.random.default_rng(0).uniform(0.5, 2, len(x))
    ours, loops = TorchGravity(SIDE, 32, EPS, OM), Gravity(SIDE, 32, EPS, OM)
    got, phi = ours.forces(x, mass), ours.potential(x, mass)
    expected, depth = loops.forces(x, mass), loops.potential(x, mass)
    scale = max(np.sqrt(np.mean(np.sum(expected**2, axis=1))), 1e-3 * loops._point_mass(mass).max() / EPS**2)  # two in one place have none
    assert np.linalg.norm(got - expected, axis=1).max() < 1e-5 * scale
    assert np.abs(phi - depth).max() < 1e-5 * np.sqrt(np.mean(depth**2))


@pytest.mark.parametrize("n", [5, 64, 700, 4000])
def test_tiles_that_may_be_within_reach_hold_each_pair_within_reach_once(n):
    x, reach = clustered(n), 1.4
    tiles = torch_pairs.tiled(torch.tensor(x), *torch.ones(2, n))
    assert sorted(tiles.order.flatten().tolist())[:n] == list(range(n)) and tiles.mass.sum() == n
    moves = torch.tensor([-SIDE, 0.0, SIDE])
    images = torch.cartesian_prod(moves, moves, moves)
    i, j, image = torch_pairs.near(tiles.boxes, images, reach)
    assert (i.diff() >= 0).all()
    found = 0
    for a, b, s in zip(tiles.x[i].mT, tiles.x[j].mT, images[image], strict=True):
        found += int((torch.cdist(a.double(), b.double() + s, compute_mode="donot_use_mm_for_euclid_dist") < reach).sum())
    d = tiles.x.mT.reshape(-1, 3).double()
    d = (d[:, None] - d + SIDE / 2) % SIDE - SIDE / 2
    assert found == int((d.square().sum(2) < reach**2).sum())
    assert n < 4000 or len(i) < 0.7 * len(tiles.x) ** 2


@pytest.mark.parametrize("at_once", [1, 7, 10000])
def test_forces_do_not_depend_on_how_many_pairs_are_calculated_at_once(at_once):
    x = SCENES["clustered"]
    torch.set_num_threads(1)
    gravity = TorchGravity(SIDE, 32, EPS, OM)
    whole, gravity.pairs.chunk = gravity.forces(x, np.ones(len(x))), at_once
    parts = gravity.forces(x, np.ones(len(x)))
    assert np.abs(parts - whole).max() < 1e-12 * np.abs(whole).max()


@pytest.mark.skipif(cannot_compile(torch.device("cpu")) is not None, reason="no compiler")
def test_compiled_arithmetic_gives_the_same_forces(scene):
    x, mass = scene
    torch.set_num_threads(1)
    eager, compiled = (TorchGravity(SIDE, 32, EPS, OM, compiled=c).forces(x, mass) for c in (False, True))
    assert np.abs(eager - compiled).max() < 1e-6 * np.abs(eager).max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("compiled", [False, None])
def test_a_gpu_gives_the_forces_of_the_compiled_loops_and_the_same_bits_again(compiled):
    x, mass = SCENES["clustered"], np.random.default_rng(0).uniform(0.5, 2, 3000)
    loops = Gravity(SIDE, 32, EPS, OM)
    for of in ("forces", "potential"):
        one, two = (getattr(TorchGravity(SIDE, 32, EPS, OM, "cuda", compiled), of)(x, mass) for _ in range(2))
        expected = getattr(loops, of)(x, mass)
        assert (one == two).all() and np.abs(one - expected).max() < 1e-5 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2.00 GiB", "cuFFT error: CUFFT_ALLOC_FAILED"])
def test_too_little_memory_is_one_line(monkeypatch, said):
    gravity = TorchGravity(SIDE, 32, EPS, OM)

    def short(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(gravity.pairs, "forces", short)
    with pytest.raises(UserError, match="memory of cpu is too small .* simulate.device=cpu"):
        gravity.forces(SCENES["one"], np.ones(1))
