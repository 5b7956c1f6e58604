"""What a checkpoint costs training: steps with and without a save under way, and how long the call for it keeps training waiting.

    OMP_NUM_THREADS=2 python benchmarks/checkpoint_cost.py [FOLDER]       # 3 minutes; writes benchmarks/results/checkpoint_cost.json

One process saves the paper's network: weights, their average and both moments of Adam, 4 x 45.8 million numbers in fp32, 733 MB.
Meanwhile it takes steps of two kinds: `busy`, a convolution's training step on all cores, as in training on CPUs; and `device`, half of
which is Python that launches small operations and the rest waiting, as where a GPU works: it suffers from threads that hold the GIL.
Peers: torch.save to the same disk, flushed; DCP's async_save, with its own format (which pickles) and with safetensors. Nothing else
hashes what it writes. FOLDER: where to write; a temporary folder if it is not given.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import report
import torch
import torch.distributed.checkpoint as dcp

from hpcdiff import files
from hpcdiff.network.ncsnpp import NCSNpp
from hpcdiff.train.checkpoint import Checkpoints
from hpcdiff.train.pieces import cut
from hpcdiff.world import World

REPEATS, BEFORE = 3, 8
KINDS = ("weights", "ema", "exp_avg", "exp_avg_sq")


def tensors() -> dict[str, torch.Tensor]:
    """Random numbers in the shapes of all that a checkpoint of the paper's network holds."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in NCSNpp(2, 2, 2).named_parameters()}
    return {f"{kind}/{name}": torch.randn(shape) for kind in KINDS for name, shape in shapes.items()}


def busy_step() -> Callable[[], None]:
    """A training step of a few convolutions, about 0.2 s on two cores."""
    net = torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(6)))
    x = torch.randn(4, 64, 64, 64)
    adam = torch.optim.Adam(net.parameters())

    def step() -> None:
        net(x).square().mean().backward()
        adam.step()
        adam.zero_grad()

    return step


def device_step() -> Callable[[], None]:
    """A step of 0.1 s, of which about half goes into launching small operations."""
    x = torch.zeros(8)

    def step() -> None:
        end = time.perf_counter() + 0.1
        for _ in range(20_000):
            x.add_(1.0)
        time.sleep(max(0.0, end - time.perf_counter()))

    return step


class Ours:
    """hpcdiff: copies in memory, all else in a thread."""

    def __init__(self, folder: Path) -> None:
        self.checkpoints, self.images = Checkpoints(folder, 1, World()), 0

    def start(self, state: dict[str, torch.Tensor]) -> None:
        self.images += 1
        self.checkpoints.save(self.images, {name: cut(tensor, 0, 1) for name, tensor in state.items()}, {}, {}, "ddp")

    def done(self) -> bool:
        job = self.checkpoints.job
        return job is None or job.whole

    def finish(self) -> None:
        self.checkpoints.settle()


class TorchSave:
    """torch.save, and training waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def start(self, state: dict[str, torch.Tensor]) -> None:
        torch.save(state, self.folder / "new.pt")
        files.sync(self.folder / "new.pt")
        os.replace(self.folder / "new.pt", self.folder / "checkpoint.pt")

    def done(self) -> bool:
        return True

    def finish(self) -> None:
        pass


class Async:
    """DCP's async_save."""

    def __init__(self, folder: Path, safetensors: bool) -> None:
        self.folder, self.safetensors, self.n, self.future = folder, safetensors, 0, None

    def start(self, state: dict[str, torch.Tensor]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.safetensors:
            writer = dcp.HuggingFaceStorageWriter(str(self.folder), save_distributed=True)
        else:
            writer = dcp.FileSystemWriter(str(self.folder))
        self.future = dcp.async_save(state, storage_writer=writer, no_dist=True)

    def done(self) -> bool:
        return self.future.done()

    def finish(self) -> None:
        self.future.result()


def measure(way: object, step: Callable[[], None], state: dict[str, torch.Tensor]) -> dict[str, float]:
    """One save: seconds that its call takes, until it is whole, of steps before and meanwhile, and what training lost in all."""

    def timed() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    before = statistics.median(timed() for _ in range(BEFORE))
    began = time.perf_counter()
    way.start(state)
    waited, steps = time.perf_counter() - began, []
    while not way.done():
        steps.append(timed())
    whole = time.perf_counter() - began
    way.finish()
    return {
        "step_s": before,
        "waited_s": waited,
        "whole_s": whole,
        "steps": len(steps),
        "step_meanwhile_s": statistics.fmean(steps) if steps else before,
        "longest_step_s": max(steps, default=before),
        "lost_s": waited + sum(steps) - before * len(steps),
    }


def alone(way: object, state: dict[str, torch.Tensor]) -> float:
    """CPU seconds of one save with nothing beside it: what stays the same on a machine that others use too."""
    began = time.process_time()
    way.start(state)
    while not way.done():
        time.sleep(0.01)
    way.finish()
    return time.process_time() - began


def main(folder: str | None) -> None:
    """Measure all and print the tables."""
    warnings.simplefilter("ignore")  # DCP says each time that there is one process only
    state = tensors()
    size = sum(t.nbytes for t in state.values())
    began = time.perf_counter()
    copies = {name: cut(t, 0, 1) for name, t in state.items()}
    copying = time.perf_counter() - began
    del copies
    content = {"machine": report.machine("torch", "safetensors"), "threads": torch.get_num_threads(), "bytes": size, "copy_s": copying}
    print(f"{len(state)} tensors, {size / 1e6:.0f} MB; to copy them once takes {copying:.2f} s; medians of {REPEATS} saves")
    for kind, step in (("busy", busy_step()), ("device", device_step())):
        rows = []
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as there:
            ways = {
                "hpcdiff": Ours(Path(there) / "ours"),
                "torch.save": TorchSave(Path(there) / "torch"),
                "dcp.async_save": Async(Path(there) / "dcp", False),
                "dcp.async_save, safetensors": Async(Path(there) / "hf", True),
            }
            found: dict[str, list] = {name: [] for name in ways}
            cpu = {name: min(alone(way, state) for _ in range(2)) for name, way in ways.items()}
            for _ in range(REPEATS):  # in turns, so that a busy neighbour harms all alike
                for name, way in ways.items():
                    found[name].append({"cpu_s": cpu[name], **measure(way, step, state)})
            for name, all_ in found.items():
                middle = {key: statistics.median(one[key] for one in all_) for key in all_[0]}
                content.setdefault(kind, {})[name] = middle
                m = middle
                meanwhile = f"{m['step_meanwhile_s'] / m['step_s'] - 1:+.0%}" if m["steps"] else "-"
                longest = f"{m['longest_step_s']:.3f}" if m["steps"] else "-"
                rows.append(
                    [
                        name,
                        *(f"{m[key]:.3f}" for key in ("cpu_s", "step_s", "waited_s", "whole_s")),
                        meanwhile,
                        longest,
                        f"{m['lost_s']:.3f}",
                    ]
                )
        print(f"\nsteps: {kind}")
        print(
            report.table(["", "CPU s alone", "step s", "waited s", "whole after s", "steps meanwhile", "longest s", "lost in all s"], rows)
        )
    print(f"\n{report.write('checkpoint_cost', content)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
