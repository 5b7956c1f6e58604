"""Training data: order, turns and noise are functions of (seed, image number) alone."""

import numpy as np
import pytest
import torch

from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.sections import Task
from hpcdiff.train.data import Part, fit_transforms, images_of, level_quantiles, load_part, make_batch, turn


def part(n=10, npix=8):
    generator = torch.Generator().manual_seed(0)
    return Part(torch.rand(n, 2, npix, npix, generator=generator), torch.rand(n, 3, npix, npix, generator=generator))


def test_every_epoch_shows_every_view_once_in_another_order():
    order = images_of(np.arange(30), 10, seed=1).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in order.tolist())
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(order[0], images_of(np.arange(10), 10, seed=2))


def test_batches_do_not_depend_on_how_images_are_dealt():
    p, cpu = part(), torch.device("cpu")
    whole = make_batch(p, np.arange(5, 17), 3, True, cpu)
    for numbers in (np.arange(5, 9), np.arange(9, 17)):
        piece = make_batch(p, numbers, 3, True, cpu)
        at = slice(numbers[0] - 5, numbers[-1] - 4)
        for name in ("target", "condition", "u", "z"):
            assert torch.equal(getattr(piece, name), getattr(whole, name)[at]), name


def test_inputs_and_outputs_turn_together():
    p = part()
    p.condition = p.target[:, :2].clone()
    batch = make_batch(p, np.arange(40), 0, True, torch.device("cpu"))
    assert torch.equal(batch.condition, batch.target[:, :2])
    plain = make_batch(p, np.arange(40), 0, False, torch.device("cpu"))
    assert not torch.equal(batch.target, plain.target)


def test_turns_are_the_eight_symmetries_of_the_square():
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(8, -1, -1, -1).contiguous()
    seen = {tuple(y.flatten().tolist()) for y in turn(x, torch.arange(8))}
    assert len(seen) == 8
    assert all(y[4] == 4 and sorted(y) == list(range(9)) for y in seen)
    assert all(sorted([y[0], y[2], y[6], y[8]]) == [0, 2, 6, 8] for y in seen)


def test_levels_cover_the_unit_interval_evenly_from_the_first_batch():
    u = level_quantiles(np.arange(1000, 1064), seed=5).double()
    counts = torch.histc(u, 16, 0, 1)
    assert counts.min() >= 3 and counts.max() <= 5
    assert (u > 0).all() and (u < 1).all()


def test_bounds_come_from_the_training_split(tmp_path):
    from conftest import make_maps

    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    maps, task = MapFile(tmp_path / "maps.h5"), Task()
    transforms = fit_transforms(maps, task)
    train = load_part(maps, maps.rows("train"), task, transforms)
    for x in (train.condition, train.target):
        assert x.amin((0, 2, 3)).abs().max() < 1e-6 and (x.amax((0, 2, 3)) - 1).abs().max() < 1e-6
    assert maps.read("gas", maps.rows("train")).max() == pytest.approx(transforms["gas"].high)


def test_a_damaged_map_file_is_refused(tmp_path):
    import h5py
    from conftest import make_maps

    path = tmp_path / "maps.h5"
    make_maps(path, halos=12, npix=8)
    with h5py.File(path, "r+") as f:
        row = int(np.flatnonzero(f["catalog/split"][:] == 0)[0])
        f["fields/gas"][row, 0, 0] *= 1.5
    maps = MapFile(path)
    with pytest.raises(UserError, match="checksum"):
        load_part(maps, maps.rows("train"), Task(), fit_transforms(maps, Task()))
