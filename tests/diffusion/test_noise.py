"""Counter-based noise: the generator's known answers, its law, and its independence of the batch."""

import numpy as np
import pytest
import torch

from hpcdiff.diffusion import derive_key, normal, rademacher, uniform
from hpcdiff.diffusion.noise import philox

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's kat_vectors
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    words = philox([torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key])
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_normal_moments_and_tails():
    x = normal(derive_key(3, torch.arange(64)), 5, (2, 64, 64)).double().flatten()
    n = len(x)  # 524,288
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 4 * (variance / n) ** 0.5
    below = [(x < limit).double().mean().item() for limit in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    assert below == pytest.approx([0.02275, 0.15866, 0.5, 0.84134, 0.97725], abs=4 * 0.5 / n**0.5)
    assert 4 < x.abs().max() < 6.8


def test_uniform_law():
    u = uniform(derive_key(3, torch.arange(64)), 5, (2, 64, 64)).double().flatten()
    counts = torch.histc(u, 32, 0, 1) / len(u)
    assert (counts - 1 / 32).abs().max() < 4.5 * (1 / 32 / len(u)) ** 0.5
    assert u.min() > 0 and u.max() < 1


def test_rademacher_law():
    signs = rademacher(derive_key(3, torch.arange(64)), 5, (2, 64, 64))
    assert signs.dtype == torch.float32 and signs.abs().eq(1).all()
    assert abs(signs.double().mean()) < 4 / signs.numel() ** 0.5


def test_draws_of_keys_counters_pixels_and_kinds_are_uncorrelated():
    keys = derive_key(0, torch.arange(4))
    rows = torch.cat([normal(keys, counter, (1, 128, 128)) for counter in (0, 1, 2**32)]).flatten(1)
    lag = 4096  # the four words of one Philox block lie a quarter of the image apart
    others = [draw(keys, 0, (1, 128, 128)).flatten(1) for draw in (uniform, rademacher)]
    rows = torch.cat([rows, rows.roll(lag, dims=1), rows.roll(1, dims=1), *others, others[1].roll(lag, dims=1)])
    correlation = torch.corrcoef(rows.double()) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / 16384**0.5


def test_a_row_depends_on_its_key_counter_and_shape_alone():
    keys = derive_key(9, torch.arange(5))
    for draw in (normal, uniform, rademacher):
        together = draw(keys, 7, (2, 6, 6))
        alone = torch.cat([draw(keys[i : i + 1], 7, (2, 6, 6)) for i in range(5)])
        assert torch.equal(together, alone)
        assert torch.equal(draw(keys.flip(0), 7, (2, 6, 6)).flip(0), together)
        assert not torch.equal(draw(keys, 8, (2, 6, 6)), together)
    assert normal(keys, 0, (1, 3, 3)).shape == (5, 1, 3, 3)


def test_draws_are_the_same_in_every_version():
    x = normal(torch.tensor([derive_key(0, 1)]), 0, (1, 2, 2)).flatten()
    # Philox by hand: key words of derive_key(0, 1), block 0, counter 0.
    key = derive_key(0, 1)
    words = philox([torch.tensor([0])] * 4, [torch.tensor([key & 0xFFFFFFFF]), torch.tensor([key >> 32 & 0xFFFFFFFF])])
    u = [(int(word) + 0.5) / 2**32 for word in words]
    expected = []
    for a, b in ((u[0], u[1]), (u[2], u[3])):
        expected += [(-2 * np.log(a)) ** 0.5 * np.cos(2 * np.pi * b), (-2 * np.log(a)) ** 0.5 * np.sin(2 * np.pi * b)]
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_derive_key_is_splitmix64_and_takes_ints_and_arrays():
    assert derive_key(0) % 2**64 == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0
    table = derive_key(5, torch.arange(3)[:, None], np.arange(4))
    assert table.dtype == torch.int64 and table.shape == (3, 4)
    assert all(int(table[i, j]) == derive_key(5, i, j) for i in range(3) for j in range(4))
    assert derive_key(-1) == derive_key(2**64 - 1) != derive_key(1)


def test_derived_keys_do_not_collide_and_mix():
    keys = torch.cat([derive_key(seed, torch.arange(200)[:, None], torch.arange(200)).flatten() for seed in (0, 1)])
    assert len(keys.unique()) == len(keys)
    bits = (keys[:, None] >> torch.arange(64)) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / len(keys) ** 0.5


def test_keys_of_another_type_are_refused():
    with pytest.raises(ValueError, match="int64"):
        normal(torch.zeros(2), 0, (1, 2, 2))
