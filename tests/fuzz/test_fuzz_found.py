"""What mutated inputs have found in texts, snapshots and catalogues, each as the smallest input that shows it."""

import time

import h5py
import numpy as np
import pytest
from fuzz_inputs import fake_catalogues
from tiny_box import particles, write_halos, write_snapshot

from hpcdiff import plain
from hpcdiff.config import read_config
from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError, disk_error
from hpcdiff.snapshot import open_snapshot, read_halos

BACKGROUND, BOX, POSITION = fake_catalogues.BACKGROUND, fake_catalogues.BOX, fake_catalogues.POSITION
write_soap, write_subfind = fake_catalogues.write_soap, fake_catalogues.write_subfind


@pytest.mark.parametrize(
    "text",
    [
        "train: {lr: !!float ''}",
        "train: {lr: !!timestamp 2020-13-45}",
        "run: {seed: " + "9" * 5000 + "}",
        "run: &r {dir: [*r]}",
        "[" * 3000,
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{'bcdefgh'[k]}: &{'bcdefgh'[k]} [{','.join(['*' + 'abcdefg'[k]] * 9)}]\n" for k in range(7)),
        "a: &a {k: 1}\n" + "".join(f"{'bcdefgh'[k]}: &{'bcdefgh'[k]} {{<<: [{','.join(['*' + 'abcdefg'[k]] * 9)}]}}\n" for k in range(7)),
        'run: {dir: "a\\0b"}',
        'run: {dir: "\\uD800"}',
    ],
    ids=["empty float", "no date", "digits", "recursion", "depth", "bomb", "merged bomb", "NUL", "half a letter"],
)
def test_odd_yaml_is_one_line(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(UserError) as error:
        read_config(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 3000 and time.process_time() - began < 5


def test_an_alias_is_still_an_alias(tmp_path):
    (tmp_path / "c.yaml").write_text("task: {inputs: &f [sz], outputs: [gas]}\nproject: {fields: [gas, sz]}\nobserve: {}\n")
    assert read_config(tmp_path / "c.yaml").task.inputs == ["sz"]
    assert plain.read_yaml("a: &a {k: 1}\nb: {<<: *a, l: 2}") == {"a": {"k": 1}, "b": {"k": 1, "l": 2}}


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", "\x00"])
def test_odd_json_is_one_kind_of_error(text):
    with pytest.raises(plain.NotPlain):
        plain.read_json(text)


def test_a_message_is_one_printable_line_that_can_be_read():
    text = str(UserError("a\nb\x1b[31m", "x" * 100_000, "\x00"))
    assert text.isprintable() and len(text) < 1100


def test_a_lack_of_memory_is_the_users_matter():
    try:
        np.empty((1 << 50,))
    except MemoryError as error:
        assert "not enough memory" in disk_error(error)


@pytest.fixture
def snapshot(tmp_path):
    path = tmp_path / "s.hdf5"
    write_snapshot(path, particles(n=60))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["Header"].attrs.__setitem__("BoxSize", h5py.Empty("f8")),
        lambda f: f["Header"].attrs.__setitem__("MassTable", np.zeros(2, [("a", "f8"), ("b", "i4")])),
        lambda f: f["Header"].attrs.__setitem__("NumPart_Total", "many"),
        lambda f: f["Header"].attrs.__setitem__("Time", np.full((2, 3), 1.0)),
        lambda f: f["PartType0/Coordinates"].attrs.__setitem__("to_cgs", h5py.Empty("f8")),
        lambda f: replace(f, "PartType0/Coordinates", data=h5py.Empty("f4")),
        lambda f: replace(f, "PartType0/Density", data=h5py.Empty("f4")),
        lambda f: replace(f, "PartType0", data=np.zeros(3)),
        lambda f: replace(f, "PartType1/Coordinates", shape=(1 << 33, 3), dtype="f8"),
        lambda f: replace(f, "PartType1/Coordinates", shape=(1 << 33, 3), dtype="f8", chunks=(1000, 3)),
        lambda f: replace(f, "PartType0/Masses", shape=(90,), dtype="f8", external=[("elsewhere", 0, 720)]),
    ],
)
def test_an_odd_snapshot_is_refused(snapshot, change):
    with h5py.File(snapshot, "r+") as f:
        change(f)
    try:
        found = open_snapshot(snapshot, Background())
    except UserError as error:
        assert "\n" not in str(error)
    else:  # an attribute that is no number may be as good as none
        assert np.isfinite(found.read("gas", 0, 90).mass).all()


def replace(f, name, **options):
    """A dataset in the place of something else."""
    del f[name]
    f.create_dataset(name, **options)


def test_numbers_that_overflow_are_refused_without_a_warning(snapshot, recwarn):
    with h5py.File(snapshot, "r+") as f:
        f["PartType0/ElectronAbundance"][0] = 1e308
        f["PartType0/Masses"][1] = 1e308
    with pytest.raises(UserError):
        open_snapshot(snapshot, Background()).read("gas", 0, 90)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["Group/GroupPos", "Group/Group_M_Mean200", "Group/Group_R_Crit200", "Group/GroupLenType"])
@pytest.mark.parametrize("how", ["group", "rank", "rows", "text", "huge"])
def test_an_odd_subfind_catalogue_is_refused(tmp_path, name, how):
    path = write_subfind(tmp_path) / "fof_subhalo_tab_099.hdf5"
    with h5py.File(path, "r+") as f:
        data = f[name][()]
        del f[name]
        if how == "group":
            f.create_group(name)
        else:
            odd = {"rank": data[..., None], "rows": data[:-1], "text": np.full(len(data), b"x")}
            f.create_dataset(name, **({"shape": (1 << 40, *data.shape[1:]), "dtype": "f8"} if how == "huge" else {"data": odd[how]}))
    with pytest.raises(UserError):
        read_halos(path, BACKGROUND, BOX)


@pytest.mark.parametrize("name", ["InputHalos/HaloCentre", "InputHalos/IsCentral", "SO/200_mean/TotalMass", "SO/500_crit/SORadius"])
def test_an_odd_soap_catalogue_is_refused(tmp_path, name):
    path = write_soap(tmp_path / "halos.hdf5")
    with h5py.File(path, "r+") as f:
        replace(f, name, data=np.zeros((1,)))
    with pytest.raises(UserError):
        read_halos(path, BACKGROUND, BOX)


def test_a_column_that_promises_more_than_the_file_holds_is_refused_before_it_is_read(tmp_path):
    write_halos(tmp_path / "h.hdf5", POSITION)
    with h5py.File(tmp_path / "h.hdf5", "r+") as f:
        f.create_dataset("richness", (1 << 50,), "f8", chunks=(1000,))
    with pytest.raises(UserError, match="promises"):
        read_halos(tmp_path / "h.hdf5", BACKGROUND, BOX)
