"""Reading a map file: damage is named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from conftest import make_maps

from hpcdiff import maps
from hpcdiff.errors import UserError


def test_damage_is_named(tmp_path):
    path = tmp_path / "maps.h5"
    make_maps(path, halos=12)
    whole = maps.MapFile(path)
    with h5py.File(path, "r+") as f:
        f["fields/sz"][4, 1, 1] = np.nan
        f["fields/gas"][7, 2, 2] += 1
    assert np.array_equal(whole.verify(np.arange(12)), [4, 7])
    with pytest.raises(UserError, match="not finite .view 4."):
        whole.read("sz", np.arange(12))
    with pytest.raises(UserError, match="did you mean 'xray'"):
        whole.require(["xrays"], "task.inputs")
    raw = path.read_bytes()
    for content in (b"", raw[: len(raw) // 2], b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole HDF5 file"):
            maps.MapFile(path)


@pytest.mark.parametrize("name", ["pixel_mpc", "h", "depth_mpc"])
@pytest.mark.parametrize("where", ["/", "/fields/gas"])
@pytest.mark.parametrize("value", [[0.2, 0.2], "0.2", np.nan, np.inf, [], True])
def test_an_attribute_that_should_be_one_number_is_refused_as_anything_else(tmp_path, name, where, value):
    path = tmp_path / "maps.h5"
    make_maps(path, halos=3)
    with h5py.File(path, "r+") as f:
        f[where].attrs[name] = [0.25]  # an array of one is a number, as some programs write it
    opened = maps.MapFile(path)
    assert (opened.attributes if where == "/" else opened.field_attributes["gas"])[name] == 0.25
    with h5py.File(path, "r+") as f:
        f[where].attrs[name] = value
    with pytest.raises(UserError, match=f"the attribute {name} of {where} is not one finite number"):
        maps.MapFile(path)


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch):
    """A folder, and a file that may not be read, are as good as they were: nothing is to be made again."""
    with pytest.raises(UserError, match="cannot be opened .Is a directory., .*name the file") as folder:
        maps.MapFile(tmp_path)
    make_maps(tmp_path / "maps.h5", halos=3)

    def denied(*words: object, **options: object) -> None:
        raise PermissionError(13, "Unable to synchronously open file (unable to open file: errno = 13)")

    monkeypatch.setattr(h5py, "File", denied)
    with pytest.raises(UserError, match="cannot be opened .Permission denied., .*mend its permissions") as locked:
        maps.MapFile(tmp_path / "maps.h5")
    assert "again" not in str(folder.value) + str(locked.value)


def test_only_what_hdf5_says_is_damage(tmp_path):
    """A fault of our own while a file is open is not laid on the file."""
    make_maps(tmp_path / "maps.h5", halos=3)
    for error in (KeyError("gas"), RuntimeError("ours"), OSError("ours")):
        with pytest.raises(type(error)) as caught, maps.open_hdf5(tmp_path / "maps.h5"):
            raise error
        assert caught.value is error
    for name in ("nothing", "fields/nothing"):
        with pytest.raises(UserError, match="damaged or lacks something"), maps.open_hdf5(tmp_path / "maps.h5") as f:
            f[name]
    with pytest.raises(UserError, match="damaged or lacks something"), maps.open_hdf5(tmp_path / "maps.h5") as f:
        f.attrs["nothing"]
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f.create_dataset("zipped", data=np.arange(1000), chunks=(1000,), compression="gzip")
        at, size = f["zipped"].id.get_chunk_info(0).byte_offset, f["zipped"].id.get_chunk_info(0).size
    raw = bytearray((tmp_path / "maps.h5").read_bytes())
    raw[at : at + size] = bytes(size)
    (tmp_path / "maps.h5").write_bytes(raw)
    with pytest.raises(UserError, match="damaged or lacks something"), maps.open_hdf5(tmp_path / "maps.h5") as f:
        f["zipped"][:]
