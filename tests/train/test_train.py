"""The train stage: kill and resume, ranks, signals, reruns, bad input."""

import json
import shutil
import signal
import time
import zlib
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import kill, make_maps, refused, run, start

from hpcdiff.config import read_config
from hpcdiff.errors import UserError
from hpcdiff.train import loop
from hpcdiff.world import World

CONFIG = """
run: {{dir: {dir}}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1, dropout: {dropout}}}
diffusion: {{precondition: {precondition}}}
task: {{transform: asinh}}
train: {{batch_size: 6, images: 240, precision: fp32, lr: 1.0e-4, ema: 0.99, checkpoint_every: 36, validate_every: 90, log_every: 30, keep: 2}}
"""


class Alone(World):
    """One process, without signals."""

    device = torch.device("cpu")


def write(folder, precondition="edm", dropout=0.1):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(CONFIG.format(dir=folder, precondition=precondition, dropout=dropout))
    return folder / "c.yaml"


def weights(folder):
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def status(folder):
    return json.loads((folder / "train.status.json").read_text())


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "maps.h5"
    make_maps(path, halos=30, npix=16)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, maps):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(maps, folder)
    done = run("train", write(folder))
    assert done.returncode == 0, done.stderr
    return folder


def new_run(tmp_path, maps, **options):
    shutil.copy(maps, tmp_path / "maps.h5")
    return write(tmp_path, **options)


def test_it_learns_and_writes_what_the_contract_names(whole):
    lines = [json.loads(line) for line in (whole / "stats.jsonl").read_text().splitlines()]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert validation[-1] < validation[0]
    assert [line["images"] for line in lines] == sorted({line["images"] for line in lines})
    assert {p.name for p in (whole / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert [p.name for p in sorted((whole / "checkpoints").iterdir())] == ["000000000216", "000000000240"]
    assert status(whole)["exit"] == 0
    assert list((whole / "tensorboard").glob("events*"))


def test_tensorboard_holds_losses_and_a_picture(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard")).Reload()
    assert {"loss/train", "loss/validation (EMA)", "optimiser/learning rate", "speed/maps per s", "speed/MFU (%)"} <= set(
        events.Tags()["scalars"]
    )
    assert events.Tags()["images"] == ["validation/maps", "validation/b(k) and r(k)"]


def test_a_finished_run_says_so_and_changes_nothing(whole):
    before = (whole / "model" / "model.safetensors").stat().st_mtime_ns
    done = run("train", whole / "c.yaml")
    assert done.returncode == 0 and "already trained" in done.stdout
    assert (whole / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_killed_runs_give_the_same_bytes(tmp_path, maps, whole):
    config = new_run(tmp_path, maps)
    for checkpoints in (1, 4):  # killed after the first, and again after a few more
        process = start("train", config)
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            names = sorted(p.name for p in (tmp_path / "checkpoints").glob("[0-9]" * 12)) if (tmp_path / "checkpoints").exists() else []
            if names and int(names[-1]) >= 36 * checkpoints:
                break
            time.sleep(0.005)
        kill(process)
    done = run("train", config)
    assert done.returncode == 0, done.stderr
    assert "from image 0 " not in done.stdout
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    lines = [json.loads(line)["images"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert lines == sorted(set(lines))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1, "stop"])
def test_a_signal_or_the_file_stop_saves_and_exits_75_and_the_rerun_gives_the_same_bytes(tmp_path, maps, whole, how):
    config = new_run(tmp_path, maps)
    process = start("train", config)
    while not (tmp_path / "checkpoints").exists():
        time.sleep(0.01)
    if how == "stop":
        (tmp_path / "stop").touch()
    else:
        process.send_signal(how)
    assert process.wait(60) == 75
    ended = status(tmp_path)
    assert ended["exit"] == 75 and not (tmp_path / "model").exists() and not (tmp_path / "stop").exists()
    assert ("the file stop" if how == "stop" else how.name) in ended["reason"] and ended["requeue"] == (how != "stop")
    assert run("train", config).returncode == 0
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def furthest(a, b):
    """Largest difference of two runs' averaged weights."""
    a, b = weights(a), weights(b)
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.parametrize("precondition", ["edm", "ve"])
def test_weights_agree_over_ranks_engines_and_restarts_on_other_ranks(tmp_path, maps, precondition):
    runs = {}
    for name in ("one", "two", "zero"):
        (tmp_path / name).mkdir()
        runs[name] = new_run(tmp_path / name, maps, precondition=precondition, dropout=0.0)
    assert run("train", runs["one"]).returncode == 0
    done = run("train", runs["two"], "train.images=120", ranks=2)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "two" / "checkpoints" / "000000000120" / "manifest.json").read_text())
    assert manifest["world_size"] == 2
    done = run("train", runs["two"], ranks=3)  # a larger `images` goes on, here on three ranks
    assert done.returncode == 0 and "from image 120 to 240 on 3 rank(s)" in done.stdout, done.stderr
    assert furthest(tmp_path / "one", tmp_path / "two") < 1e-4
    if precondition == "edm":
        done = run("train", runs["zero"], "train.engine=deepspeed", "train.zero_stage=2", "train.images=120", ranks=2)
        assert done.returncode == 0 and "engine deepspeed" in done.stdout, done.stderr
        done = run("train", runs["zero"])  # and the other engine goes on, alone
        assert done.returncode == 0 and "from image 120 to 240 on 1 rank(s)" in done.stdout, done.stderr
        assert furthest(tmp_path / "one", tmp_path / "zero") < 1e-4


def test_gradients_that_are_never_finite_end_it_on_all_ranks(tmp_path, maps):
    done = run("train", new_run(tmp_path, maps, dropout=0.0), "train.lr=1.0e+30", "train.max_skipped=3", ranks=2)
    refused(done, "3 steps in a row", "not finite", "lower train.lr")
    assert status(tmp_path)["exit"] == 2 and not (tmp_path / "model").exists()


def test_more_ranks_than_training_views_are_refused(tmp_path, maps):
    refused(run("train", new_run(tmp_path, maps), "train.subset=0.05", ranks=2), "rank", "training view")


def test_a_changed_key_or_map_file_is_refused(tmp_path, whole):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    config = write(folder)
    refused(run("train", config, "train.lr=2e-4"), "train.lr", "0.0001", "0.0002", "--overwrite")
    refused(run("train", config, "train.images=100"), "train.images", "240", "100")
    shutil.rmtree(folder / "model")
    refused(run("train", config, "network.channels=16"), "network.channels", "8", "16")
    (folder / "maps.h5").unlink()
    make_maps(folder / "maps.h5", halos=30, npix=16, seed=1)
    refused(run("train", config), "trained on maps")
    done = run("train", config, "--overwrite", "train.images=12")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["000000000012"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.maps=/nowhere/maps.h5"], ["map file", "not there"]),
        (["task.inputs=[sz, temperature]"], ["temperature", "task.inputs"]),
        (["task.outputs=[star]"], ["star", "task.outputs"]),
        (["network.multipliers=[1,1,1,1,1,1]"], ["16 pixels"]),
        (["network.name=unet"], ["not built yet"]),
    ],
)
def test_bad_input_is_one_line(tmp_path, maps, arguments, words):
    refused(run("train", new_run(tmp_path, maps), *arguments), *words)
    assert status(tmp_path)["exit"] == 2
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("argument", ["train.map_weights=[1,2]", "network.attention=[4]", "train.max_skipped=0", "task.transform=log"])
def test_a_config_that_does_not_hold_together_is_one_line(tmp_path, maps, argument):
    refused(run("train", new_run(tmp_path, maps), argument), argument.split("=")[0])


def test_a_compiler_that_is_not_there_is_one_line(tmp_path, maps):
    done = run("train", new_run(tmp_path, maps), "train.compile=true", ranks=2, CXX="/nowhere/g++")
    refused(done, "C++ compiler", "/nowhere/g++", "train.compile=false")


def test_a_device_without_memory_is_one_line(tmp_path, maps, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop, "_train", full)
    with pytest.raises(UserError, match="memory of cpu.*6 maps a rank, train.batch_size"):
        loop.train(read_config(new_run(tmp_path, maps)), Alone())


class Gpus(Alone):
    """Rank 1 of several, by the GPUs that they see."""

    rank = 1

    def __init__(self, *gpus):
        super().__init__()
        self.gpus, self.size = gpus, len(gpus)

    def allgather(self, value):
        assert value[1] is None
        return [["node", gpu] for gpu in self.gpus]


def test_ranks_that_cannot_join_are_one_line():
    loop.agreement.check_devices(Gpus("a", "b"))
    loop.agreement.check_devices(Gpus(None, None))
    with pytest.raises(UserError, match="rank 1 .node. sees no GPU, and others do"):
        loop.agreement.check_devices(Gpus("a", None, "b"))
    with pytest.raises(UserError, match="ranks 0 and 2 have the same GPU of node"):
        loop.agreement.check_devices(Gpus("a", "b", "a"))


def test_rank_0_says_whether_there_is_work_to_do(tmp_path, maps, monkeypatch):
    class Second(Alone):
        rank = 1

        def broadcast(self, value):
            assert value is None
            return "done already"

    monkeypatch.setattr(loop.agreement, "finished", lambda config: pytest.fail("rank 1 looked for itself"))
    assert loop.train(read_config(new_run(tmp_path, maps)), Second()) == "done already"


def test_a_batch_that_does_not_divide_is_refused_once_and_no_rank_hangs(tmp_path, maps):
    refused(run("train", new_run(tmp_path, maps), "train.batch_size=5", ranks=2), "batch_size", "2 ranks")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "nan", "constant", "partial"])
def test_damaged_map_files(tmp_path, maps, damage):
    config, path = new_run(tmp_path, maps), tmp_path / "maps.h5"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not HDF5")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "partial":
        path.rename(tmp_path / "maps.h5.partial")
    else:
        with h5py.File(path, "r+") as f:
            f["fields/dm"][...] = np.nan if damage == "nan" else 1.0
            if damage == "constant":  # and whole
                maps_of = [f["fields"][name][:] for name in sorted(f["fields"])]
                f["catalog/checksum"][:] = [zlib.crc32(b"".join(x[i].tobytes() for x in maps_of)) for i in range(len(maps_of[0]))]
    refused(run("train", config), "maps.h5" if damage != "constant" else "constant")


@pytest.mark.parametrize(("sigma_max", "narrow"), [(0.5, True), (1.7, True), (1.8, False), (4.0, False)])
def test_noise_that_is_small_beside_the_maps_is_said(tmp_path, sigma_max, narrow):
    said = []
    data = SimpleNamespace(noise_range=(0.001, 3.5), statistics={"sigma_data": torch.ones(2)}, n_train=1, n_validation=1, where="")
    world = SimpleNamespace(print=said.append, size=1, device="cpu")
    loop._announce(
        read_config(write(tmp_path), [f"diffusion.sigma_max={sigma_max}"]), world, data, SimpleNamespace(name="ddp", uncompiled=None), 1, 0
    )
    assert any("these maps suggest 0.001 to 3.5" in one for one in said)
    assert any(f"diffusion.sigma_max={sigma_max:g} is small beside the 3.5" in one for one in said) == narrow


def test_dry_run_touches_nothing(tmp_path):
    config = write(tmp_path)
    done = run("train", config, "--dry-run")
    assert done.returncode == 0 and "parameters" in done.stdout and "not there yet" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"c.yaml"}
