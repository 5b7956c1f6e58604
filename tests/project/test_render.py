"""The maps of a halo against closed forms: columns of known bodies, rotations, axes, depths, beams."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from bodies import BOX, CENTRE, averaged, ball, cloud, pixel_centres, project, render, views
from scipy.spatial.transform import Rotation
from scipy.stats import qmc

from hpcdiff.cosmology import K_B, KEV_ERG, M_E_C2, M_P, MPC_CM, MSUN_G, SIGMA_T, Background
from hpcdiff.project import fields
from hpcdiff.project.fields import padded_width
from hpcdiff.project.kernel import column
from hpcdiff.project.render import HaloMaps

TILTED = (0.3, -0.5, np.sqrt(1 - 0.34))
TO_CGS = MSUN_G / MPC_CM**3


def box_of_uniform_gas(n_log2: int, z: float = 0.0):
    """Gas, dark matter at their mean densities, filling the box evenly."""
    points = (qmc.Sobol(3, seed=2).random_base2(n_log2) - 0.5) * BOX
    background = Background()
    comoving = {kind: background.rho_mean(z, kind) / (1 + z) ** 3 * BOX**3 / len(points) for kind in ("gas", "dm")}
    gas = cloud(points, comoving["gas"], 4.0, density=1e-30, temperature=1e6, electrons=0.88)
    return {"gas": gas, "dm": cloud(points + 7.0, comoving["dm"], 4.0)}


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_a_uniform_box_is_one(z):
    p = project(fields=["gas", "dm", "total"], npix=16)
    rows = views(16 / (1 + z), 25 / (1 + z), [(0, 0, 1), TILTED], (0, 1, 2), z)
    for field, maps in render(p, rows, box_of_uniform_gas(17, z), z).items():
        assert maps.shape == (6, 16, 16)
        assert abs(maps - 1).max() < 0.05, field
        assert maps.mean(axis=(1, 2)) == pytest.approx(1, abs=0.01), field


def test_a_map_as_wide_as_the_box_sees_kernels_from_the_other_side():
    p = project(fields=["dm"], npix=12)
    maps = render(p, views(BOX, BOX, axes=(0, 1, 2)), {"dm": box_of_uniform_gas(14)["dm"]})
    assert abs(maps["dm"] - 1).max() < 0.01


RC, EDGE, RHO0, TEMPERATURE = 0.4, 6.0, 1e14, 5e7  # Mpc, Mpc, Msun/Mpc^3, K


def beta_model(n_log2: int = 17):
    """Isothermal gas of beta = 2/3, rho0 / (1 + r^2/rc^2) out to EDGE."""
    grid = np.linspace(0, EDGE, 20001)
    enclosed = 4 * np.pi * RHO0 * RC**2 * (grid - RC * np.arctan(grid / RC))
    offset, r = ball(n_log2, grid, enclosed)
    rho = RHO0 / (1 + (r / RC) ** 2)
    mass = enclosed[-1] / len(r)
    h = np.cbrt(3 * 100 * mass / (4 * np.pi * rho))
    return cloud(offset, mass, h, density=rho * TO_CGS, temperature=TEMPERATURE, electrons=1 / 1.13)


def test_an_isothermal_beta_model_whatever_the_sightline_and_the_depth():
    """With l the half depth or the edge: columns 2 rho0 rc^2 arctan(l/b)/b of rho and rho0^2 rc^4 [arctan(l/b)/b^3 + l/(b^2 (l^2+b^2))] of
    rho^2, b^2 = rc^2 + R^2."""
    depth = {"gas": 3.0, "compton_y": 8.0, "sz": 8.0, "xray": 2.0, "temperature": 8.0}
    p = project(fields=list(depth), npix=20, depth=depth)
    rows = views(4.0, 8.0, [(0, 0, 1), TILTED], (0, 2), **{f"depth_{k}_mpc": v for k, v in depth.items()})
    maps = render(p, rows, {"gas": beta_model()})
    distance = pixel_centres(20, 4.0, 5)
    b = np.hypot(RC, distance)

    def columns(deep: float) -> tuple[np.ndarray, np.ndarray]:
        far = np.minimum(deep / 2, np.sqrt(EDGE**2 - distance**2))
        angle = np.arctan(far / b)
        squared = RHO0**2 * RC**4 * (angle / b**3 + far / (b**2 * (far**2 + b**2)))
        return averaged(2 * RHO0 * RC**2 * angle / b, 5), averaged(squared, 5)

    y = SIGMA_T / M_E_C2 * columns(8.0)[0] * MSUN_G / MPC_CM**2 / (1.13 * M_P) * K_B * TEMPERATURE
    light = 1.4e-27 * 1.2 * np.sqrt(TEMPERATURE) * 1.13 * (TO_CGS / (1.13 * M_P)) ** 2 * columns(2.0)[1] * MPC_CM
    truth = {"gas": columns(3.0)[0] / (Background().rho_mean(0, "gas") * 3.0), "compton_y": y, "sz": 2.7255e6 * y, "xray": light}
    ring = averaged(distance, 5) > 0.3  # the kernel smooths the core
    for field, expected in truth.items():
        for view in range(4):
            ratio = (maps[field][view] / expected)[ring]
            assert ratio.mean() == pytest.approx(1, abs=0.01), (field, view)
            assert ratio.std() < 0.03, (field, view)
    assert maps["temperature"] == pytest.approx(TEMPERATURE * K_B / KEV_ERG, rel=1e-5)


def wright_brainerd(x: np.ndarray) -> np.ndarray:
    """Column of an NFW halo over rs rho_s at x = R/rs (Wright & Brainerd 2000, Eq. 11)."""
    x = np.where(x == 1, 1 + 1e-9, x)
    root = np.sqrt(abs(x**2 - 1))
    inner = 2 / root * np.arctanh(np.sqrt(np.maximum(1 - x, 0) / (1 + x)))
    outer = 2 / root * np.arctan(np.sqrt(np.maximum(x - 1, 0) / (1 + x)))
    return 2 / (x**2 - 1) * (1 - np.where(x < 1, inner, outer))


def test_an_nfw_halo():
    rs, rho_s = 0.3, 1e15
    grid = np.concatenate([[0], np.geomspace(1e-4, 90, 20000)])
    enclosed = 4 * np.pi * rho_s * rs**3 * (np.log1p(grid) - grid / (1 + grid))
    offset, r = ball(17, grid * rs, enclosed)
    x = np.maximum(r / rs, 1e-3)
    mass = enclosed[-1] / len(r)
    h = np.cbrt(3 * 80 * mass / (4 * np.pi * rho_s / (x * (1 + x) ** 2)))
    rows = views(3.6, 59.0, [(0, 0, 1)], (0, 1))
    maps = render(project(fields=["dm"], npix=24), rows, {"dm": cloud(offset, mass, np.minimum(h, 5.0))})["dm"]
    distance = pixel_centres(24, 3.6, 7)
    expected = averaged(wright_brainerd(distance / rs), 7) * rs * rho_s / (Background().rho_mean(0, "dm") * 59.0)
    for low, high in ((0.15, 0.4), (0.4, 0.8), (0.8, 1.3), (1.3, 1.8)):
        ring = (averaged(distance, 7) > low) & (averaged(distance, 7) < high)
        for view in maps:
            assert view[ring].sum() == pytest.approx(expected[ring].sum(), rel=0.015), low
            assert (view[ring] / expected[ring]).std() < 0.05


def test_a_body_of_two_phases_has_the_spectroscopic_temperature():
    """Everywhere sum m rho T^(1/4) / sum m rho T^(-3/4) (Mazzotta et al. 2004); where nothing is, 0."""
    place = np.repeat(np.random.default_rng(0).uniform(-0.9, 0.9, (300, 3)) * [0.5, 1, 1], 2, axis=0)  # twins, one of each phase
    mass, rho, kev = np.tile([2.0, 7.0], 300), np.tile([1e-27, 3e-28], 300), np.tile([2.0, 9.0], 300)
    gas = cloud(place, mass * 1e10, 0.3, density=rho, temperature=kev * KEV_ERG / K_B, electrons=0.88)
    t = render(project(fields=["temperature"], npix=32), views(4, 4), {"gas": gas})["temperature"][0]
    w = mass[:2] * rho[:2] * kev[:2] ** -0.75
    assert t[t > 0] == pytest.approx((w * kev[:2]).sum() / w.sum(), rel=1e-5)
    distance = np.abs((np.arange(32) - 15.5) / 8)
    assert (t[distance > 0.95] == 0).all() and (t[distance < 0.3][:, distance < 0.8] > 0).all()


def bar(n: int = 4000) -> np.ndarray:
    """A bar along (1, 2, -1) with a knot at one end, (n, 3) Mpc: no symmetry that a wrong axis could hide behind."""
    rng = np.random.default_rng(3)
    along = np.array([1.0, 2.0, -1.0]) / np.sqrt(6)
    knot = np.array([1.1, 1.5, -1.4]) + rng.normal(0, 0.1, (n // 4, 3))
    return np.concatenate([np.linspace(-2, 2, n - n // 4)[:, None] * along + rng.normal(0, 0.05, (n - n // 4, 3)), knot])


@pytest.mark.parametrize("z", [0.0, 0.7])
def test_a_tilted_sightline_of_a_bar_is_the_rotated_bar(z):
    """The frame turns z to the sightline the shortest way; axes x, y, z give (y, z), (z, x), (x, y) of it."""
    offset = bar()
    rows = views(5, 5, [(0, 0, 1), TILTED, (-1, 0, 0)], (0, 1, 2), z)
    maps = render(project(fields=["dm"], npix=25), rows, {"dm": cloud(offset, 1.0, 1e-6)}, z)["dm"]
    edges, mean = np.linspace(-2.5, 2.5, 26), Background().rho_mean(z, "dm") * 5
    for view, (sightline, axis) in enumerate(zip(rows["sightline"], rows["axis"], strict=True)):
        turn = np.cross([0, 0, 1], sightline)
        sine = np.linalg.norm(turn)
        turn = turn / sine * np.arctan2(sine, sightline[2]) if sine else turn
        seen = Rotation.from_rotvec(turn).inv().apply(offset) / (1 + z)
        i, j = {0: (1, 2), 1: (2, 0), 2: (0, 1)}[int(axis)]
        inside = abs(seen[:, axis]) < 2.5
        expected = np.histogram2d(seen[inside, i], seen[inside, j], [edges, edges])[0] / 0.04 / mean
        assert expected.max() > 50 / 0.04 / mean
        assert maps[view] == pytest.approx(expected, rel=1e-5, abs=float(1e-6 * expected.max())), (view, axis)


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_a_kernel_is_as_wide_as_its_physical_support_radius(z):
    image = render(project(fields=["dm"], npix=80), views(4, 4, z=z), {"dm": cloud(np.zeros((1, 3)), 1.0, 1.6)}, z)["dm"][0]
    h = 1.6 / (1 + z)
    expected = averaged(column(pixel_centres(80, 4.0, 3) / h), 3) / h**2 / (Background().rho_mean(z, "dm") * 4)
    assert image == pytest.approx(expected, abs=float(0.02 * expected.max()))  # one kernel alone, on a coarser level
    assert abs(image - expected).sum() < 0.01 * expected.sum()


def test_a_sphere_looks_the_same_from_everywhere():
    maps = render(project(fields=["gas"], npix=20), views(4, 8, [(0, 0, 1), TILTED, (0.6, 0.8, 0)], (0, 1, 2)), {"gas": beta_model(16)})[
        "gas"
    ]
    assert abs(maps / maps.mean(axis=0) - 1).max() < 0.1
    assert abs(maps / maps.mean(axis=0) - 1).mean() < 0.01


def test_each_field_has_its_own_depth():
    """A second cluster 30 Mpc behind the first is in the y map of depth 100, and in no mass of depth 12.8."""
    box = 200.0
    offset = np.concatenate([np.zeros((50, 3)), np.tile([0.9, 0.0, 30.0], (50, 1))])
    gas = cloud(offset, 1e12, 0.2, density=1e-28, temperature=5e7, electrons=0.88)
    gas.position = (CENTRE + offset) % box
    depth = {"sz": 100.0, "gas": 12.8, "dm": 12.8, "total": 100.0}
    p = project(fields=list(depth), npix=32, depth=depth)
    rows = views(4.0, 100.0, **{f"depth_{field}_mpc": d for field, d in depth.items()})
    maps = render(p, rows, {"gas": gas, "dm": gas}, box=box)
    pixel = (4.0 / 32) ** 2
    for field, near, far in (("sz", 1, 1), ("gas", 1, 0), ("dm", 1, 0), ("total", 2, 2)):
        halves = [maps[field][0, :19].sum(dtype=float), maps[field][0, 19:].sum(dtype=float)]
        one = 50e12 / pixel / (Background().rho_mean(0, field) * depth[field]) if field != "sz" else halves[0]
        assert halves == pytest.approx([near * one, far * one], rel=1e-4), field


FWHM = 2 * np.sqrt(2 * np.log(2))


def gaussian(npix: int, width: float, oversample: int, fwhm: float, at: float) -> np.ndarray:
    """A line of pixels of a Gaussian about `at`, taken at the finer pixels' centres and averaged; it sums to 1 / pixel."""
    fine = width / (npix * oversample)
    x = (np.arange(npix * oversample) + 0.5) * fine - width / 2 - at
    line = np.exp(-0.5 * (x * FWHM / fwhm) ** 2) * FWHM / fwhm / np.sqrt(2 * np.pi)
    return line.reshape(npix, oversample).mean(axis=1)


@pytest.mark.parametrize(("oversample", "width"), [(1, 6.4), (4, 6.4), (8, 1.7)])
def test_a_beam_makes_a_point_a_gaussian_of_its_width_and_flux(oversample, width):
    npix, fwhm = 32, 0.5
    fine = width / npix / oversample
    place = np.array([0.213, -0.117, 0.0])
    place[:2] = (np.floor(place[:2] / fine) + 0.5) * fine  # a pixel's centre: the grid itself moves no light then
    p = project(fields=["dm", "star"], npix=npix, oversample=oversample, beam={"dm": fwhm})
    body = cloud(place[None], 1e13, 1e-4)
    maps = render(p, views(width, 4.0, beam_dm_mpc=fwhm), {"dm": body, "star": body})
    column = 1e13 / (Background().rho_mean(0, "dm") * 4.0)
    expected = column * np.outer(*(gaussian(npix, width, oversample, fwhm, at) for at in place[:2]))
    assert maps["dm"][0] == pytest.approx(expected, abs=float(1e-5 * expected.max()))
    assert (maps["star"][0] > 0).sum() == 1, "a field without a beam stays sharp"
    if width > 6:
        pixel = width / npix
        assert maps["dm"].sum(dtype=float) * pixel**2 == pytest.approx(column, rel=1e-5)
        x = (np.arange(npix) + 0.5) * pixel - width / 2 - place[0]
        profile = maps["dm"][0].sum(axis=1, dtype=float)
        spread = (profile * x**2).sum() / profile.sum() - (pixel**2 - fine**2) / 12
        assert np.sqrt(spread) * FWHM == pytest.approx(fwhm, rel=1e-3)


def test_a_resolved_body_is_smoothed_the_same_on_any_grid():
    """Pixel averages of the smoothed body itself: those made with 2 pixels a beam are those made with 16."""
    offset = np.array([[0.13, 0.31, 0.0], [-0.7, -0.4, 0.0], [0.9, -0.8, 0.0]])
    body = {"dm": cloud(offset, 1e13, 0.9)}
    coarse, fine = (
        render(project(fields=["dm"], npix=24, oversample=o, beam=0.3), views(3.6, 4.0, beam_dm_mpc=0.3), body)["dm"] for o in (1, 8)
    )
    assert coarse == pytest.approx(fine, abs=float(2e-3 * fine.max()))


def test_the_beam_brings_light_from_beyond_the_map():
    """A uniform sheet stays uniform to the very edge, and a point outside leaves its Gaussian's wing inside."""
    p = project(fields=["dm"], npix=16, oversample=4, beam=0.8)
    rows = views(4.0, 10.0, beam_dm_mpc=0.8)
    assert padded_width(rows, p)[0] == pytest.approx(4 + 2 * 5 * 0.8 / FWHM, abs=2 * 4 / 64)
    uniform = render(p, views(8.0, 25.0, beam_dm_mpc=0.8), {"dm": box_of_uniform_gas(16)["dm"]})["dm"]
    assert abs(uniform - 1).max() < 0.05
    at = 2 + 8.5 * 4 / 64
    outside = render(p, rows, {"dm": cloud(np.array([[at, 1 / 32, 0]]), 1e13, 1e-4)})["dm"][0]
    expected = np.outer(gaussian(16, 4.0, 4, 0.8, at), gaussian(16, 4.0, 4, 0.8, 1 / 32)) * 1e13 / (Background().rho_mean(0, "dm") * 10)
    assert outside == pytest.approx(expected, abs=float(1e-5 * expected.max()))


def test_oversampling_changes_nothing_without_a_beam():
    """An average of averages is the average."""
    body, rows = {"gas": beta_model(12)}, views(4.0, 8.0, [TILTED], (0, 2))
    once = render(project(fields=["gas", "xray"], npix=16), rows, body)
    often = render(project(fields=["gas", "xray"], npix=16, oversample=8), rows, body)
    for field in once:
        assert often[field] == pytest.approx(once[field], rel=5e-3, abs=float(5e-4 * once[field].max()))
        assert often[field].sum(dtype=float) == pytest.approx(once[field].sum(dtype=float), rel=1e-4)


def test_a_temperature_is_smoothed_as_what_is_seen_not_as_a_map():
    """Two clumps of different brightness blend by their brightness, and the pixels without light stay 0."""
    gas = cloud(
        np.array([[-0.625, 0.125, 0], [0.625, 0.125, 0]]), 1e12, 1e-3, density=[1e-27, 9e-27], temperature=[2e7, 8e7], electrons=0.9
    )
    p = project(fields=["temperature"], npix=20, oversample=2, beam=1.0)
    t = render(p, views(10.0, 4.0, beam_temperature_mpc=1.0), {"gas": gas})["temperature"][0]
    kev = np.array([2e7, 8e7]) * K_B / KEV_ERG
    light = np.stack([w * gaussian(20, 10.0, 2, 1.0, at) for w, at in zip([1, 9] * kev**-0.75, (-0.625, 0.625), strict=True)])
    expected = (light * kev[:, None]).sum(axis=0) / light.sum(axis=0)
    assert t[7:13, 10] == pytest.approx(expected[7:13], rel=1e-4)
    assert np.ptp(expected[7:13]) > 1
    assert (t[0] == 0).all() and (t[:, -1] == 0).all() and t.min() >= 0 and t.max() < kev[1] * 1.001


def test_the_mesh_is_a_cube_and_near_the_exact_column():
    """Kernels of several cells: the mesh's point samples are the exact averages within a few percent, and are cut at its faces."""
    body = {"gas": beta_model(13)}
    rows = views(6.0, 6.0, [TILTED], (0, 1, 2))
    exact, mesh = (render(project(fields=["gas", "xray"], npix=32, method=m), rows, body) for m in ("exact", "mesh"))
    middle = pixel_centres(32, 6.0) < 2.0
    for field in ("gas", "xray"):
        assert mesh[field][:, middle] == pytest.approx(exact[field][:, middle], rel=0.25)
        assert mesh[field][:, middle].sum() == pytest.approx(exact[field][:, middle].sum(), rel=0.02)
    ball_in_front = {"dm": cloud(np.array([[0.0, 0.0, 2.9]]), 1e13, 1.0)}
    whole, cut = (render(project(fields=["dm"], npix=32, method=m), views(6, 6), ball_in_front)["dm"].sum() for m in ("exact", "mesh"))
    assert 0.5 < cut / whole < 0.75, "its kernel beyond the face is gone"


def test_bits_depend_on_the_particles_alone():
    """Not on pieces, threads, or which sightlines are made together."""
    p = project(fields=["gas", "dm", "sz", "temperature"], npix=24, oversample=2, beam=0.4)
    keys = {f"beam_{field}_mpc": 0.4 for field in p.fields}
    lines = [(0, 0, 1), TILTED, (0.6, 0.8, 0)]
    gas = beta_model(14)
    bodies = {"gas": gas, "dm": cloud(bar(), 1e10, 0.2)}
    whole = render(p, views(4, 4, lines, (0, 1, 2), **keys), bodies)
    pieces = render(p, views(4, 4, lines, (0, 1, 2), **keys), bodies, pieces=7, threads=3)
    last = render(p, views(4, 4, lines[2:], (0, 1, 2), **keys), bodies)
    for field in p.fields:
        assert whole[field].tobytes() == pieces[field].tobytes(), field
        assert whole[field][6:].tobytes() == last[field].tobytes(), field


def promised_bytes(p, rows: dict) -> float:
    """Of these views' images, whatever comes."""
    return HaloMaps.view_bytes(p, rows, dict.fromkeys(fields.FIELDS_OF, np.inf)).sum()


def test_memory_is_as_promised():
    """What a halo's canvases hold when full stays below what the planner is told, and not far."""
    p = project(fields=["gas", "sz", "dm"], npix=64, oversample=4)
    rows = views(4, 4, axes=(0, 1, 2))
    n = 400_000
    particles = cloud(np.random.default_rng(0).uniform(-1.9, 1.9, (n, 3)), 1e10, 0.02, density=1e-28, temperature=1e7, electrons=0.9)
    tables = {
        kind: np.column_stack([particles.index, particles.position, particles.h, np.ones((n, k))]) for kind, k in (("gas", 2), ("dm", 1))
    }
    tracemalloc.start()
    maps = HaloMaps(p, Background(), 0.0, BOX, rows, 1)
    for kind, table in tables.items():
        maps.add(kind, table)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    promised = promised_bytes(p, rows)
    assert 0.4 * promised < held < 1.05 * promised


def test_memory_counts_an_image_for_every_depth_view_and_weight():
    rows = views(4, 4, axes=(0, 1, 2))
    pair = promised_bytes(project(fields=["sz", "compton_y"], npix=64), rows)
    assert pair == promised_bytes(project(fields=["sz"], npix=64), rows) == 3 * promised_bytes(project(fields=["sz"], npix=64), views(4, 4))
    deep = rows | {"depth_sz_mpc": rows["depth_mpc"] * 2, "depth_compton_y_mpc": rows["depth_mpc"]}
    assert promised_bytes(project(fields=["sz", "compton_y"], npix=64), deep) == 2 * pair
