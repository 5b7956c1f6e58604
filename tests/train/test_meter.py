"""The meter: means by closed form on any number of ranks, rates by a clock of our own, and no waiting for the device."""

import json
import math
import subprocess
from pathlib import Path

import meter_ranks as script
import numpy as np
import pytest
import torch
from conftest import LAUNCHERS, ROOT, environment
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hpcdiff.diffusion import EDMDenoiser, VEDenoiser
from hpcdiff.train import meter as module
from hpcdiff.train.meter import BINS, Meter, memory_gb, noise_edges
from hpcdiff.world import World

CPU = torch.device("cpu")
COUNTERS = {"updates": 3, "skipped": 0, "skipped_in_a_row": 0, "gradient_norm": 1.5}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def go(seconds):
        now[0] += seconds

    return go


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_means_are_those_of_all_images_on_any_number_of_ranks(ranks):
    kind = "alone" if ranks == 1 else "torchrun"
    command = [*LAUNCHERS[kind](ranks), str(Path(script.__file__))]
    done = subprocess.run(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    got = said["first"]
    numbers = torch.arange(script.STEPS * script.BATCH)
    loss, u = script.losses(numbers).double().numpy(), script.quantiles(numbers).numpy()
    good = np.isfinite(loss)
    assert good.sum() == len(loss) - 2
    assert got["loss"] == pytest.approx(loss[good].mean(), rel=1e-12)
    for k in range(BINS):
        inside = good & (u >= k / BINS) & (u < (k + 1) / BINS)
        if inside.any():
            assert got[f"loss_{k}"] == pytest.approx(loss[inside].mean(), rel=1e-12), k
        else:
            assert f"loss_{k}" not in got
    assert "loss_6" in got and "loss_7" not in got
    assert got["checkpoint_s"] == script.TOPS[1] + ranks - 1  # the longest save of the slowest rank
    assert got["maps_per_s_per_gpu"] * ranks == pytest.approx(got["maps_per_s"])
    assert got["tflops"] == pytest.approx(got["maps_per_s"] * script.FLOP / 1e12)
    assert got["mfu_percent"] == pytest.approx(100 * got["tflops"] * 1e12 / (ranks * script.PEAK))
    assert (got["updates"], got["skipped"], got["lr"], got["gradient_norm"]) == (5, 1, 1e-4, 0.5)
    assert not {"loss", "maps_per_s", "checkpoint_s"} & set(said["second"])  # a new interval began


def feed(meter, steps, batch=16):
    for _ in range(steps):
        meter.step(torch.ones(batch), torch.rand(batch))


def test_a_peak_that_training_beats_is_measured_anew(clock):
    asked = []

    def measure():
        asked.append(1)
        return 1e12 if len(asked) == 1 else 64e12

    meter = Meter(World(), CPU, step_flops=3e12, peak=2e12, measure=measure)
    found = []
    for _ in range(4):
        feed(meter, 1)  # the first of all is not counted
        clock(2)
        feed(meter, 1)
        found.append(meter.numbers(1e-3, 0.9, {"updates": 1})["mfu_percent"])
    assert len(asked) == 2  # a lower peak is no better, a higher one is kept
    assert found == pytest.approx([1200, 75, 75, 75])


def test_rates_leave_out_pauses_and_the_first_step(clock):
    meter = Meter(World(), CPU, step_flops=3e12, peak=96e12)
    clock(1000)  # compilation
    feed(meter, 1)
    for _ in range(4):
        with meter.waiting():
            clock(0.25)
        clock(1.75)
        feed(meter, 1)
    with meter.paused():
        clock(500)
    got = meter.numbers(1e-4, 0.999, COUNTERS)
    assert got["maps_per_s"] == pytest.approx(64 / 8)
    assert got["tflops"] == pytest.approx(24)
    assert got["mfu_percent"] == pytest.approx(25)
    assert got["data_percent"] == pytest.approx(12.5)
    clock(2)
    feed(meter, 1)
    got = meter.numbers(1e-4, 0.999, COUNTERS)
    assert got["maps_per_s"] == pytest.approx(8) and got["data_percent"] == 0


def test_a_pause_that_fails_still_ends(clock):
    meter = Meter(World(), CPU)
    feed(meter, 1)
    with pytest.raises(ValueError), meter.paused():
        clock(50)
        raise ValueError
    clock(4)
    feed(meter, 1)
    assert meter.numbers(1e-4, 0.999, COUNTERS)["maps_per_s"] == pytest.approx(4)


def test_the_slowest_rank_sets_the_pace():
    class Both(World):
        size = 2

        def allgather(self, value):
            other = {**value, "maps": 60, "seconds": 20.0, "waited_s": 5.0, "peak": 1e12, "memory": {"memory_gb": 1e6}}
            return [value, other]

    meter = Meter(Both(), CPU, step_flops=1e11, peak=3e12)
    feed(meter, 1)
    meter.maps = 40
    got = meter.numbers(1e-4, 0.999, COUNTERS)
    assert got["maps_per_s"] == pytest.approx(5) and got["maps_per_s_per_gpu"] == pytest.approx(2.5)
    assert got["mfu_percent"] == pytest.approx(100 * 5e11 / 4e12)
    assert got["data_percent"] == pytest.approx(25) and got["memory_gb"] == 1e6


def test_what_is_not_known_is_left_out():
    meter = Meter(World(), CPU)
    assert set(meter.numbers(1e-4, 0.999, COUNTERS)) == {"lr", "ema", "memory_gb", *COUNTERS}
    meter.step(torch.tensor([float("nan"), float("inf")]), torch.tensor([0.1, 0.9]))
    got = meter.numbers(1e-4, 0.999, COUNTERS)
    assert not any(k.startswith("loss") for k in got)
    meter.step(torch.tensor([2.0, float("-inf"), 4.0]), torch.tensor([0.0, 0.5, 1.0]))  # quantiles at the very ends
    meter.saved(2.0)
    got = meter.numbers(1e-4, 0.999, COUNTERS)
    assert {k: v for k, v in got.items() if k.startswith("loss")} == {"loss": 3.0, "loss_0": 2.0, "loss_7": 4.0}
    assert got["checkpoint_s"] == 2.0
    assert "tflops" not in got and "mfu_percent" not in got
    assert set(meter.numbers(1e-4, 0.999, COUNTERS)) == {"lr", "ema", "memory_gb", *COUNTERS}  # a new interval began


class Refuse(TorchDispatchMode):
    """Raises where the host would read a number from the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), function
        return function(*args, **(kwargs or {}))


def test_a_step_reads_nothing_from_the_device():
    meter = Meter(World(), CPU)
    with Refuse():
        feed(meter, 3)
        with pytest.raises(AssertionError):
            float(torch.ones(1))
    with FakeTensorMode(allow_non_fake_inputs=False):  # tensors without data, on a device other than the host's
        meter = Meter(World(), torch.device("meta"))
        meter.step(torch.empty(16, device="meta"), torch.empty(16, device="meta"))
        with pytest.raises(Exception, match="_local_scalar_dense"):
            meter.numbers(1e-4, 0.999, COUNTERS)


def test_half_precision_losses_are_summed_in_full():
    meter = Meter(World(), CPU)
    for _ in range(300):
        meter.step(torch.full((32,), 1.0, dtype=torch.bfloat16), torch.full((32,), 0.5))
    meter.step(torch.full((32,), 3.0, dtype=torch.bfloat16), torch.full((32,), 0.5))
    assert meter.numbers(1e-4, 0.999, COUNTERS)["loss_4"] == pytest.approx(303 / 301, rel=1e-12)


def test_the_decay_in_force():
    meter = Meter(World(), CPU)
    for updates, decay in ((0, 0.1), (8, 0.5), (10**6, 0.9999)):
        assert meter.numbers(1e-4, 0.9999, {**COUNTERS, "updates": updates})["ema"] == pytest.approx(decay, rel=1e-12)


def test_memory_is_the_peak_that_the_kernel_counts():
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert memory_gb(CPU)["memory_gb"] == pytest.approx(peak * 1024 / 1e9, rel=0.02)


def test_edges_of_the_noise_bins():
    network = torch.nn.Linear(1, 1)
    edges = noise_edges(VEDenoiser(network, 0.001, 10.0))
    assert edges == pytest.approx([1e-3 * 10 ** (k / 2) for k in range(9)], rel=1e-5)
    edges = noise_edges(EDMDenoiser(network, [0.25, 1.0], shift=-0.5, width=1.2))
    assert edges[0] == 0 and math.isinf(edges[-1]) and edges == sorted(edges)
    assert edges[4] == pytest.approx(0.5 * math.exp(-0.5), rel=1e-5)
