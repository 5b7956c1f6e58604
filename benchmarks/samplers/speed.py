"""Seconds a cluster of score_models' sampler and of ours, each in a process of its own, by turns."""

from __future__ import annotations

import argparse
import statistics

from report import table
from training import environment
from training.sides import Side

from hpcdiff import diffusion
from hpcdiff.sections import AUTO_INIT, AUTO_SAMPLER, AUTO_STEPS

THEIR_STEPS = 1000
"""As in Hsu et al. 2025."""
TARGETS = {"cpu": 20.0, "cuda": 100.0}
"""How many times less time a cluster ours shall take."""
PROBES = {"cpu": {32: (10, 20), 128: (1, 2)}, "cuda": {}}
"""Steps of score_models that are timed at so many channels; the second number is multiplied, the first shows that it may be."""
OTHER_PROBES = {"cpu": (10, 20), "cuda": (50, 100)}
LARGE = 64
"""Channels from which a CPU takes too long for a whole cluster of ours too; then these steps are timed and multiplied:"""
OUR_PROBES = (2, 4)


def compare(options: argparse.Namespace, channels: int) -> dict:
    """Both sides by turns at one number of channels."""
    folder, cuda = environment.install(options.cache), options.device == "cuda"
    setup = {"channels": channels, "npix": options.npix, "samples": options.samples, "device": options.device, "threads": options.threads}
    setup |= {"precision": "bf16" if cuda else "fp32", "compile": cuda, "sampler": AUTO_SAMPLER, "init": AUTO_INIT}
    probes = (2, 4) if options.quick else PROBES[options.device].get(channels, OTHER_PROBES[options.device])
    ours = OUR_PROBES if channels >= LARGE and not cuda else (AUTO_STEPS,)
    sides, turns = {}, []
    try:
        sides["score_models"] = Side("samplers.theirs", setup, folder)
        sides["hpcdiff"] = Side("samplers.ours", setup)
        counts = {name: side.hello["parameters"] for name, side in sides.items()}
        if len(set(counts.values())) > 1:
            raise SystemExit(f"the networks differ: {counts} parameters")
        for side, steps in zip(sides.values(), (probes, ours), strict=True):
            side.ask(steps[0], warm=2)
        for _ in range(options.turns):
            theirs = [sides["score_models"].ask(n, warm=2 if cuda else 0) for n in probes]
            mine = [sides["hpcdiff"].ask(n, warm=2 if cuda else 0) for n in ours]
            turns.append((theirs, mine))
    finally:
        for side in sides.values():
            side.close()
    row = {"channels": channels, "npix": options.npix, "samples": options.samples, "parameters": counts["hpcdiff"]}
    row |= {"sampler": AUTO_SAMPLER, "steps": AUTO_STEPS, "nfe": diffusion.nfe(AUTO_SAMPLER, AUTO_STEPS), "init": AUTO_INIT}
    row |= {"precision": setup["precision"], "compiled": setup["compile"]}
    row["score_models"] = _side([turn[0] for turn in turns], probes, THEIR_STEPS)
    row["hpcdiff"] = _side([turn[1] for turn in turns], ours, AUTO_STEPS)
    for key in ("seconds", "cpu_seconds"):
        pairs = zip(row["score_models"]["turns"][key], row["hpcdiff"]["turns"][key], strict=True)
        row[f"times_faster_{key}"] = spread([a / b for a, b in pairs])
    return row


def _side(turns: list[list[dict]], steps: tuple[int, ...], whole: int) -> dict:
    """Seconds a cluster of one side (median, least, most), from calls of so many steps; `linearity`: see there."""
    out: dict = {"timed_steps": list(steps), "steps": whole, "turns": {}}
    for key in ("seconds", "cpu_seconds"):
        clusters = [cluster([call[key] for call in turn], steps, whole) for turn in turns]
        out["turns"][key] = clusters
        out[f"{key}_per_cluster"] = spread(clusters)
    if len(steps) > 1:
        out["linearity"] = spread([linearity([call["seconds"] for call in turn], steps) for turn in turns])
    out["peak_bytes"] = max(call["peak_bytes"] for turn in turns for call in turn)
    return out


def cluster(seconds: list[float], steps: tuple[int, ...], whole: int) -> float:
    """Seconds of `whole` steps, in proportion to those of the last call."""
    return seconds[-1] * whole / steps[-1]


def linearity(seconds: list[float], steps: tuple[int, ...]) -> float:
    """Seconds a step of the last call over those of the first; 1 if time is proportional to the steps."""
    return (seconds[-1] / steps[-1]) / (seconds[0] / steps[0])


def spread(values: list[float]) -> list[float]:
    """Median, least, most."""
    return [statistics.median(values), min(values), max(values)]


def as_table(rows: list[dict], device: str) -> str:
    """Text with a line a side."""
    header = ["channels", "side", "sampler", "NFE a sample", "timed steps", "s a cluster", "least - most", "CPU s", "linearity"]
    header += ["times faster", "least - most", "by CPU s", "target"]
    lines = []
    for row in rows:
        for name, sampler in (("score_models", "Euler-Maruyama"), ("hpcdiff", f"{row['sampler']}, {row['init']}")):
            side, whole = row[name], row["nfe"] if name == "hpcdiff" else THEIR_STEPS
            median, least, most = side["seconds_per_cluster"]
            timed = "all" if side["timed_steps"][-1] == side["steps"] else ", ".join(map(str, side["timed_steps"]))
            line = [str(row["channels"]), name, sampler, str(whole), timed, f"{median:.4g}", f"{least:.4g} - {most:.4g}"]
            line += [f"{side['cpu_seconds_per_cluster'][0]:.4g}", f"{side['linearity'][0]:.3f}" if "linearity" in side else ""]
            if name == "hpcdiff":
                times, cpu = row["times_faster_seconds"], row["times_faster_cpu_seconds"]
                line += [f"{times[0]:.1f}", f"{times[1]:.1f} - {times[2]:.1f}", f"{cpu[0]:.1f}"]
                line.append(f"{TARGETS[device]:.0f} times: {'met' if times[0] >= TARGETS[device] else 'missed'}")
            lines.append(line + [""] * (len(header) - len(line)))
    return table(header, lines)
