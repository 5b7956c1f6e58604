"""The files of a snapshot: all there, once, of one run, and fitting their headers; each fault in one line that names the file."""

from __future__ import annotations

import pickle
import shutil

import h5py
import numpy as np
import pytest
from dialect_files import SWIFT_CGS, physical, write
from tiny_box import particles, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.snapshot import open_snapshot


def opened(where):
    return open_snapshot(where, Background())


def refused(where, match: str) -> str:
    with pytest.raises(UserError, match=match) as error:
        opened(where)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def chunks(tmp_path):
    return write_snapshot(tmp_path / "snap.hdf5", particles(n=50), chunks=4)


def test_every_slab_over_every_chunk(tmp_path, chunks):
    snapshot = opened(tmp_path)
    whole = snapshot.read("gas", 0, 75)
    for start in range(0, 76, 5):
        for stop in range(start, 76, 7):
            part = snapshot.read("gas", start, stop)
            assert np.array_equal(part.index, np.arange(start, stop))
            for name in ("position", "mass", "h", "density", "temperature", "electrons"):
                assert np.array_equal(getattr(part, name), getattr(whole, name)[start:stop])
            index, position = snapshot.positions("gas", start, stop)
            assert np.array_equal(index, part.index) and np.array_equal(position, part.position)
    assert len(snapshot.read("gas", 70, 1000).mass) == 5 and len(snapshot.read("gas", 80, 90).mass) == 0
    assert len(snapshot.read("star", 0, 10).mass) == 0
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


def test_a_missing_chunk_is_named_by_its_number(tmp_path, chunks):
    chunks[2].unlink()
    refused(tmp_path, "3 of the snapshot's 4 chunk files are there, not number 2")
    refused(chunks[0], "1 of the snapshot's 4 chunk files are there, not number 1, 2, 3")


def test_a_chunk_that_is_there_twice(tmp_path, chunks):
    shutil.copy(chunks[1], tmp_path / "snap.9.hdf5")
    refused(tmp_path, r"snap\.1\.hdf5 and snap\.9\.hdf5 start with the same Coordinates of PartType0")
    shutil.copy(chunks[1], chunks[2])  # in the place of another
    (tmp_path / "snap.9.hdf5").unlink()
    refused(tmp_path, r"snap\.1\.hdf5 and snap\.2\.hdf5 start with the same")


def test_two_chunks_with_the_same_ids(tmp_path, chunks):
    for k, path in enumerate(chunks):
        with h5py.File(path, "r+") as f:
            f["PartType1/ParticleIDs"] = np.arange(len(f["PartType1/Masses"])) + 1000 * min(k, 2)
    refused(tmp_path, r"snap\.2\.hdf5 and snap\.3\.hdf5 start with the same ParticleIDs of PartType1")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Redshift": 0.5, "Time": 1 / 1.5}, r"(Redshift|Time) is \S+ in snap.0.hdf5 and \S+ in snap.2.hdf5"),
        ({"BoxSize": 25000.0}, "BoxSize is 28000 in snap.0.hdf5 and 25000 in snap.2.hdf5"),
        ({"Omega0": 0.31, "OmegaLambda": 0.69}, "Omega0 is 0.3 in snap.0.hdf5 and 0.31 in"),
        ({"NumPart_Total": [75, 76, 0, 0, 0, 0]}, "NumPart_Total is 75 75 0 0 0 0 in snap.0.hdf5 and 75 76 0 0 0 0 in"),
        ({"MassTable": [0, 0, 0, 1.5, 0, 0]}, "MassTable is 0 0 0 0 0 0 in snap.0.hdf5 and 0 0 0 1.5 0 0"),
        ({"NumFilesPerSnapshot": 5}, "NumFilesPerSnapshot is 4 in snap.0.hdf5 and 5 in snap.2.hdf5"),
        ({"UnitLength_in_cm": 3.085678e24}, "the unit of length is"),
    ],
)
def test_chunks_of_different_runs(tmp_path, chunks, changes, says):
    with h5py.File(chunks[2], "r+") as f:
        f["Header"].attrs.update(changes)
    assert str(chunks[2]) in refused(tmp_path, f"different runs: {says}")


def test_units_of_coordinates_in_one_chunk_only(tmp_path, chunks):
    with h5py.File(chunks[2], "r+") as f:
        for n in (0, 1):
            f[f"PartType{n}/Coordinates"].attrs.update({"to_cgs": 3.085678e24, "a_scaling": 1.0, "h_scaling": -1.0})
    refused(tmp_path, "the unit of Coordinates is .* in snap.0.hdf5 and .* in snap.2.hdf5")


def test_a_dataset_that_one_chunk_lacks(tmp_path, chunks):
    with h5py.File(chunks[3], "r+") as f:
        del f["PartType0/SmoothingLength"]
    refused(tmp_path, r"snap.0.hdf5 has PartType0/SmoothingLength and snap.3.hdf5 has not")


def test_chunks_without_particles_are_no_fault(tmp_path, chunks):
    with h5py.File(chunks[0], "r") as f, h5py.File(tmp_path / "snap.4.hdf5", "w") as empty:
        f.copy("Header", empty)
        empty["Header"].attrs["NumPart_ThisFile"] = np.zeros(6, int)
    for path in (*chunks, tmp_path / "snap.4.hdf5"):
        with h5py.File(path, "r+") as f:
            f["Header"].attrs["NumFilesPerSnapshot"] = 5
    assert opened(tmp_path).count("gas") == 75


def test_counts_that_contradict_the_datasets(tmp_path):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50), NumPart_ThisFile=[75, 70, 0, 0, 0, 0])
    refused(path, "promises 70 particles of PartType1 in this file and its datasets hold 75")
    write_snapshot(path, particles(n=50), NumPart_Total=[75, 80, 0, 0, 0, 0])
    refused(path, "promises 80 particles of PartType1 and the files hold 75")
    write_snapshot(path, particles(n=50), NumPart_Total_HighWord=[1, 0, 0, 0, 0, 0])
    refused(path, f"promises {2**32 + 75} particles of PartType0 and the files hold 75")
    write_snapshot(path, particles(n=50))
    with h5py.File(path, "r+") as f:
        del f["PartType0/Density"]
        f["PartType0/Density"] = np.ones(74)
    refused(path, "PartType0/Density has 74 rows and Coordinates has 75")
    write_snapshot(path, particles(n=50))
    with h5py.File(path, "r+") as f:
        f.move("PartType0/Coordinates", "PartType0/Position")
    refused(path, r"promises 75 particles of PartType0 and there is no PartType0/Coordinates \(it has .*Position")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"Omega0": 0.0, "OmegaLambda": 0.0}, "Omega0 is 0, .*not cosmological"),
        ({"HubbleParam": 0.0}, "HubbleParam is 0, .*not cosmological"),
        ({"HubbleParam": np.nan}, "HubbleParam is nan"),
        ({"ComovingIntegrationOn": 0}, "not cosmological"),
        ({"Time": 3.5}, "Redshift is 0 and its Time 3.5 is not 1/"),
        ({"Omega0": 0.4}, "not flat"),
        ({"BoxSize": [1.0, 1.0, 2.0]}, "no cube"),
        ({"BoxSize": 0.0}, "no BoxSize"),
        ({"Redshift": np.nan}, "no BoxSize or Redshift"),
    ],
)
def test_runs_that_are_no_flat_periodic_universe(tmp_path, header, says):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=20), **header)
    assert str(path) in refused(path, says)


def test_swift_runs_that_cannot_be_read(tmp_path):
    path = write("swift", tmp_path / "s.hdf5")
    for group, name, value, says in (
        ("Cosmology", "Cosmological run", [0], "not cosmological"),
        ("Header", "Dimension", [2], "has 2 dimensions"),
        ("Cosmology", "Omega_lambda", [0.5], "not flat"),
    ):
        with h5py.File(path, "r+") as f:
            before = f[group].attrs[name]
            f[group].attrs[name] = value
        refused(path, says)
        with h5py.File(path, "r+") as f:
            f[group].attrs[name] = before
    with h5py.File(path, "r+") as f:
        del f["Units"]
    assert opened(path).box == pytest.approx(40, rel=1e-6)  # the datasets say it themselves
    with h5py.File(path, "r+") as f:
        for name in ("PartType0", "PartType1", "PartType4"):
            del f[name]["Coordinates"].attrs[SWIFT_CGS]
    refused(path, "neither a group Units nor units")


def test_a_file_in_no_known_form_is_described(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["grid/density"] = np.ones(3)
    refused(tmp_path / "a.h5", r"no Header \(it has grid\), .*Header and PartTypeN/Coordinates are needed")
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f.create_group("Header").attrs.update({"BoxSize": 1000.0, "Redshift": 0.0})
        f["Halo/Coordinates"] = np.ones((3, 3))
    refused(tmp_path / "a.h5", "no PartType0, 1, 4, 5 with Coordinates")


def test_cut_outs_have_fewer_particles_than_their_header_says(tmp_path):
    path = write("swift", tmp_path / "s.hdf5", NumPart_Total=np.array([9000, 9000, 0, 0, 60, 0, 0], np.uint32))
    refused(path, "promises 9000 particles of PartType0 and the files hold 60")
    with h5py.File(path, "r+") as f:
        f["Header"].attrs["OutputType"] = "VolumeSubset"
    assert opened(path).count("gas") == 60
    path = write("tng", tmp_path / "t.hdf5", CutoutID=7, NumPart_ThisFile=[13587, 0, 0, 0, 900, 0], NumFilesPerSnapshot=600)
    with h5py.File(path, "r+") as f:
        del f["Header"].attrs["NumPart_Total"], f["PartType1"]
    assert opened(path).count("star") == 60 and opened(path).count("dm") == 0


def virtual(folder, z=0.0, n=3):
    """A SWIFT snapshot in n files and the file that shows them as one; returns the latter and the whole in one file."""
    whole = write("swift", folder.parent / "whole.hdf5", z)
    shown = folder / "snap.hdf5"
    with h5py.File(whole) as f, h5py.File(shown, "w") as v:
        for name in ("Header", "Units", "Cosmology", "HydroScheme"):
            f.copy(name, v)
        v["Header"].attrs["Virtual"] = [1]
        layouts = {}
        for k in range(n):
            part = folder / f"snap.{k}.hdf5"
            with h5py.File(part, "w") as g:
                for name in ("Header", "Units", "Cosmology", "HydroScheme"):
                    f.copy(name, g)
                rows = slice(60 * k // n, 60 * (k + 1) // n)
                count = np.array([rows.stop - rows.start] * 2 + [0, 0] + [rows.stop - rows.start] + [0, 0])
                g["Header"].attrs.update({"NumPart_ThisFile": count, "NumFilesPerSnapshot": [n], "ThisFile": [k]})
                for t in (0, 1, 4):
                    for name, data in f[f"PartType{t}"].items():
                        path = f"PartType{t}/{name}"
                        g[path] = data[rows]
                        g[path].attrs.update(data.attrs)
                        layout = layouts.setdefault(path, h5py.VirtualLayout(data.shape, data.dtype))
                        layout[rows] = h5py.VirtualSource(part.name, path, g[path].shape)
        for path, layout in layouts.items():
            v.create_virtual_dataset(path, layout)
            v[path].attrs.update(f[path].attrs)
    return shown, whole


def test_virtual_snapshots_alone_and_beside_their_files(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shown, whole = virtual(folder, z=1.0)
    one, several, single = opened(shown), opened(folder), opened(whole)
    assert [len(s.paths) for s in (one, several, single)] == [1, 3, 1] and one.count("gas") == several.count("gas") == 60
    for kind in ("gas", "dm", "star"):
        want = single.read(kind, 11, 57, ids=True)
        for snapshot in (one, several):
            got = snapshot.read(kind, 11, 57, ids=True)
            for name, value in vars(want).items():
                assert np.array_equal(getattr(got, name), value)
    (folder / "snap.1.hdf5").rename(folder / "gone")
    refused(shown, "the particles stand in snap.1.hdf5, which is not there")
    refused(folder, "2 of the snapshot's 3 chunk files are there, not number 1")
    (folder / "snap.1.hdf5").write_bytes((folder / "gone").read_bytes()[:3000])
    refused(shown, "snap.1.hdf5")
    (folder / "gone").rename(folder / "snap.1.hdf5")
    with h5py.File(folder / "snap.1.hdf5", "r+") as f:
        del f["PartType0/Densities"]
    refused(shown, "PartType0/Densities, which .* shows, is not there")


def test_links_to_other_files(tmp_path):
    path, data = write("swift", tmp_path / "data.hdf5"), physical(0.0)
    with h5py.File(path) as f, h5py.File(tmp_path / "links.hdf5", "w") as g:
        for name in ("Header", "Units", "Cosmology", "HydroScheme"):
            f.copy(name, g)
        g["PartType0"] = h5py.ExternalLink("data.hdf5", "PartType0")
        g["PartType1"] = h5py.ExternalLink("data.hdf5", "PartType1")
        for name in f["PartType4"]:
            g[f"PartType4/{name}"] = h5py.ExternalLink("data.hdf5", f"PartType4/{name}")
    snapshot = opened(tmp_path / "links.hdf5")
    assert snapshot.read("gas", 0, 60).mass == pytest.approx(data["gas"]["mass"], rel=1e-6)
    assert snapshot.read("star", 0, 60).mass == pytest.approx(data["star"]["mass"], rel=1e-6)
    path.rename(tmp_path / "elsewhere.hdf5")
    refused(tmp_path / "links.hdf5", "/PartType0 leads to data.hdf5 PartType0, which is not there")


def test_group_numbers_in_files_that_are_not_there_are_no_fault(tmp_path):
    path = write("swift", tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        layout = h5py.VirtualLayout((60,), "i4")
        layout[:] = h5py.VirtualSource("membership.hdf5", "PartType0/GroupNr_bound", (60,))
        f["PartType0"].create_virtual_dataset("GroupNr_bound", layout)
        f["PartType1/GroupNr_bound"] = h5py.ExternalLink("membership.hdf5", "PartType1/GroupNr_bound")
        f["StarsParticles"] = h5py.SoftLink("/PartType9")
    assert opened(path).groups is None and opened(path).count("dm") == 60
    with h5py.File(tmp_path / "membership.hdf5", "w") as f:
        f["PartType0/GroupNr_bound"], f["PartType1/GroupNr_bound"] = np.arange(60), np.arange(60) + 100
    assert opened(path).groups == "GroupNr_bound"
    for kind, first in (("gas", 0), ("dm", 100)):
        assert np.array_equal(opened(path).read(kind, 50, 60, groups=True).group, first + np.arange(50, 60))


def test_damaged_data_in_one_chunk(tmp_path, chunks):
    for path in chunks:
        with h5py.File(path, "r+") as f:
            values = f["PartType0/Density"][:]
            del f["PartType0/Density"]
            f.create_dataset("PartType0/Density", data=values, chunks=(len(values),), fletcher32=True)
            where = f["PartType0/Density"].id.get_chunk_info(0).byte_offset
    with open(chunks[3], "r+b") as raw:
        raw.seek(where + 8)
        raw.write(b"\x55")
    snapshot = opened(tmp_path)
    assert len(snapshot.read("gas", 0, 56).mass) == 56
    with pytest.raises(UserError, match=r"the snapshot is damaged .*snap\.3\.hdf5, make it again"):
        snapshot.read("gas", 0, 75)


def test_masses_of_the_header_are_in_the_units_of_those_of_particles(tmp_path):
    path = write("gadget4", tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        f["PartType0/Masses"].attrs["to_cgs"] = 1.989e33  # Msun/h
        f["Header"].attrs["MassTable"] = [0, 5e9 * 0.7, 0, 0, 0]
    assert opened(path).read("dm", 0, 60).mass == pytest.approx(5e9)


def test_a_mass_of_its_own_wins_over_the_headers(tmp_path):
    path, data = write("gadget2", tmp_path / "s.hdf5", MassTable=[1.0, 1.0, 0, 0, 1.0, 0]), physical(0.0)
    snapshot = opened(path)
    for kind in ("gas", "dm", "star"):
        assert snapshot.read(kind, 0, 60).mass == pytest.approx(data[kind]["mass"])
    with h5py.File(path, "r+") as f:
        f["Header"].attrs["MassTable"] = np.zeros(6)
        del f["PartType1/Masses"]
    with pytest.raises(UserError, match="PartType1 has no Masses or Mass, which give the mass"):
        opened(path).read("dm", 0, 60)


def test_what_is_no_table_of_numbers_is_one_line(tmp_path):
    path = write("gadget2", tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        del f["PartType0/Masses"]
        f["PartType0/Masses"] = np.array([b"heavy"] * 60)
    with pytest.raises(UserError, match="PartType0 has no Masses"):
        opened(path).read("gas", 0, 60)
    with h5py.File(path, "r+") as f:
        del f["PartType1/Coordinates"]
        f["PartType1/Coordinates"] = np.zeros((60, 3), "S4")
    with pytest.raises(UserError, match="PartType1/Coordinates is no table of numbers"):
        opened(path)
    with h5py.File(path, "r+") as f:
        del f["PartType0"]
        f["PartType0"] = np.zeros((60, 3))
    with pytest.raises(UserError, match="PartType0 is a dataset, not a group"):
        opened(path)


def test_ids_that_come_twice_or_not_at_all(tmp_path):
    path = write("gadget2", tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        f["PartType0/ParticleIDs"][41] = f["PartType0/ParticleIDs"][5]
        del f["PartType1/ParticleIDs"]
    snapshot = opened(path)
    with pytest.raises(UserError, match="the same ParticleIDs more than once in PartType0, .*the first is particle 41; 1 in all"):
        snapshot.read("gas", 0, 60, ids=True)
    assert len(snapshot.read("gas", 6, 60, ids=True).ids) == 54
    with pytest.raises(UserError, match="PartType1 has no ParticleIDs"):
        snapshot.read("dm", 0, 5, ids=True)


def test_the_fingerprint_sees_numbers_and_not_names(tmp_path, chunks):
    before = opened(tmp_path).fingerprint(["gas", "dm"])
    moved = tmp_path / "moved"
    moved.mkdir()
    for k, path in enumerate(chunks):
        shutil.copy(path, moved / f"x_{k:03d}.h5")
    assert opened(moved).fingerprint(["gas", "dm"]) == before
    with h5py.File(moved / "x_002.h5", "r+") as f:
        f["PartType0/Density"][3] *= 2
    assert opened(moved).fingerprint(["gas", "dm"]) != before
