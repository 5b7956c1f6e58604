"""The sample stage: the same samples for any ranks, batch and restart; control; bad input. And `hpcdiff.load`."""

import json
import shutil
import signal
import time

import h5py
import numpy as np
import pytest
from conftest import kill, make_maps, refused, run, start

import hpcdiff
from hpcdiff.config import read_config
from hpcdiff.maps import view_checksum
from hpcdiff.sample import run as stage
from hpcdiff.sample.run import sample
from hpcdiff.world import World

pytestmark = pytest.mark.filterwarnings("ignore:inputs unlike the training maps")  # the hand-made test maps are few and differ widely

CONFIG = """
run: {{dir: {dir}, seed: 5}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1}}
diffusion: {{precondition: edm}}
task: {{transform: asinh}}
train: {{batch_size: 6, images: 120, precision: fp32, lr: 1.0e-3, ema: 0.9}}
sample: {{steps: 6, samples: 3, batch_size: 8, init: matched}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with maps.h5 and model/."""
    folder = tmp_path_factory.mktemp("trained")
    make_maps(folder / "maps.h5", halos=40, npix=16)
    (folder / "c.yaml").write_text(CONFIG.format(dir=folder))
    assert run("train", folder / "c.yaml").returncode == 0
    return folder


@pytest.fixture(scope="module")
def whole(trained):
    """The same folder, sampled on one rank without a disturbance."""
    done = run("sample", trained / "c.yaml")
    assert done.returncode == 0, done.stderr
    return trained


def elsewhere(trained, folder):
    """The config of another run that uses the trained model and its maps."""
    (folder / "c.yaml").write_text(
        CONFIG.format(dir=folder).replace("seed: 5", f"seed: 5, maps: {trained / 'maps.h5'}, model: {trained / 'model'}")
    )
    return folder / "c.yaml"


def samples(folder):
    with h5py.File(folder / "samples.h5") as f:
        return {k: f["samples"][k][:] for k in f["samples"]}, f["catalog/view"][:], dict(f.attrs)


def test_the_file_is_the_contracts(whole):
    maps, views, attributes = samples(whole)
    with h5py.File(whole / "maps.h5") as f:
        test = np.flatnonzero(f["catalog/split"][:] == 2)
    assert np.array_equal(views, test) and views.dtype == np.int64
    assert maps.keys() == {"gas", "dm"} and all(m.shape == (len(test), 3, 16, 16) and m.dtype == np.float32 for m in maps.values())
    assert (attributes["sampler"], attributes["steps"], attributes["nfe"], attributes["seed"]) == ("dpmpp_2m_sde", 6, 6, 5)
    assert set(json.loads(attributes["inputs"])) == {"maps", "model"} and "control" not in attributes
    assert not (whole / "samples.partial").exists() and (whole / "samples.shards").is_dir()
    for m in maps.values():  # samples of one view differ, and so do views
        assert (m[:, 0] != m[:, 1]).any(axis=(1, 2)).all() and (m[0, 0] != m[1, 0]).any()


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_bytes(tmp_path, whole, ranks):
    done = run("sample", elsewhere(whole, tmp_path), ranks=ranks)
    assert done.returncode == 0, done.stderr
    ours, views, _ = samples(tmp_path)
    theirs, expected, _ = samples(whole)
    assert np.array_equal(views, expected)
    for name in theirs:
        assert ours[name].tobytes() == theirs[name].tobytes()


def test_another_batch_size_stays_within_the_contracts_bound(tmp_path, whole):
    assert run("sample", elsewhere(whole, tmp_path), "sample.batch_size=2").returncode == 0
    ours, theirs = samples(tmp_path)[0], samples(whole)[0]
    for name in theirs:
        assert np.abs(ours[name] - theirs[name]).max() < 1e-5 * np.ptp(theirs[name])


def test_killed_and_stopped_runs_keep_what_is_finished_and_give_the_same_bytes(tmp_path, whole):
    config = elsewhere(whole, tmp_path)
    arguments = ("sample.steps=60", "sample.batch_size=3")
    process = start("sample", config, *arguments)
    while len(list((tmp_path / "samples.partial").glob("part-*"))) < 1:
        assert process.poll() is None
        time.sleep(0.02)
    kill(process)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "samples.partial").glob("part-*")}
    assert kept and not (tmp_path / "samples.h5").exists()
    process = start("sample", config, *arguments)
    while len(list((tmp_path / "samples.partial").glob("part-*"))) < len(kept) + 1:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert json.loads((tmp_path / "sample.status.json").read_text())["exit"] == 75
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "samples.partial").glob("part-*")}
    assert kept.items() <= now.items()
    damaged = tmp_path / "samples.partial" / sorted(now)[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])  # a shard that the disk lost is drawn again
    assert run("sample", config, *arguments).returncode == 0
    again = tmp_path / "again"
    again.mkdir()
    assert run("sample", elsewhere(whole, again), *arguments).returncode == 0
    ours, theirs = samples(tmp_path)[0], samples(again)[0]
    for name in theirs:
        assert ours[name].tobytes() == theirs[name].tobytes()


def test_a_finished_run_says_so_and_a_changed_one_is_refused(whole):
    before = (whole / "samples.h5").stat().st_mtime_ns
    done = run("sample", whole / "c.yaml", "sample.batch_size=4")
    assert done.returncode == 0 and "already finished" in done.stdout
    refused(run("sample", whole / "c.yaml", "sample.steps=8"), "sample.steps", "6", "8")
    refused(run("sample", whole / "c.yaml", "run.seed=6"), "run.seed")
    assert (whole / "samples.h5").stat().st_mtime_ns == before


def test_whether_a_run_is_finished_is_what_rank_0_sees(whole, monkeypatch):
    """Over a network a rank may still see a file that --overwrite has removed: if it went its own way, the others would wait for it."""

    class Rank(World):
        size = 2

        def __init__(self, rank, said):
            super().__init__()
            self.rank, self.said, self.heard = rank, said, []

        def allgather(self, value):  # the other rank has nothing to add, or what rank 0 said
            self.heard.append(value)
            return [value, None] if self.rank == 0 else [self.said, value]

        def any(self, flag):
            return flag

    config = read_config(whole / "c.yaml", [])
    first = Rank(0, None)
    assert "already finished" in sample(config, first)
    assert "already finished" in sample(config, Rank(1, first.heard[-1]))
    monkeypatch.setattr(stage, "load_model", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it goes on to the work
        sample(config, Rank(1, None))


def test_shuffled_inputs_come_from_other_halos(tmp_path, whole):
    assert run("sample", elsewhere(whole, tmp_path), "sample.shuffle_inputs=true").returncode == 0
    ours, views, attributes = samples(tmp_path)
    assert attributes["control"] == "shuffled inputs"
    with h5py.File(whole / "maps.h5") as f:
        truth = f["fields/gas"][:][views].sum((1, 2))
    right = samples(whole)[0]["gas"].mean(1).sum((1, 2))
    shuffled = ours["gas"].mean(1).sum((1, 2))
    assert np.corrcoef(truth, right)[0, 1] > 0.5
    assert not np.allclose(right, shuffled, rtol=0.01)


def test_python_and_the_stage_draw_the_same(whole):
    model = hpcdiff.load(str(whole / "model"))
    drawn, views, _ = samples(whole)
    with h5py.File(whole / "maps.h5") as f:
        inputs = {k: f["fields"][k][:][views] for k in ("sz", "xray")}
    out = model.sample(inputs, samples=3, sampler="dpmpp_2m_sde", steps=6, seed=5, view=views, init="matched")
    for name in drawn:
        assert out[name].shape == drawn[name].shape and out[name].dtype == np.float32
        assert np.abs(out[name] - drawn[name]).max() < 1e-5 * np.ptp(drawn[name])
    one = model.sample({k: v[0] for k, v in inputs.items()}, samples=2, steps=4)
    assert one["gas"].shape == (1, 2, 16, 16)


def test_python_refuses_wrong_arrays(whole):
    model = hpcdiff.load(str(whole / "model"))
    good = np.ones((2, 16, 16), np.float32)
    for inputs, word in [
        ({"sz": good}, "xray"),
        ({"sz": good, "xray": good, "gas": good}, "gas"),
        ({"sz": good[:, :8], "xray": good}, "shape"),
        ({"sz": good, "xray": good[:1]}, "shape"),
        ({"sz": good * np.nan, "xray": good}, "finite"),
    ]:
        with pytest.raises(ValueError, match=word):
            model.sample(inputs, samples=1, steps=2)
    with pytest.raises(ValueError, match="dpmpp_2m"):
        model.sample({"sz": good, "xray": good}, sampler="dpmpp_3m", steps=2)
    with pytest.raises(ValueError, match="view"):
        model.sample({"sz": good, "xray": good}, view=[1], steps=2)


@pytest.mark.parametrize("damage", ["flip", "json", "missing", "foreign", "empty"])
def test_damaged_models_are_one_line(tmp_path, whole, damage):
    shutil.copytree(whole / "model", tmp_path / "model")
    weights, about = tmp_path / "model" / "model.safetensors", tmp_path / "model" / "config.json"
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "json":
        about.write_text("{")
    elif damage == "missing":
        weights.unlink()
    elif damage == "foreign":
        about.write_text('{"format": "other"}')
    else:
        shutil.rmtree(tmp_path / "model")
    refused(run("sample", elsewhere(whole, tmp_path), f"run.model={tmp_path / 'model'}"), "model")
    assert not (tmp_path / "samples.h5").exists()


def test_model_and_maps_that_do_not_belong_together(tmp_path, whole):
    make_maps(tmp_path / "maps.h5", halos=12, npix=32)
    refused(run("sample", elsewhere(whole, tmp_path), f"run.maps={tmp_path / 'maps.h5'}"), "16 pixels", "32")
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        del f["fields/sz"]
    refused(run("sample", elsewhere(whole, tmp_path), f"run.maps={tmp_path / 'maps.h5'}"), "sz")


def test_an_empty_part_is_one_line(tmp_path, whole):
    make_maps(tmp_path / "maps.h5", halos=12, npix=16, train=0.6, val=0.4, test=0.0)
    refused(run("sample", elsewhere(whole, tmp_path), f"run.maps={tmp_path / 'maps.h5'}", ranks=2), "test part", "empty")


def test_a_moved_run_is_read_by_plain_h5py_and_a_missing_shard_is_an_error(tmp_path, whole):
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(whole / "samples.h5", moved)
    shutil.copytree(whole / "samples.shards", moved / "samples.shards")
    config = elsewhere(whole, moved)
    for name, m in samples(moved)[0].items():
        assert np.array_equal(m, samples(whole)[0][name]) and np.isfinite(m).all()
    assert "already finished" in run("sample", config).stdout
    lost = sorted((moved / "samples.shards").glob("part-*"))[1]
    lost.unlink()
    refused(run("sample", config), "shard", "missing", lost.name)
    assert np.isnan(samples(moved)[0]["gas"]).any()  # whoever does not look sees no numbers
    (moved / "samples.h5").unlink()  # as the error says: then what is missing is drawn
    kept = {p.name: p.stat().st_mtime_ns for p in (moved / "samples.shards").glob("part-*")}
    assert run("sample", config).returncode == 0
    now = {p.name: p.stat().st_mtime_ns for p in (moved / "samples.shards").glob("part-*")}
    assert kept.items() < now.items() and set(now) - set(kept) == {lost.name}
    assert samples(moved)[0]["dm"].tobytes() == samples(whole)[0]["dm"].tobytes()


def test_the_file_stop_ends_all_ranks_in_the_midst_of_a_batch(tmp_path, whole):
    config = elsewhere(whole, tmp_path)
    process = start("sample", config, "sample.steps=1000000", "sample.batch_size=3", ranks=2)  # a batch would take a day
    while not (tmp_path / "samples.partial" / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    (tmp_path / "stop").touch()
    process.wait(60)
    assert json.loads((tmp_path / "sample.status.json").read_text())["exit"] == 75
    assert not (tmp_path / "stop").exists() and not (tmp_path / "samples.h5").exists()


def test_a_guide_pulls_the_samples_to_its_data_on_any_ranks(tmp_path, whole):
    drawn = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        arguments = ("sample.guide.field=total", "sample.guide.noise=0.5", "sample.guide.beam=2.0", "sample.batch_size=4")
        assert run("sample", elsewhere(whole, folder), *arguments, ranks=ranks).returncode == 0
        drawn[ranks] = samples(folder)[0]
    views, unguided = samples(whole)[1], samples(whole)[0]
    with h5py.File(whole / "maps.h5") as f:
        truth = sum(w * f["fields"][k][:][views].astype(float) for k, w in (("gas", 0.15), ("dm", 0.85)))
    for name in unguided:
        assert drawn[1][name].tobytes() == drawn[2][name].tobytes()

    def wrong(maps):  # of the total of a map, which the beam conserves and the noise of 0.5 a pixel hardly hides
        return np.abs((0.15 * maps["gas"] + 0.85 * maps["dm"]).mean(1).sum((1, 2)) / truth.sum((1, 2)) - 1)

    assert np.median(wrong(drawn[1])) < 0.2 * np.median(wrong(unguided))
    refused(run("sample", elsewhere(whole, tmp_path), "sample.guide.field=star", "sample.guide.noise=1"), "star", "total")


def test_a_regression_writes_one_map_and_says_so(tmp_path, whole):
    config, method = elsewhere(whole, tmp_path), ("task.method=regression", f"run.model={tmp_path / 'model'}")
    assert run("train", config, *method, "train.images=12").returncode == 0
    done = run("sample", config, *method)
    assert done.returncode == 0 and "1 sample a view" in done.stdout, done.stderr
    maps, views, attributes = samples(tmp_path)
    assert maps["gas"].shape == (len(views), 1, 16, 16)
    assert (attributes["sampler"], attributes["nfe"], attributes["steps"]) == ("regression", 1, 1)
    refused(run("sample", elsewhere(whole, tmp_path), "--overwrite", f"run.model={tmp_path / 'model'}"), "task.method", "regression")


def test_samples_of_two_runs_are_not_mixed(tmp_path, whole):
    (tmp_path / "samples.partial").mkdir()
    shard = next(iter((whole / "samples.shards").glob("part-*")))
    shutil.copy(shard, tmp_path / "samples.partial")
    refused(run("sample", elsewhere(whole, tmp_path), "run.seed=6"), "another run", shard.name)


def test_maps_that_are_not_finite_or_of_another_scale_are_one_line(tmp_path, whole):
    shutil.copy(whole / "maps.h5", tmp_path / "maps.h5")
    view = samples(whole)[1][1]
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f["fields/sz"][view, 3, 4] = np.nan
    config = elsewhere(whole, tmp_path)
    refused(run("sample", config, f"run.maps={tmp_path / 'maps.h5'}"), "differ from their checksum", f"first {view}")
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f["catalog/checksum"][view] = view_checksum({name: f["fields"][name][view] for name in f["fields"]})
    refused(run("sample", config, f"run.maps={tmp_path / 'maps.h5'}", ranks=2), "sz", "not finite", f"view {view}")
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f.attrs["pixel_mpc"] = 0.4
    refused(run("sample", config, f"run.maps={tmp_path / 'maps.h5'}"), "0.8 Mpc", "0.4")
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f.attrs["pixel_mpc"] = 0.8
        f["fields/sz"].attrs["units"] = "K"
    refused(run("sample", config, f"run.maps={tmp_path / 'maps.h5'}"), "'K'", "uK")
