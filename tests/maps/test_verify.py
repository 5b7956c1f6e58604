"""`maps verify` and `maps info`: every kind of damage is found and named, and nothing else is."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from conftest import make_maps
from small_file import part, some_maps, writer

from hpcdiff.lock import Lock
from hpcdiff.maps.__main__ import main
from hpcdiff.maps.check import check
from hpcdiff.maps.layout import view_checksum


@pytest.fixture
def path(tmp_path):
    """A whole map file of 40 halos along three axes."""
    make_maps(tmp_path / "maps.h5", halos=40, npix=8, axes=3)
    return tmp_path / "maps.h5"


def error(capsys, *words: object) -> tuple[str, str]:
    """What a command that fails prints, and its one error line."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "error: " in line]
    assert len(lines) == 1, said.err
    return said.out, lines[0]


def test_a_whole_file(path, capsys):
    before = path.read_bytes()
    assert main(["verify", str(path)]) == 0
    assert "120 of 120 views are whole" in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.parametrize("block", [1, 2**11, 2**26])
def test_damaged_views_are_named(path, capsys, monkeypatch, block):
    """A changed byte, whatever the blocks that the file is read in."""
    monkeypatch.setattr("hpcdiff.maps.layout.BLOCK_BYTES", block)
    with h5py.File(path, "r+") as f:
        f["fields/sz"][5, 7, 7] *= 1.0000002
        f["fields/dm"][17, 0, 0] = np.nan
        f["catalog/checksum"][88] = 0
    out, line = error(capsys, "verify", path)
    assert f"error: 3 of 120 views are damaged (rows 5, 17, 88), {path}, python -m hpcdiff.maps clear {path} and run project again" in line
    assert "row 17: halo 5, sightline 0, axis z: differs from its checksum" in out and out.count("row ") == 3


def test_a_view_that_was_written_with_nan_is_not_damaged_but_named(path, capsys):
    with h5py.File(path, "r+") as f:
        f["fields/dm"][6, 0, 0] = np.inf
        f["catalog/checksum"][6] = view_checksum({name: f["fields"][name][6] for name in f["fields"]})
    out, line = error(capsys, "verify", path)
    assert "1 of 120 views is whole but not finite everywhere (row 6)" in line
    assert "row 6: halo 2, sightline 0, axis x: has values that are not finite" in out


def test_an_unfinished_file(tmp_path, capsys):
    """Views not yet written are counted apart from damaged ones."""
    path, data = tmp_path / "maps.h5", some_maps()
    w = writer(path)
    w.write(1, part(data, 1, 4))
    w.close()
    with h5py.File(f"{path}.partial", "r+") as f:
        f["fields/gas"][2] = 0
    found = check(f"{path}.partial")
    assert found.unwritten.tolist() == [0, 4, 5] and found.damaged.tolist() == [2]
    assert "not finished" in error(capsys, "verify", path)[1]
    lock = Lock(tmp_path / ".project.lock")
    assert lock.acquire()
    assert "a project is at work" in error(capsys, "verify", f"{path}.partial")[1]
    lock.release()
    whole = tmp_path / "whole.h5.partial"
    make_maps(tmp_path / "whole.h5")
    (tmp_path / "whole.h5").rename(whole)
    with h5py.File(whole, "r+") as f:
        f["catalog/checksum"][3:] = 0
    assert main(["verify", str(whole)]) == 0
    assert "3 of 20 views are whole, 17 are not written yet" in capsys.readouterr().out


def change(name: str, row: object, value: object):
    def apply(f: h5py.File) -> None:
        values = f[name][:]
        values[row] = value
        f[name][...] = values

    return apply


def swap(f: h5py.File) -> None:
    """Two halos in the wrong order, in every column and field."""
    for group in ("catalog", "fields"):
        for data in f[group].values():
            data[:6] = data[:][[3, 4, 5, 0, 1, 2]]


def retype(f: h5py.File, name: str, **options: object) -> None:
    values = f[name][:]
    del f[name]
    f.create_dataset(name, data=values.astype(options.pop("kind", values.dtype)), **options)


TURN = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
"""A quarter turn about the line of sight: a rotation that takes z to z, but not the smallest one."""


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (swap, "not ordered by (halo_id, sightline_index, axis)"),
        (change("catalog/axis", 4, 0), "one stands twice (row 4)"),
        (change("catalog/axis", 5, 3), "/catalog/axis is out of range (row 5)"),
        (change("catalog/split", slice(0, 3), 3), "/catalog/split is out of range (rows 0, 1, 2)"),
        (change("catalog/mass_200m", slice(0, 3), np.nan), "/catalog/mass_200m is out of range"),
        (change("catalog/mass_200m", 1, 1e14), "views of one halo differ in mass_200m"),
        (change("catalog/split", 1, 2), "views of one halo differ in split"),
        (change("catalog/position", 8, 7.0), "views of one halo differ in position (row 8)"),
        (change("catalog/width_mpc", 9, 6.4), "the root attribute width_mpc is 12.8, and /catalog/width_mpc differs"),
        (change("catalog/sightline", 9, [0, 0, 2.0]), "/catalog/sightline is out of range (row 9)"),
        (change("catalog/frame", 11, -np.eye(3)), "not the smallest rotation that takes z to the sightline (row 11)"),
        (change("catalog/frame", 11, TURN), "not the smallest rotation that takes z to the sightline (row 11)"),
        (change("catalog/sightline", 11, [0, 1.0, 0]), "not the smallest rotation that takes z to the sightline (row 11)"),
        (lambda f: f["fields/sz"].attrs.update(units="K"), "/fields/sz is in 'K', not 'uK'"),
        (lambda f: f.attrs.update(version=2), "its version is 2, not 1"),
        (
            lambda f: f.attrs.update(config="project: {split: {by: halo, train: 0.6, val: 0.2, test: 0.2, seed: 1}}"),
            "split is not that of its",
        ),
        (lambda f: retype(f, "fields/sz", chunks=(1, 8, 8)), "/fields/sz is chunked"),
    ],
)
def test_a_file_that_contradicts_itself(path, capsys, damage, words):
    with h5py.File(path, "r+") as f:
        damage(f)
    _, line = error(capsys, "verify", path)
    assert "contradicts itself" in line and words in line, line


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.__delitem__("catalog/axis"), "no /catalog/axis"),
        (lambda f: f.__delitem__("fields"), "no group /fields"),
        (lambda f: f.attrs.update(format="hpcdiff-samples"), "not a map file"),
        (lambda f: f.attrs.__delitem__("npix"), "npix is not a number"),
        (lambda f: retype(f, "fields/sz", kind=np.float64), "/fields/sz is not float32 (120, 8, 8)"),
        (lambda f: retype(f, "catalog/halo_id", kind=np.int32), "/catalog/halo_id is int32"),
    ],
)
def test_a_file_that_cannot_be_read_through(path, capsys, damage, words):
    with h5py.File(path, "r+") as f:
        damage(f)
    assert words in error(capsys, "verify", path)[1]


def test_files_that_are_none(path, capsys):
    path.write_bytes(path.read_bytes()[:20_000])
    assert "not a whole HDF5 file" in error(capsys, "verify", path)[1]
    assert "is not there" in error(capsys, "verify", path.with_name("nowhere.h5"))[1]


def test_rotated_frames_are_right(tmp_path, capsys):
    """The frames that projection makes, of many sightlines, pass."""
    from hpcdiff.project.views import frames, sightlines

    make_maps(tmp_path / "maps.h5", halos=40, npix=4, axes=3)
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        seen = np.repeat(sightlines(40, "full"), 3, axis=0)
        f["catalog/sightline"][...] = seen
        f["catalog/frame"][...] = frames(seen, f["catalog/axis"][:])
    assert main(["verify", str(tmp_path / "maps.h5")]) == 0


def test_info_says_what_is_there(path, capsys):
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    with h5py.File(path) as f:
        sz = f["fields/sz"][:][np.unique(np.linspace(0, 119, 64).astype(int))]
        mass = f["catalog/mass_200m"][:]
    assert "120 views of 40 halos, 8 x 8 pixels" in said and f"{mass.min():.6g} to {mass.max():.6g} Msun" in said
    assert f"sz [uK]: {sz.min():.4g}, {sz.mean(dtype=float):.4g}, {sz.max():.4g}" in said
