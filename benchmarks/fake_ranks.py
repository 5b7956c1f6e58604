"""What 1024 ranks would hold, deal and write, proved in one process; and what they would exchange, by formula. It measures no speed.

    python benchmarks/fake_ranks.py [dealing files memory network]     # all of them by default

Writes benchmarks/results/fake_ranks.json and fake_ranks.png (parts that are not run stay as they were).

    dealing   8, 64, 1024 ranks: every image of a step goes to one rank, every view comes once an epoch
    files     the pieces of the paper's network that each of the ranks keeps: together every element of every tensor once; files a checkpoint
    memory    bytes that one rank's engine holds in a step, DDP and ZeRO 0-3, against the formula; PyTorch's fake process group, whose
              collectives do nothing, stands for the other ranks
    network   seconds of the gradient's all-reduce for given bandwidths, and its share of a step (batches/network.py)
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from batches.figure import draw_network
from batches.network import Cluster, all_reduce_seconds, step_seconds
from report import RESULTS, machine, table, write

from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.sections import Train
from hpcdiff.train import manifest, storage
from hpcdiff.train.data.order import images_of
from hpcdiff.train.pieces import cut

RANKS, PER_NODE, VIEWS = (8, 64, 1024), 8, 35_000
KINDS = ("weights", "ema", "exp_avg", "exp_avg_sq")
ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3")
FORWARD_FLOP, PARAMETERS = 400.9e9, 45_835_912
"""Of the paper's network, 2 + 2 channels at 128 x 128 pixels."""
NPIX = 16
"""Pixels a side in the step whose memory is looked at: the weights do not depend on it."""


def dealing() -> dict:
    """Numbers of images as the training loop deals them: rank r of N has the r-th run of a batch."""
    out = {}
    for ranks in RANKS:
        local, seen = 4, []
        batch = local * ranks
        for step in range(-(-VIEWS // batch)):
            dealt = [np.arange(step * batch + r * local, step * batch + (r + 1) * local) for r in range(ranks)]
            assert (np.sort(np.concatenate(dealt)) == np.arange(step * batch, (step + 1) * batch)).all()
            seen += dealt
        views = images_of(np.concatenate(seen), VIEWS, seed=0)
        assert (np.bincount(views[:VIEWS], minlength=VIEWS) == 1).all()
        out[str(ranks)] = {"batch": batch, "steps_per_epoch": VIEWS / batch}
    return out


def files() -> dict:
    """Every rank's pieces by `pieces.cut`, and the files into which each node writes them."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in build_denoiser(Config().resolved()).named_parameters()}
    out = {}
    for ranks in RANKS:
        plans: list[dict] = [{} for _ in range(ranks)]
        for name, shape in shapes.items():
            whole = torch.arange(torch.Size(shape).numel(), dtype=torch.int32).reshape(shape)
            end = 0
            for rank in range(ranks):
                piece = cut(whole, rank, ranks)
                # the data are the numbers of the elements, so that this compares values and not sizes alone
                assert piece.start == end and (not len(piece.data) or int(piece.data[0]) == end), name
                end += len(piece.data)
                assert not len(piece.data) or int(piece.data[-1]) == end - 1, name
                for kind in KINDS:
                    plans[rank][f"{kind}/{name}"] = storage.Run(piece.start, len(piece.data), list(shape), "float32")
            assert end == whole.numel(), name
        shards = [s for k in range(0, ranks, PER_NODE) for s in storage.shards(dict(enumerate(plans[k : k + PER_NODE], k)))]
        entries = [{"name": s.name, "pieces": {name: [run.start, run.n] for name, run in s.runs.items()}} for s in shards]
        fault = manifest.uncovered({f"{kind}/{name}": list(shape) for name, shape in shapes.items() for kind in KINDS}, entries)
        assert fault is None, fault
        nodes = -(-ranks // PER_NODE)
        assert len(shards) == nodes
        size = [s.bytes for s in shards]
        out[str(ranks)] = {"nodes": nodes, "files": len(shards), "bytes": sum(size), "smallest": min(size), "largest": max(size)}
    return out


def formula(engine: str, ranks: int) -> float:
    """Bytes a parameter between the backward pass and Adam: weights 4, gradient 4, moments 8, average 4.

    ZeRO 1 and 2 have shared the gradient out by then, and keep a copy of the weights, shared out too, from which Adam works. ZeRO 3, as
    measured, still has the weights that it gathered for the backward pass.
    """
    whole, shared = {"ddp": (20, 0), "zero0": (20, 0), "zero1": (4, 20), "zero2": (4, 20), "zero3": (4, 24)}[engine]
    return whole + shared / ranks


def held() -> int:
    """Bytes of all tensors of this process, gradients included."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]  # Python may not know of them
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors if t.device.type == "cpu")}
    return sum(storages.values())


def one_engine(engine: str, ranks: int) -> list[int]:
    """Bytes that rank 0 of so many holds between the backward pass and Adam, and after the step; in a process of its own."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from hpcdiff.train.data import Batch
    from hpcdiff.train.engines import build_engine

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    world = SimpleNamespace(rank=0, size=ranks, local_rank=0, device=torch.device("cpu"))
    settings = {"engine": "ddp"} if engine == "ddp" else {"engine": "deepspeed", "zero_stage": int(engine[-1])}
    torch.manual_seed(0)
    trained, found = build_engine(Train(precision="fp32", **settings), build_denoiser(Config().resolved()), world), []
    if engine == "ddp":  # the fake group's futures have no result, which DistributedDataParallel wants

        def leave(state, bucket):
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        trained.parallel.register_comm_hook(None, leave)
    update = trained.update

    def look(finite: torch.Tensor) -> torch.Tensor:
        found.append(held())
        return update(finite)

    trained.update = look
    x = torch.zeros(1, 2, NPIX, NPIX)
    trained.step(Batch(x, x, torch.full((1,), 0.5), torch.randn(1, 2, NPIX, NPIX)), 1e-4, 0.9999)
    return [*found, held()]


def memory() -> dict:
    """Each engine at each number of ranks."""
    out = {}
    for engine in ENGINES:
        for ranks in RANKS:
            words = [sys.executable, "-W", "ignore", __file__, "one", engine, str(ranks)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=1200)
            if done.returncode:
                print(done.stderr[-2000:])
            found = [int(word) for word in done.stdout.split()[-2:]] if done.returncode == 0 else [None, None]
            out[f"{engine}/{ranks}"] = {"bytes": found[0], "after_step": found[1], "formula": formula(engine, ranks) * PARAMETERS}
            print(engine, ranks, out[f"{engine}/{ranks}"], flush=True)
    return out


CLUSTERS = {
    "one node of 8, 25 GB/s a GPU": Cluster(per_node=1024, inside=25e9),
    "NVLink 200 GB/s, 200 Gb/s a node": Cluster(inside=200e9, between=25e9 / 8),
    "NVLink 200 GB/s, 400 Gb/s a node": Cluster(inside=200e9, between=50e9 / 8),
    "NVLink 200 GB/s, 400 Gb/s a GPU": Cluster(inside=200e9, between=50e9),
}


def network() -> dict:
    """All-reduce of the gradient (fp32), alone and as a share of a step of 8 and 32 maps a GPU, overlapped or not."""
    out = {}
    for name, cluster in CLUSTERS.items():
        rows = []
        for ranks in (2, 8, 16, 64, 256, 1024):
            if ranks > 8 and cluster.per_node > 8:
                continue
            row = {"ranks": ranks, "seconds": all_reduce_seconds(4.0 * PARAMETERS, ranks, cluster)}
            for maps in (8, 32):
                alone = step_seconds(maps, 1, FORWARD_FLOP, PARAMETERS, cluster)
                for overlap, word in ((False, "after"), (True, "beside")):
                    row[f"{word}_{maps}"] = 1 - alone / step_seconds(maps, ranks, FORWARD_FLOP, PARAMETERS, cluster, overlap)
            rows.append(row)
        out[name] = rows
    return out


def show(found: dict) -> None:
    """Print the tables."""
    for part, title in (("dealing", "dealing"), ("files", "a checkpoint's files")):
        for ranks, row in found.get(part, {}).items():
            print(f"{title}, {ranks} ranks: " + ", ".join(f"{k} {v:.6g}" for k, v in row.items()))
    if "memory" in found:
        keys = ("bytes", "formula", "after_step")
        rows = [[name, *(f"{(m[key] or 0) / 1e6:.1f}" for key in keys)] for name, m in found["memory"].items()]
        print(table(["engine/ranks", "held before Adam, MB", "formula, MB", "held after the step, MB"], rows))
    for name, rows in found.get("network", {}).items():
        print(f"\n{name}: all-reduce of {4 * PARAMETERS / 1e6:.0f} MB; share of a step, after the backward pass -> beside it")
        cells = [
            [
                str(r["ranks"]),
                f"{1e3 * r['seconds']:.1f}",
                *(f"{100 * r[f'after_{m}']:.1f} -> {100 * r[f'beside_{m}']:.1f}" for m in (8, 32)),
            ]
            for r in rows
        ]
        print(table(["ranks", "ms", "8 maps, %", "32 maps, %"], cells))


def main() -> None:
    """Run the named parts; keep what the others found before."""
    if sys.argv[1:2] == ["one"]:
        print(*one_engine(sys.argv[2], int(sys.argv[3])))
        return
    parts = {"dealing": dealing, "files": files, "memory": memory, "network": network}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=[])
    chosen = parser.parse_args().parts or list(parts)
    path = RESULTS / "fake_ranks.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in chosen:
        found[name] = parts[name]()
    found["machine"] = machine("torch", "deepspeed")
    show(found)
    write("fake_ranks", found)
    if "network" in found:
        draw_network(found["network"], Path(path).with_suffix(".png"))


if __name__ == "__main__":
    main()
