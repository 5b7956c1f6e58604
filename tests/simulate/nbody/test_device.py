"""`simulate.device`: refused where there is no GPU, the same on all ranks, kept by a run that goes on, and nothing imported in vain."""

import subprocess
import sys

import h5py
import pytest
import torch
import yaml
from conftest import ROOT, environment, run
from refused_config import refused_in_one_line

from hpcdiff.config import read_config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.nbody import box, coarse, device, work
from hpcdiff.simulate.nbody.gravity import gravity_of
from hpcdiff.simulate.nbody.torch_gravity import TorchGravity
from hpcdiff.world import World

SMALL = ["simulate.engine=nbody", "simulate.clusters=1", "simulate.mass_range=[3e14, 5e14]", "simulate.cell=45"]
SMALL += ["simulate.particle_mass=1.83e12", "simulate.accuracy=1"]


def config(folder, *more):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text("run: {seed: 5}\n")
    return [str(folder / "c.yaml"), f"run.dir={folder}", *SMALL, *more]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(device, "gpus", lambda: 0)


@pytest.fixture
def as_if(monkeypatch):
    """As if there were a GPU: what it would do is done by the same code on the CPU."""

    def there(side, mesh, softening, om0, threads, where):
        assert where == "cuda"
        return TorchGravity(side, mesh, softening, om0, "cpu")

    torch.set_num_threads(1)
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(device, "_take", lambda place: None)
    for module in (box, coarse):
        monkeypatch.setattr(module, "gravity_of", there)


def settled(folder, *more):
    path, *overrides = config(folder, *more)
    read = read_config(path, overrides)
    return device.settled(read, Folder(folder), World()).simulate.device


def test_cuda_without_a_gpu_is_refused_before_any_work(tmp_path, capsys, no_gpu):
    said = "PyTorch finds no GPU on "
    refused_in_one_line(main, config(tmp_path / "run", "simulate.device=cuda"), tmp_path / "run", said, capsys)
    assert not (tmp_path / "run" / "simulate.partial").exists()


def test_two_ranks_refuse_in_one_line(tmp_path):
    done = run("simulate", *config(tmp_path / "run", "simulate.device=cuda"), ranks=2, CUDA_VISIBLE_DEVICES="")
    lines = [line for line in done.stderr.splitlines() if "hpcdiff" in line]
    assert done.returncode == 2 and len(lines) == 1 and "simulate.device, take cpu, or auto" in lines[0]


def test_auto_takes_what_is_there_and_goes_on_with_what_was_begun(tmp_path, no_gpu, monkeypatch):
    folder = tmp_path / "run"
    assert settled(folder, "simulate.device=auto") == settled(folder) == "cpu"
    monkeypatch.setattr(device, "gpus", lambda: 4)
    taken = []
    monkeypatch.setattr(device, "_take", taken.append)
    assert settled(folder, "simulate.device=auto") == "cuda" and taken == [0]
    Folder(folder).partial.mkdir()
    for kind in device.KINDS:
        Folder(folder).config.write_text(yaml.safe_dump({"simulate": {"device": kind}}))
        assert settled(folder, "simulate.device=auto") == kind
    for damaged in ("", "{", "simulate: 3", "simulate: {device: [1]}"):
        Folder(folder).config.write_text(damaged)
        assert settled(folder, "simulate.device=auto") == "cuda"


def test_ranks_of_a_node_take_its_gpus_in_turn(tmp_path, monkeypatch):
    class Ranks(World):
        size = 4

        def allgather(self, value):
            return ["a", "b", "a", "b"] if isinstance(value, str) else [value] * 4

    taken = []
    monkeypatch.setattr(device, "gpus", lambda: 2)
    monkeypatch.setattr(device, "_take", taken.append)
    read = read_config(config(tmp_path / "run")[0], [*SMALL, "simulate.device=cuda"])
    for rank in range(4):
        world = Ranks()
        world.rank = rank
        device.settled(read, Folder(tmp_path), world)
    assert taken == [0, 0, 1, 1]


@pytest.mark.parametrize(("of_each", "kind"), [([1, 2], "cuda"), ([1, 0], "cpu"), ([0, 0], "cpu")])
def test_auto_is_cuda_only_where_every_rank_has_a_gpu(tmp_path, monkeypatch, of_each, kind):
    class Ranks(World):
        size = len(of_each)

        def allgather(self, value):
            return [n > 0 for n in of_each] if isinstance(value, bool) else [value] * len(of_each)

    monkeypatch.setattr(device, "gpus", lambda: of_each[0])
    monkeypatch.setattr(device, "_take", lambda place: None)
    read = read_config(config(tmp_path / "run")[0], [*SMALL, "simulate.device=auto"])
    assert device.settled(read, Folder(tmp_path), Ranks()).simulate.device == kind


def test_a_rank_makes_its_gpu_the_current_one(monkeypatch):
    current, failing = [], []

    def zeros(*shape, device):
        if current[-1] in failing:
            raise RuntimeError("CUDA error: out of order\nmore lines")

    monkeypatch.setattr(device, "gpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "zeros", zeros)
    for place in range(4):
        device._take(place)
    assert current == [0, 1, 0, 1]
    failing.append(1)
    with pytest.raises(UserError, match=r"GPU 1 of \S+ does not work \(CUDA error: out of order\)"):
        device._take(3)


def test_a_run_is_not_taken_up_on_another_device(tmp_path, capsys, as_if, monkeypatch):
    folder, steps = tmp_path / "run", []
    one_box = ["simulate.box=45", "simulate.mass_range=[5e14, 5e15]"]

    def stopped(plan, files, box_, told, threads, after, *rest):
        def look(state):
            after(state)
            steps.append(state.steps)
            if steps.count(state.steps) == 1 and len(steps) % 2 == 0:
                raise Stopped("as by a signal")

        box.run_box(plan, files, box_, told, threads, look, *rest)

    monkeypatch.setattr(work, "run_box", stopped)
    assert main(config(folder, *one_box, "simulate.device=auto")) == 75
    assert "forces on a GPU" in capsys.readouterr().out
    assert main(config(folder, *one_box)) == 2 and "simulate.device was 'cuda' and is now 'cpu'" in capsys.readouterr().err
    assert main(config(folder, *one_box, "simulate.device=auto")) == 75 and steps == [1, 2, 3, 4]


def test_what_is_done_needs_no_gpu(tmp_path, no_gpu):
    folder = tmp_path / "run"
    folder.mkdir()
    with h5py.File(folder / "halos.hdf5", "w") as f:
        f.attrs["config"] = yaml.safe_dump({"simulate": {"device": "cuda"}})
    assert settled(folder, "simulate.device=auto") == settled(folder, "simulate.device=cuda") == "cuda"


@pytest.mark.parametrize(
    ("kind", "said"), [("cpu", "forces on the CPU"), ("cuda", "forces on a GPU"), ("auto", "GPUs if every rank has one")]
)
def test_dry_run_says_the_device(tmp_path, capsys, kind, said):
    assert main([*config(tmp_path / "run", f"simulate.device={kind}"), "--dry-run"]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("where", "not_there"), [("cpu", "torch"), ("meta", "numba")])
def test_no_device_imports_the_others_package(where, not_there):
    code = f"""
import sys
from hpcdiff.simulate.nbody import box, work
from hpcdiff.simulate.nbody.gravity import gravity_of
try:
    gravity_of(10.0, 32, 0.05, 0.3, 1, {where!r})
except KeyError:
    pass  # no arithmetic for this device of torch
assert {not_there!r} not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_cpu_has_the_compiled_loops():
    assert type(gravity_of(10.0, 32, 0.05, 0.3, 1, "cpu")).__name__ == "Gravity"
