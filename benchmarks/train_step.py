"""A whole training step of hpcdiff beside score_models 0.5.11, with which the paper was made, in one run.

    python benchmarks/train_step.py [--parts step roofline engines] [--channels 32 128] [--batch 1] [--repeats 5] [--device auto]

Writes benchmarks/results/train_step.json, or train_step_<GPU>.json on a GPU; parts that are not run stay as they were there.

    step       the paper's NCSN++ (2 + 2 channels, 4 levels, 2 blocks each) at 128^2, VE loss, Adam, averaged weights, same batch and
               precision: seconds an image of score_models' own `ScoreModel.fit` and of hpcdiff's data, prefetching and engine
    roofline   where the time of our step goes: seconds, FLOP and bytes by kind of work, against the matrix rate and the memory
               bandwidth that the machine gives in the same process
    engines    DDP and ZeRO's stages 0 to 3 under torchrun: two ranks with one thread each on a CPU, one rank on each GPU

score_models is installed in a folder of its own below --cache. Both sides are processes that live through the run and take turns
(A, B, A, B ...), so that others' work on the machine falls on both; a figure is the median of the turns and the range of all, a ratio
the median of the ratios within turns. CPU seconds of the process stand beside the wall clock's. On a GPU score_models runs in fp32
(it has nothing else; cuDNN's TF32 is left as PyTorch sets it, on both sides), hpcdiff in fp32 and bf16, compiled and not.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from pathlib import Path

import torch
from report import RESULTS, machine, table, write
from training import environment
from training.maps import write_maps
from training.sides import Failed, Side, once

TARGETS = {("cpu", 32): 2.0, ("cpu", 128): 1.35, ("cuda", 128): 8.0}
"""How many times faster than score_models the best of ours shall be."""
MFU_TARGET = 0.35
"""Share of the measured bf16 matrix rate that the model's FLOP shall reach on a GPU."""
PARAMETERS = {128: 45_835_912}
"""Of the paper's network."""
VARIANTS = {
    "cpu": {"fp32": ("fp32", False, False)},
    "cuda": {
        "fp32": ("fp32", False, False),
        "fp32 compiled": ("fp32", True, False),
        "bf16": ("bf16", False, False),
        "bf16 compiled": ("bf16", True, False),
        "bf16 compiled, other layout": ("bf16", True, True),
    },
}
"""Ours: precision, compiled, and with images in the memory layout that the project does not choose there."""
BURST_S = 2.0
"""A turn lasts about as long, and a step at least."""
PARTS = ("step", "roofline", "engines")


class Bench:
    """What all parts need: options, device, folders."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.device = options, options.device
        self.maps = folder / "maps.h5"
        write_maps(self.maps, max(64, 4 * max(options.batch)), options.npix)

    def setup(self, channels: int, batch: int, variant: str = "", threads: int | None = None) -> dict:
        """One side's argument."""
        options = self.options
        setup = {"maps": str(self.maps), "channels": channels, "batch": batch, "npix": options.npix, "device": self.device}
        precision, compiled, other = VARIANTS[self.device][variant] if variant else ("fp32", False, False)
        setup |= {"precision": precision, "compile": compiled, "other_layout": other}
        return setup | {"threads": threads or options.threads}

    def best(self) -> str:
        """The variant whose time is looked into."""
        return "fp32" if self.device == "cpu" else "bf16 compiled"


def compare(bench: Bench, channels: int, batch: int) -> dict:
    """Both sides by turns at one size; halves the batch where a GPU has too little memory."""
    folder = environment.install(bench.options.cache)
    sides: dict[str, Side] = {}
    try:
        sides["score_models"] = Side("training.theirs", bench.setup(channels, batch), folder)
        for variant in VARIANTS[bench.device]:
            sides[variant] = Side("training.ours", bench.setup(channels, batch, variant))
        counts = {name: side.hello["parameters"] for name, side in sides.items()}
        expected = PARAMETERS.get(channels, counts["score_models"])
        if set(counts.values()) != {expected}:
            raise SystemExit(f"the networks differ: {counts} parameters, and the paper's has {expected}")
        cuda = bench.device == "cuda"
        first = {name: side.ask(1, warm=4 if cuda else 1)["seconds"] for name, side in sides.items()}
        steps = {name: min(max(round(BURST_S / s), 1), 50) for name, s in first.items()}
        turns: dict[str, list[dict]] = {name: [] for name in sides}
        for _ in range(bench.options.repeats):
            for name, side in sides.items():
                turns[name].append(side.ask(steps[name], warm=1 if cuda else 0))
        flops = sides["fp32"].hello["step_flops"]
        peaks = {name: side.hello["peak_flops"] for name, side in sides.items() if "peak_flops" in side.hello}
    except Failed as failed:
        if not failed.of_memory or batch == 1:
            raise
        print(f"batch {batch} does not fit: {batch // 2} on both sides", flush=True)
        return compare(bench, channels, batch // 2)
    finally:
        for side in sides.values():
            side.close()
    rows = {name: _summary(turns[name], turns["score_models"], batch, flops, peaks, name) for name in sides}
    return {"channels": channels, "batch": batch, "parameters": expected, "step_flops_per_image": flops, "sides": rows}


def _summary(mine: list[dict], theirs: list[dict], batch: int, flops: int, peaks: dict, name: str) -> dict:
    """Seconds an image (median, least, most), rate, ratios to score_models (median, least, most)."""
    seconds = [turn["seconds"] / batch for turn in mine]
    out = {"seconds_per_image": _spread(seconds), "cpu_seconds_per_image": _spread([turn["cpu_seconds"] / batch for turn in mine])}
    out["model_flops_per_s"] = flops / out["seconds_per_image"][0]
    out["peak_bytes"] = max(turn["peak_bytes"] for turn in mine)
    if name in peaks:
        out |= {"matrix_flops_per_s": peaks[name], "mfu": out["model_flops_per_s"] / peaks[name]}
        for key in ("seconds", "cpu_seconds"):
            out[f"times_faster_{key}"] = _spread([b[key] / a[key] for a, b in zip(mine, theirs, strict=True)])
    return out


def _spread(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]


def step(bench: Bench) -> list[dict]:
    """Both sides at all sizes that were asked for."""
    rows = [compare(bench, channels, batch) for channels in bench.options.channels for batch in bench.options.batch]
    header = [
        "channels, batch",
        "side",
        "s an image",
        "least - most",
        "times faster",
        "least - most",
        "by CPU s",
        "TFLOP/s",
        "MFU",
        "target",
    ]
    lines = []
    for row in rows:
        for name, side in row["sides"].items():
            times, cpu = side.get("times_faster_seconds"), side.get("times_faster_cpu_seconds")
            median, least, most = side["seconds_per_image"]
            lines.append([f"{row['channels']}, {row['batch']}", name, f"{median:.4g}", f"{least:.4g} - {most:.4g}"])
            lines[-1] += [f"{times[0]:.2f}", f"{times[1]:.2f} - {times[2]:.2f}", f"{cpu[0]:.2f}"] if times else ["", "", ""]
            lines[-1] += [f"{side['model_flops_per_s'] / 1e12:.4g}", f"{100 * side['mfu']:.1f} %" if times else ""]
            lines[-1].append(_verdict(bench, row["channels"], name, side) if times else "")
    print(table(header, lines) + "\n", flush=True)
    return rows


def _verdict(bench: Bench, channels: int, name: str, side: dict) -> str:
    target = TARGETS.get((bench.device, channels))
    if target is None or name != bench.best() or bench.options.npix != 128:
        return ""
    out = f"{target} times: {'met' if side['times_faster_seconds'][0] >= target else 'missed'}"
    if bench.device == "cuda":
        out += f", MFU {100 * MFU_TARGET:.0f} %: {'met' if side['mfu'] >= MFU_TARGET else 'missed'}"
    return out


def roofline(bench: Bench) -> list[dict]:
    """Where the time of our step goes, at each number of channels."""
    rows = []
    for channels in bench.options.channels:
        batch = bench.options.batch[-1]
        setup = bench.setup(channels, batch, bench.best()) | {"steps": 5 if bench.device == "cuda" or channels < 64 else 1}
        found = once(["-m", "training.roofline"], setup)
        rows.append({"channels": channels, "batch": batch, "variant": bench.best(), **found})
        lines = []
        for kind, seconds in found["kinds"].items():
            flops, moved = found["flops"][kind], found["bytes"][kind]
            line = [kind, f"{seconds:.4f}", f"{100 * seconds / found['step']:.1f} %"]
            some = seconds > 1e-4 * found["step"]
            line += (
                [f"{flops / 1e9:.1f}", f"{flops / seconds / 1e9:.0f}", f"{100 * flops / seconds / found['matrix']:.0f} %"]
                if flops and some
                else ["", "", ""]
            )
            line += (
                [f"{moved / 1e9:.2f}", f"{moved / seconds / 1e9:.1f}", f"{100 * moved / seconds / found['bandwidth']:.0f} %"]
                if some
                else ["", "", ""]
            )
            lines.append(line)
        total = sum(found["flops"].values())
        rates = [f"{total / 1e9:.1f}", f"{total / found['step'] / 1e9:.0f}", f"{100 * total / found['step'] / found['matrix']:.0f} %"]
        lines.append(["all", f"{found['step']:.4f}", "100 %", *rates, *[""] * 3])
        lines.insert(-1, ["Python, waiting", f"{found['idle']:.4f}", f"{100 * found['idle'] / found['step']:.1f} %", *[""] * 6])
        print(
            f"{channels} channels, batch {batch}, {bench.best()}: {found['step']:.3f} s a step under the profiler; "
            f"matrix rate {found['matrix'] / 1e9:.0f} GFLOP/s, bandwidth {found['bandwidth'] / 1e9:.1f} GB/s"
        )
        header = ["kind", "s", "share", "GFLOP", "GFLOP/s", "of rate", "GB", "GB/s", "of bandwidth"]
        print(table(header, lines) + "\n", flush=True)
    return rows


def engines(bench: Bench) -> dict:
    """DDP and ZeRO by turns on the same ranks."""
    options, cuda = bench.options, bench.device == "cuda"
    ranks = torch.cuda.device_count() if cuda else 2
    channels, batch = (max(options.channels), options.batch[-1] * ranks) if cuda else (min(options.channels), 2)
    setup = bench.setup(channels, batch, bench.best(), threads=options.threads if cuda else max(1, options.threads // 2))
    setup |= {"repeats": options.repeats, "steps": 5 if cuda else 1}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "training.ranks"]
    found = once(launch, setup)
    first = next(iter(found["engines"].values()))["seconds"]
    lines = []
    for name, engine in found["engines"].items():
        median, least, most = _spread(engine["seconds"])
        ratio = statistics.median(a / b for a, b in zip(engine["seconds"], first, strict=True))
        lines.append(
            [
                name,
                f"{median:.4g}",
                f"{least:.4g} - {most:.4g}",
                f"{ratio:.3f}",
                f"{engine['state_bytes'] / 1e6:.1f}",
                f"{engine['loss']:.6f}",
            ]
        )
    shared = "" if cuda else ", which share the cores"
    print(f"{channels} channels, global batch {batch}, {bench.best()}, {ranks} rank(s){shared}")
    print(table(["engine", "s a step", "least - most", "over DDP", "MB a rank", "loss of step 2"], lines) + "\n", flush=True)
    return {"channels": channels, "batch": batch, "variant": bench.best(), "threads_per_rank": setup["threads"], **found}


def device_name(device: str) -> str:
    """Of the GPU; empty for a CPU."""
    return torch.cuda.get_device_name(0) if device == "cuda" else ""


def main() -> None:
    """Run the parts, print their tables, keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--channels", type=int, nargs="+", help="default 32 128")
    parser.add_argument("--batch", type=int, nargs="+", help="images a step; default 1 on a CPU, 32 on a GPU")
    parser.add_argument("--npix", type=int, help="default 128")
    parser.add_argument("--repeats", type=int, help="turns; default 5")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="default: all cores of this process")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; nothing is kept")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hpcdiff-benchmarks")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda, quick = options.device == "cuda", options.quick
    options.channels = options.channels or ([8] if quick else [32, 128])
    options.batch = options.batch or [2 if quick else 32 if cuda else 1]
    options.npix, options.repeats = options.npix or (32 if quick else 128), options.repeats or (2 if quick else 5)
    options.threads = options.threads or machine()["cores"]
    name = "train_step" + re.sub(r"\W+", "_", f"_{device_name(options.device)}" if cuda else "")
    content = json.loads((RESULTS / f"{name}.json").read_text()) if (RESULTS / f"{name}.json").exists() and not quick else {}
    about = machine("torch", "numpy", "deepspeed") | {"score_models": environment.VERSION, "threads": options.threads}
    about |= {"gpu": device_name(options.device), "cuda": torch.version.cuda} if cuda else {}
    print(
        f"{about.get('gpu', about['processor'])}, {options.threads} threads, torch {about['torch']}, load average {about['load_average']}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for part in PARTS:
            if part in options.parts:
                content[part] = {
                    "machine": about,
                    "npix": options.npix,
                    "found": {"step": step, "roofline": roofline, "engines": engines}[part](bench),
                }
                about = about | {"load_average": machine()["load_average"]}
    if not quick:
        print(f"written to {write(name, content)}")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(f"a process of the benchmark failed:\n{error}") from None
