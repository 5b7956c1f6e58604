"""Single maps read from files: the right rows in the right places, also where the system gives less than was asked for."""

import os

import numpy as np
import pytest
from conftest import make_maps

from hpcdiff import maps, transform
from hpcdiff.errors import UserError
from hpcdiff.train.data import stream as module
from hpcdiff.train.data.stream import Stream
from hpcdiff.train.data.views import Views

FIELDS = ["dm", "sz"]


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    for k, halos in enumerate((9, 12)):
        make_maps(folder / f"{k}.h5", halos=halos, npix=8, seed=k, train=1 / 3, val=1 / 3, test=1 / 3)
    files = [maps.MapFile(folder / f"{k}.h5") for k in (0, 1)]
    return Views(files, np.array([0] * 9 + [1] * 12), np.array([*range(9), *range(12)]), [9, 12])


def wanted(views, numbers):
    return np.stack([[views.files[views.file[n]].read(f, [views.row[n]])[0] for f in FIELDS] for n in numbers])


@pytest.mark.parametrize(
    "numbers",
    [[0], [3, 13], [13, 3], [4, 4, 5, 4], [*range(21)], [*range(20, -1, -1)], np.random.default_rng(0).integers(0, 21, 100).tolist(), []],
)
def test_rows_go_where_they_belong(views, numbers):
    """3 and 13 are row 3 of the first file and row 4 of the second: neighbours in nothing but number."""
    stream = Stream(views, FIELDS, {})
    found = stream.read(np.array(numbers, np.int64))
    assert found.shape == (len(numbers), 2, 8, 8)
    if numbers:
        np.testing.assert_array_equal(found, wanted(views, numbers))
    stream.close()


def test_a_field_is_transformed_only_if_it_is_named(views):
    t = transform.Transform("asinh", 0.1, 3.0, 7.0)
    found = Stream(views, FIELDS, {"sz": t}).read(np.arange(21))
    raw = wanted(views, range(21))
    np.testing.assert_array_equal(found[:, 0], raw[:, 0])
    np.testing.assert_array_equal(found[:, 1], t.forward(raw[:, 1]))


def test_short_reads_go_on(views, monkeypatch):
    whole, preadv = wanted(views, range(21)), os.preadv

    def short(descriptor, buffers, offset):
        return preadv(descriptor, [buffers[0][: max(1, min(100, len(buffers[0])))]], offset)

    monkeypatch.setattr(module.os, "preadv", short)
    np.testing.assert_array_equal(Stream(views, FIELDS, {}).read(np.arange(21)), whole)


def test_a_file_that_is_cut_short_meanwhile_is_said(tmp_path):
    make_maps(tmp_path / "a.h5", halos=12, npix=8)
    source = maps.MapFile(tmp_path / "a.h5")
    stream = Stream(Views([source], np.zeros(12, np.int64), np.arange(12), [12]), FIELDS, {})
    os.truncate(source.path, 3000)
    with pytest.raises(UserError, match="ends too early"):
        stream.read(np.arange(12))
