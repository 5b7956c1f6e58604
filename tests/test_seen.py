"""What maps are like: closed forms of each number; training maps are familiar, and each mistake is noticed by the number that is there for it."""

import json

import numpy as np
import pytest

from hpcdiff import seen

NPIX = 64


def clusters(n, seed=0):
    """Round clusters of a hundredfold range of brightness, peak near the centre, all positive."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:NPIX, :NPIX] - (NPIX - 1) / 2
    s = rng.uniform(4, 7, n)[:, None, None]
    return 10 ** rng.uniform(0, 2, n)[:, None, None] * (np.exp(-(x**2 + y**2) / (2 * s**2)) + 1e-4)


@pytest.fixture(scope="module")
def known():
    return {"sz": seen.bounds([seen.describe(clusters(100)), seen.describe(clusters(100, 1))])}


def test_closed_forms():
    x = np.zeros((3, NPIX, NPIX))
    x[0, 40, 20], x[0, 0, 0] = 8.0, -2.0
    x[1] = 3.0
    d = seen.describe(x.astype(np.float32))
    assert all(v.shape == (3,) and v.dtype == np.float64 for v in d.values()) and set(d) == set(seen.SAID)
    assert d["total"][0] == 6 and d["peak"][0] == 8 and d["negative"][0] == 1 / NPIX**2
    assert abs(d["offset"][0] - np.hypot(8.5, 11.5)) <= np.sqrt(2)  # the peak of a mean over 3 x 3 lies anywhere in it
    assert d["centre"][1] == 3 and d["edge"][1] == 3 and d["noise"][1] == 0
    inside = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 8
    assert d["concentration"][1] == pytest.approx(inside.mean(), rel=1e-12) and d["concentration"][2] == 0


def test_noise_is_that_of_the_pixels_and_not_of_the_cluster():
    rng = np.random.default_rng(2)
    smooth = clusters(4)
    noisy = smooth + rng.normal(0, 0.7, smooth.shape)
    assert seen.describe(noisy)["noise"] == pytest.approx([0.7] * 4, rel=0.1)
    assert (seen.describe(smooth)["noise"] < 0.002 * smooth.max((1, 2))).all()


def test_training_maps_and_others_like_them_are_familiar(known):
    json.dumps(known, allow_nan=False)
    assert seen.unlike({"sz": clusters(100)}, known) == []
    assert seen.unlike({"sz": clusters(300, 7)}, known) == []


@pytest.mark.parametrize(
    ("quantity", "wrong"),
    [
        ("total", lambda x: x * 1e6),  # K for uK
        ("peak", lambda x: x * 1e-3),
        ("centre", lambda x: -x),
        ("concentration", lambda x: np.repeat(np.repeat(x[:, 16:48, 16:48], 2, 1), 2, 2)),  # twice the scale
        ("offset", lambda x: np.roll(x, 10, 2)),
        ("noise", lambda x: x + np.random.default_rng(3).normal(0, 0.2 * x.max(), x.shape)),
        ("negative", lambda x: x - 0.5 * x.max()),
        ("edge", lambda x: x + 0.1 * x.max()),
    ],
)
def test_every_mistake_is_noticed(known, quantity, wrong):
    x = clusters(1, 9)
    assert seen.unlike({"sz": x}, known) == []
    lines = seen.unlike({"sz": wrong(x)}, known)
    assert any(line.startswith(f"sz: {quantity} (") and "training range" in line for line in lines), lines


def test_a_line_names_value_range_unit_and_the_worst_of_several(known):
    x = clusters(3, 9)
    x[1] *= 1e4
    lines = seen.unlike({"sz": x, "xray": x}, known)  # nothing is known of xray
    line = next(line for line in lines if "total" in line)
    low, high = known["sz"]["total"]
    assert f"{x[1].sum():.4g} uK is above the training range, {low:.4g} to {high:.4g} uK, in 1 of 3 maps" in line
    assert all(line.startswith("sz: ") for line in lines) and "\n" not in "".join(lines)


def test_bounds_are_the_extremes_moved_outwards():
    x = clusters(50)
    total, (low, high) = x.sum((1, 2)), seen.bounds([seen.describe(x)])["total"]
    assert low == pytest.approx(total.min() * (1 - seen.MARGIN)) and high == pytest.approx(total.max() * (1 + seen.MARGIN))
    parts = seen.bounds([seen.describe(x[:20]), seen.describe(x[20:])])
    assert parts == seen.bounds([seen.describe(x)])


def test_models_from_before_a_quantity_say_nothing_of_it(known):
    assert seen.unlike({"sz": 1e6 * clusters(1)}, {"sz": {}}) == [] and seen.unlike({"sz": 1e6 * clusters(1)}, {}) == []
