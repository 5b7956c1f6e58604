"""What mutated inputs have found in images, tables and sweeps of others, and in models and shards; each as the smallest input that shows it."""

import gzip
import json
import re

import astropy.io.fits as fits
import h5py
import numpy as np
import pytest
from conftest import make_maps
from fuzz_inputs import export, in_lengths, on_the_sky, save_images

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.maps.imports import import_maps, read_spec
from hpcdiff.maps.imports.fits import shape_of_fits
from hpcdiff.posterior import Model
from hpcdiff.sample.cluster.resample import resample
from hpcdiff.sample.cluster.sky import read_sky
from hpcdiff.sample.cluster.trained import Trained
from hpcdiff.sample.draw import _belong_together
from hpcdiff.sample.shards import Shards
from hpcdiff.sweep.gather import gather, numbers_of
from hpcdiff.sweep.members import expand, write_members
from hpcdiff.sweep.spec import MOST, read_sweep
from hpcdiff.sweep.state import WAITING, state

TRAINED = Trained(Background(), (0.1, 0.1), {"gas": 10.0}, 0.4)


def test_a_model_that_does_not_say_its_units_is_refused(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    config = {"task": {"inputs": ["sz", "xray"], "outputs": ["gas"]}}
    for units in ({"sz": "uK"}, None, [1]):
        model = Model(config, {"npix": 8, "pixel_mpc": 1.6, "units": units}, {}, None, {})
        with pytest.raises(UserError, match="does not say in which units it takes"):
            _belong_together(MapFile(tmp_path / "maps.h5"), model)


@pytest.mark.parametrize("run", [np.zeros(2, [("a", "f8"), ("b", "i4")]), np.arange(3.0), 7, "another"])
def test_a_shard_whose_run_is_no_text_is_one_of_another_run(tmp_path, run):
    header = {"config": {}, "inputs": {}}
    shards = Shards(tmp_path, header, (), ["gas"], np.array([3]), (1, 4, 4))
    shards.open()
    shards.write(np.array([3]), np.array([0]), {"gas": np.ones((1, 4, 4), "f4")})
    assert shards.finished().all()
    with h5py.File(next(shards.folder.glob("*.h5")), "r+") as f:
        f.attrs["run"] = run
    with pytest.raises(UserError, match="a shard of another run"):
        shards.finished()


@pytest.fixture
def image(tmp_path):
    """An image in lengths, and what changes its header."""
    header, u, v = in_lengths(npix=40, pixel=0.4)
    path = save_images(tmp_path, header, u, v)["sz"]

    def change(**cards):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.update(cards)
        return path

    return change


def test_a_unit_of_lengths_that_is_none_is_refused_in_one_line(image, recwarn, capfd):
    with pytest.raises(UserError, match="CUNIT"):
        read_sky("sz", image(CUNIT1="'kpc'!"), TRAINED, None)
    assert not recwarn.list and not capfd.readouterr().err


def test_an_image_of_nans_that_signal_is_read_without_a_word(image, recwarn):
    path = image()
    data = bytearray(path.read_bytes())
    data[-2880:-2876] = bytes.fromhex("7f800001")
    path.write_bytes(data)
    read_sky("sz", path, TRAINED, None)
    assert not recwarn.list


def test_an_image_whose_packed_bytes_are_damaged_is_refused(image, tmp_path):
    data = bytearray(gzip.compress(image().read_bytes()))
    refusals = 0
    for at in range(20, 400, 20):
        (tmp_path / "x.fits.gz").write_bytes(data[:at] + b"\xff\xff\xff" + data[at + 3 :])
        try:
            read_sky("sz", tmp_path / "x.fits.gz", TRAINED, None)
        except UserError:
            refusals += 1
    assert refusals > 10


@pytest.mark.parametrize("cards", [{"NAXIS1": -1}, {"NAXIS1": 2**62, "NAXIS2": 2**62}, {"PCOUNT": -(2**40)}, {"BITPIX": 7}])
def test_an_image_of_a_size_below_0_or_beyond_all_is_refused(image, cards):
    path = image(PCOUNT=0, GCOUNT=1)
    data = bytearray(path.read_bytes())
    for key, value in cards.items():
        at = data.index(f"{key:8s}=".encode())
        data[at : at + 80] = f"{key:8s}= {value:20d}".ljust(80).encode()
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a whole FITS file"):
        read_sky("sz", path, TRAINED, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_image_of_more_axes_than_fits_has_is_refused_at_once(tmp_path, which, packed):
    """astropy makes a list of them, in all the memory that there is."""
    table = fits.BinTableHDU.from_columns([fits.Column("a", "PJ()", array=np.array([np.arange(3), np.arange(900)], object))])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(np.zeros((40, 40)))]).writeto(tmp_path / "x.fits")
    data = bytearray((tmp_path / "x.fits").read_bytes())
    at = [found.start() for found in re.finditer(rb"NAXIS   =", data)][which]
    data[at : at + 80] = f"NAXIS   = {2**24:20d}".ljust(80).encode()
    path = tmp_path / ("x.fits.gz" if packed else "x.fits")
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))
    with pytest.raises(UserError, match="16777216 axes"):
        read_sky("sz", path, TRAINED, None)


@pytest.mark.parametrize("cards", [{"PCOUNT": -40 * 40 - 720}, {"NAXIS2": -32}, {"NAXIS2": -1}])
def test_an_image_whose_size_leads_back_is_refused(image, cards):
    """Behind the header astropy would come to it again, without end."""
    path = image(PCOUNT=0, GCOUNT=1)
    data = bytearray(path.read_bytes())
    for key, value in cards.items():
        at = data.index(f"{key:8s}=".encode())
        data[at : at + 80] = f"{key:8s}= {value:20d}".ljust(80).encode()
    path.write_bytes(data)
    with pytest.raises(UserError, match="below 0"):
        read_sky("sz", path, TRAINED, None)


def test_an_image_of_endless_parts_is_refused(tmp_path, monkeypatch):
    """Damaged sizes may lead astropy from part to part for ever."""
    monkeypatch.setattr("hpcdiff.maps.imports.fits.MOST_HDUS", 5)
    for parts in (5, 6):
        path = tmp_path / f"{parts}.fits"
        fits.HDUList([fits.PrimaryHDU(np.ones((4, 4))), *(fits.ImageHDU() for _ in range(parts - 1))]).writeto(path)
    assert shape_of_fits(tmp_path / "5.fits", None, lambda *_: None)[0] == (4, 4)
    with pytest.raises(UserError, match="more than 5 parts"):
        shape_of_fits(tmp_path / "6.fits", None, lambda *_: None)


@pytest.mark.parametrize("value", [-1e308, 0.0, "1e300 K"])
def test_a_unit_that_is_beyond_all_numbers_is_refused_in_one_line(image, value, recwarn):
    with pytest.raises(UserError, match="BUNIT"):
        read_sky("sz", image(BUNIT=value), TRAINED, None)
    assert not recwarn.list


def test_a_projection_without_an_area_is_refused(tmp_path):
    header, u, v = on_the_sky(npix=34, pixel=0.6)
    path = save_images(tmp_path, header, u, v)["sz"]
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.update({"CD1_2": 0.0, "CD2_2": 0.0})
    with pytest.raises(UserError, match="without a size"):
        read_sky("sz", path, TRAINED, None)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_a_grid_of_which_no_pixel_is_on_the_image_is_not_covered(odd, recwarn):
    edges = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij"), -1)
    edges[::2] = odd  # whole corners are left, and no whole pixel
    maps, covered, blank = resample(np.ones((8, 8)), edges)
    assert not maps.any() and not covered.any() and not blank.any() and not recwarn.list


@pytest.fixture
def elsewhere(tmp_path):
    export(tmp_path, axes=1, halos=4, npix=4)
    return tmp_path


def npy(path, header):
    text = header.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(1000))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807, 4)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 4, 4)}",
        "{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (4, 4, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, 4)",
        "(" * 300,
        "{" * 5000,
    ],
)
def test_a_stack_whose_header_lies_is_refused(elsewhere, header, recwarn):
    npy(elsewhere / "sz.npy", header)
    with pytest.raises(UserError, match=r"sz\.npy"):
        list(import_maps(read_spec(elsewhere / "import.yaml"), dry=True))
    assert not recwarn.list


def test_a_word_without_end_in_a_table_is_refused(elsewhere):
    text = (elsewhere / "halos.csv").read_text()
    (elsewhere / "halos.csv").write_text(text + "x" * 200_000 + "\n")
    with pytest.raises(UserError, match="is no table"):
        list(import_maps(read_spec(elsewhere / "import.yaml"), dry=True))


@pytest.fixture
def sweep(tmp_path):
    """Writes SWEEP.yaml of these lines."""
    (tmp_path / "base.yaml").write_text(f"run: {{dir: {tmp_path}/base}}\n")

    def write(text):
        path = tmp_path / "sweep.yaml"
        path.write_bytes(f"base: {tmp_path}/base.yaml\ndir: {tmp_path}/s\nmaps: m.h5\n{text}\n".encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"vary: {{run.seed: [{', '.join(map(str, range(MOST + 1)))}]}}", "members"),
        ("vary: {run.seed: &s [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], train.images: *s, train.batch_size: *s}", "1728 members"),
        ("vary: {run.seed: [2020-01-01]}", "no config holds"),
        ("vary: {run.seed: [0]}\nmembers: [{run.seed: {1: 2, a: 3}}]", "no config holds"),
        ("vary: &v {run.seed: *v}", "is not YAML"),
        ("vary: " + "[" * 3000, "is not YAML"),
    ],
)
def test_an_odd_sweep_is_refused(sweep, text, says):
    with pytest.raises(UserError, match=says):
        read_sweep(sweep(text))


def test_a_status_that_is_nested_without_end_is_none(tmp_path):
    for text in ("[" * 100_000, '{"exit": 1e999, "reason": ""}', '{"exit": Infinity, "reason": ""}'):
        (tmp_path / "train.status.json").write_text(text)
        assert state(tmp_path, ["train"])[0] == WAITING


@pytest.fixture
def begun(sweep):
    spec = read_sweep(sweep("vary: {run.seed: [0, 1]}"))
    write_members(spec, expand(spec))
    return spec.folder


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sweep",), None),
        (("sweep", "stages"), "train"),
        (("sweep", "stages"), [["train"]]),
        (("members",), {}),
        (("members", 0), None),
        (("members", 0, "name"), "../elsewhere"),
        (("members", 1, "settings"), []),
    ],
)
def test_a_damaged_list_of_members_is_refused(begun, path, value):
    content = json.loads((begun / "members.json").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (begun / "members.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"members\.json"):
        gather(begun)


@pytest.mark.parametrize(
    "metrics",
    ["[1]", "[" * 100_000, '{"table1": 3}', '{"table1": {"all": {"gas": [1]}}}', '{"squared_error": {"all": {"gas": {"mean": "x"}}}}', '{"squared_error": {"all": {"gas": {"mean": 1e300}}}}'],
)  # fmt: skip
def test_damaged_metrics_of_a_member_are_refused(tmp_path, metrics):
    (tmp_path / "metrics.json").write_text(metrics)
    with pytest.raises(UserError, match=r"metrics\.json"):
        numbers_of(tmp_path)


def test_a_loss_that_is_none_is_left_out(tmp_path):
    (tmp_path / "stats.jsonl").write_text('{"validation_loss": 0.5}\n{"validation_loss": ' + "9" * 400 + "}\n" + "[" * 100_000 + "\n")
    assert numbers_of(tmp_path) == {("", "validation_loss"): (0.5, None)}
