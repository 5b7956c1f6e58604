"""What mutated inputs have found in our own files: maps, samples, checkpoints, models; each as the smallest input that shows it."""

import json
import shutil
import time

import fuzz_inputs
import h5py
import numpy as np
import pytest
import torch
from conftest import make_maps, refused, run

from hpcdiff import cosmology, files
from hpcdiff.config import read_config
from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.evaluate.inputs import Samples
from hpcdiff.maps import MapFile, MapWriter
from hpcdiff.maps.clear import clear
from hpcdiff.model import load_model, read_model_config, save_model
from hpcdiff.observe import ObservedMaps
from hpcdiff.samples import find_shards
from hpcdiff.train import manifest
from hpcdiff.world import World


def replace(f, name, **options):
    """A dataset in the place of something else."""
    del f[name]
    f.create_dataset(name, **options)


@pytest.fixture
def maps(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    return tmp_path / "maps.h5"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("catalog/checksum", {"data": np.zeros(12, complex)}),
        ("catalog/frame", {"data": np.zeros(12)}),
        ("catalog/halo_id", {"data": np.zeros(12)}),
        ("catalog/position", {"shape": (1 << 40, 3), "dtype": "f8"}),
        ("catalog/redshift", {"data": h5py.Empty("f8")}),
        ("fields/gas", {"data": np.zeros((12, 8, 8), "i4")}),
    ],
)
def test_an_odd_map_file_is_refused(maps, name, options, recwarn):
    with h5py.File(maps, "r+") as f:
        f.attrs.pop("crc32", None)
        replace(f, name, **options)
    with pytest.raises(UserError):
        MapFile(maps)
    assert not recwarn.list


@pytest.mark.parametrize("how", ["link", "virtual", "raw"])
def test_nothing_is_written_through_a_map_file_into_another(tmp_path, how):
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    path, other = tmp_path / "run" / "maps.h5", tmp_path / "outside" / "other.h5"
    make_maps(path, halos=12, npix=8)
    with h5py.File(path, "r+") as f:
        checksum = f["catalog/checksum"][:]
        with h5py.File(other, "w") as g:
            g["x"] = checksum
        (tmp_path / "outside" / "raw").write_bytes(checksum.tobytes())
        del f["catalog/checksum"]
        if how == "link":
            f["catalog/checksum"] = h5py.ExternalLink("../outside/other.h5", "/x")
        elif how == "virtual":
            layout = h5py.VirtualLayout((12,), "<u4")
            layout[:] = h5py.VirtualSource("../outside/other.h5", "x", (12,), "<u4")
            f.create_virtual_dataset("catalog/checksum", layout)
        else:
            f.create_dataset("catalog/checksum", (12,), "<u4", external=[(str(tmp_path / "outside" / "raw"), 0, 48)])
    before = {p.name: p.read_bytes() for p in other.parent.iterdir()}
    with pytest.raises(UserError):
        clear(path, [3], None)
    assert {p.name: p.read_bytes() for p in other.parent.iterdir()} == before
    maps, partial = make_like(path), path.with_name("maps.h5.partial")
    path.rename(partial)
    with pytest.raises(UserError):
        maps()
    assert {p.name: p.read_bytes() for p in other.parent.iterdir()} == before


def make_like(path):
    """What would go on with an unfinished map file of `make_maps`."""
    with h5py.File(path) as f:
        catalog = {k: f["catalog"][k][:] for k in f["catalog"] if k != "checksum"}
        attributes = {k: v for k, v in f.attrs.items() if k not in ("format", "version", "npix", "crc32")}
        about = {k: dict(v.attrs) for k, v in f["fields"].items()}
    return lambda: MapWriter(path, World(), catalog, about, 8, attributes)


def test_provenance_that_is_none_is_empty(maps):
    for text in ("[", "[1]", "NaN", "[" * 50_000):
        with h5py.File(maps, "r+") as f:
            f.attrs["provenance"] = text
        assert MapFile(maps).provenance == {}


def samples_file(path, **attributes):
    with h5py.File(path, "w") as f:
        f.attrs.update({"format": "hpcdiff-samples", "version": 1, **attributes})
        f["catalog/view"] = np.arange(2)
        f["samples/gas"] = np.zeros((2, 1, 8, 8), "f4")
    return path


def test_odd_attributes_of_samples_are_left_out_of_what_is_written(tmp_path):
    path = samples_file(tmp_path / "samples.h5", steps=np.nan, nfe=3)
    with h5py.File(path, "r+") as f:
        f.attrs.create("seed", np.array(f.ref, dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
    about = Samples(path).attributes
    assert json.dumps(about, allow_nan=False) and about["nfe"] == 3 and "seed" not in about


@pytest.mark.parametrize("config", ["[" * 5000, "a: !!float ''", "- 1", "run: 3"])
def test_a_config_of_samples_that_is_none_is_refused(tmp_path, config):
    with pytest.raises(UserError):
        Samples(samples_file(tmp_path / "samples.h5", config=config))


@pytest.mark.parametrize("name", ["../x.h5", "/etc/passwd", "a/b.h5", ""])
def test_shards_lie_in_their_folder(tmp_path, name):
    path = samples_file(tmp_path / "samples.h5")
    with h5py.File(path, "r+") as f:
        f["shards/name"] = [name]
        f["shards/bytes"], f["shards/crc32"] = np.array([1]), np.array([1], "u4")
    with pytest.raises(UserError, match="no file of samples.shards"):
        find_shards(path)


@pytest.mark.parametrize("column", ["bytes", "crc32"])
def test_sizes_and_checksums_of_shards_are_whole_numbers(tmp_path, column):
    path = samples_file(tmp_path / "samples.h5")
    with h5py.File(path, "r+") as f:
        table = {"name": ["part-0.h5"], "bytes": [3], "crc32": [7]} | {column: ["seven"]}
        for name, values in table.items():
            f[f"shards/{name}"] = values
    with pytest.raises(UserError, match=f"/shards/{column} holds no whole numbers"):
        find_shards(path)


def test_further_columns_have_a_row_for_each_view(maps):
    with h5py.File(maps, "r+") as f:
        f.attrs.pop("crc32", None)
        f["catalog/richness"] = np.zeros(3)
    with pytest.raises(UserError, match=r"/catalog/richness has shape \(3,\) for 12 views"):
        MapFile(maps)


def test_a_dataset_that_shows_itself_is_refused(maps):
    """HDF5 follows it until its stack is full."""
    with h5py.File(maps, "r+") as f:
        f.attrs.pop("crc32", None)
        layout = h5py.VirtualLayout((12,), "f8")
        layout[:] = h5py.VirtualSource(".", "catalog/redshift", (12,))
        del f["catalog/redshift"]
        f.create_virtual_dataset("catalog/redshift", layout)
    with pytest.raises(UserError, match="shows a part of its own file"):
        MapFile(maps)


def test_blocks_shorter_than_their_checksum_are_refused(maps):
    """HDF5 1.10 would read what lies before them in memory."""
    with h5py.File(maps, "r+") as f:
        f.attrs.pop("crc32", None)
        replace(f, "catalog/redshift", shape=(12,), dtype="f8", chunks=(12,), fletcher32=True)
        f["catalog/redshift"].id.write_direct_chunk((0,), b"x")
    with pytest.raises(UserError, match="shorter than their checksums"):
        MapFile(maps)


def test_an_unfinished_map_file_with_such_blocks_is_refused(maps):
    again = make_like(maps)
    with h5py.File(maps, "r+") as f:
        replace(f, "catalog/redshift", shape=(12,), dtype="f8", chunks=(12,), fletcher32=True)
        f["catalog/redshift"].id.write_direct_chunk((0,), b"x")
    maps.rename(maps.with_name("maps.h5.partial"))
    with pytest.raises(UserError, match="shorter than their checksums"):
        again()


@pytest.mark.parametrize("name", ["h", "pixel_mpc"])
def test_a_number_of_maps_that_is_two_is_refused(maps, name):
    with h5py.File(maps, "r+") as f:
        f.attrs[name] = [0.7, 0.7]
    with pytest.raises(UserError, match=f"the attribute {name} of / is not one finite number"):
        MapFile(maps)


def test_no_training_begins_whose_model_could_not_be_written(maps):
    """JSON has no infinity."""
    with h5py.File(maps, "r+") as f:
        f["catalog/redshift"][:] = np.inf
        del f.attrs["crc32"]
    config = maps.with_name("c.yaml")
    config.write_text(fuzz_inputs.CONFIG.replace("RUN", str(maps.parent)))
    refused(run("train", config), "would have to say that redshift")
    assert not list(maps.parent.glob("checkpoints/0*")) and not maps.with_name("model").exists()


def test_an_observation_that_is_none_is_refused(maps):
    with pytest.raises(UserError, match="unknown key 'sz.noice'"):
        ObservedMaps(MapFile(maps), {"sz": {"noice": 1.0}}, ["sz"], 0)


def test_a_manifest_that_is_nested_without_end_is_damage(tmp_path):
    with pytest.raises(manifest.Damaged):
        manifest.parse("[" * 100_000, tmp_path)


def test_colossus_keeps_no_pickles_at_home(tmp_path, monkeypatch):
    from colossus import settings
    from colossus.halo import concentration

    monkeypatch.setattr(settings, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(concentration, "storageUser", None)
    cosmology.colossus_cosmology(Background())
    assert concentration.concentration(np.array([1e14]), "200m", 0.0, model="diemer19")[0] > 2
    assert not list(tmp_path.rglob("*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model folder, and its config.json without a hash of its own."""
    from hpcdiff.denoiser import build_denoiser
    from hpcdiff.model import Model
    from hpcdiff.transform import Transform

    folder = tmp_path_factory.mktemp("model")
    (folder / "c.yaml").write_text(fuzz_inputs.CONFIG)
    config = read_config(folder / "c.yaml").resolved("task", "network", "diffusion")
    statistics = {
        "mean": torch.zeros(2, 8, 8),
        "sigma_data": torch.ones(2),
        "condition_mean": torch.zeros(2, 8, 8),
        "condition_std": torch.ones(2),
    }
    transforms = {name: Transform("asinh", 0.0, 1.0, 1.0) for name in ("sz", "xray", "gas", "dm")}
    save_model(folder / "model", Model(config, {"npix": 8}, transforms, build_denoiser(config, statistics), statistics), "")
    load_model(folder / "model")
    return folder / "model"


def test_no_model_is_written_with_weights_that_are_not_finite(trained, tmp_path):
    model = load_model(trained)
    with torch.no_grad():
        next(model.denoiser.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        save_model(tmp_path / "model", model, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("transforms", "gas", "low"), float("nan")),
        (("transforms", "gas", "low"), 1.0),
        (("transforms", "sz", "scale"), 0.0),
        (("transforms", "sz", "name"), ""),
        (("info", "npix"), "8"),
        (("info",), None),
        (("info", "seen"), {"sz": {"total": [1.0, 2.0, 3.0]}}),
        (("info", "seen"), {"sz": {"total": [2.0, 1.0]}}),
        (("info", "seen"), {"sz": [1.0, 2.0]}),
        (("config", "network", "blocks"), 10**9),
        (("config", "network", "multipliers"), []),
        (("config", "network", "channels"), 10**40),
        (("config", "diffusion", "sigma_max"), -1.0),
        (("config", "task", "inputs"), ["sz", "sz"]),
        (("config", "task"), []),
        (("weights_sha256",), None),
    ],
)
def test_a_model_that_describes_nonsense_is_refused(trained, tmp_path, path, value):
    shutil.copytree(trained, tmp_path / "model")
    content = json.loads((trained / "config.json").read_text())
    content.pop("sha256", None)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    began = time.process_time()
    with pytest.raises(UserError):
        load_model(tmp_path / "model")
    if path == ("weights_sha256",):  # what `sample` looks at before it loads the model
        with pytest.raises(UserError, match="lacks the checksum of its weights"):
            read_model_config(tmp_path / "model")
    assert time.process_time() - began < 10


def test_weights_that_are_not_finite_are_refused(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained, tmp_path / "model")
    path, about = tmp_path / "model" / "model.safetensors", tmp_path / "model" / "config.json"
    weights = load_file(path)
    next(w for name, w in weights.items() if name.startswith("denoiser.")).view(-1)[0] = float("nan")
    save_file(weights, path)
    content = json.loads(about.read_text())
    content.pop("sha256", None)
    about.write_text(json.dumps({**content, "weights_sha256": files.sha256_file(path)}))
    with pytest.raises(UserError, match="not finite"):
        load_model(tmp_path / "model")
