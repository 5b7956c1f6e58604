"""The engines side by side on the same ranks: DDP and ZeRO's stages, alternating, in one torchrun.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m training.ranks \
        '{"maps": "maps.h5", "channels": 32, "batch": 2, "threads": 1, "precision": "fp32", "compile": false, "repeats": 3, "steps": 1}'
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time

import torch

from hpcdiff.train.data import TrainingData
from hpcdiff.train.flops import synchronise
from hpcdiff.world import join_world
from training.control import answers
from training.ours import Training, configure


def engines() -> dict[str, dict]:
    """{name: its part of a setup}; DDP alone where DeepSpeed is not installed."""
    zero = {f"ZeRO {stage}": {"engine": "deepspeed", "zero_stage": stage} for stage in range(4)}
    return {"DDP": {"engine": "ddp"}, **(zero if importlib.util.find_spec("deepspeed") else {})}


def state_bytes(engine) -> int:
    """Bytes of the weights, moments and averages that this rank holds between steps."""
    tensors = {id(t): t for t in (*engine.named.values(), *engine.masters, *engine.ema)}
    tensors |= {id(t): t for state in engine.adam.state.values() for t in state.values() if isinstance(t, torch.Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def main() -> None:
    """Build all engines with the same weights, warm up, time them by turns; rank 0 answers with one line of JSON."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    world = join_world("train")
    data, trainings = TrainingData(configure(setup), world), {}
    out: dict = {"ranks": world.size, "engines": {}}
    for name, part in engines().items():
        own = {**setup, **part, "compile": None if part.get("zero_stage") == 3 else setup["compile"]}
        training = trainings[name] = Training(own, world, data)
        loss = torch.stack([training.step(training.make()).mean() for _ in range(2)])[-1]
        mean = sum(world.allgather(float(loss))) / world.size
        out["engines"][name] = {"loss": mean, "state_bytes": state_bytes(training.engine), "seconds": [], "cpu_seconds": []}
    for _ in range(setup["repeats"]):
        for name, training in trainings.items():
            batches = [training.make() for _ in range(setup["steps"])]
            world.barrier()
            synchronise(world.device)
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in batches:
                training.step(batch)
            synchronise(world.device)
            used = [time.perf_counter() - wall, time.process_time() - cpu]
            slowest = world.allgather(used)
            out["engines"][name]["seconds"].append(max(u[0] for u in slowest) / setup["steps"])
            out["engines"][name]["cpu_seconds"].append(sum(u[1] for u in slowest) / setup["steps"])
    if world.main:
        print(json.dumps(out), file=channel, flush=True)
    world.close()


if __name__ == "__main__":
    main()
