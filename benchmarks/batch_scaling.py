"""How large a batch helps: steps to a set validation loss against the global batch, and the noise of the gradient.

    python benchmarks/batch_scaling.py MAPS.h5 [--minutes 10] [--out FILE.json]     # again: goes on where it stopped

Writes benchmarks/results/batch_scaling.json and batch_scaling.png. MAPS.h5: any map file with sz, xray, gas and dm whose npix is 16 or
a multiple (averaged down), such as what `project` makes of configs/quickstart.yaml.

A small network (8 channels, 16 x 16 pixels, `edm`) is trained anew for each batch size B with Adam, a constant learning rate after 20
steps of warm-up, lr = BASE sqrt(B / 16) f. The smallest batch tries f = 1, 2, 1/2, the others its best and half of that, and each goes on by
factors of two until its best f is not the outermost. The targets are the losses (averaged weights, fixed noise) that the smallest batch
reaches, with its best f, after 1000, 2000 and 4000 images. For each target and B the run with fewest steps counts. Two seeds give the
scatter. Fitted is steps(B) = S (1 + B_crit / B) (McCandlish et al. 2018, arXiv:1812.06162, section 2.3): at B_crit a run takes twice the
least number of steps and twice the least number of images.

The noise scale tr(Sigma) / |G|^2 (section 2.2 there) comes from the squared norms of gradients of 8 images and of 2048 (appendix A.1), with
weights as they are on the way; also in the metric of Adam, in which each parameter's gradient is divided by the fourth root of its second
moment (g^2 / sqrt(v) is what a step of Adam gains).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from batches.figure import draw
from batches.fit import fit, gpus, helping
from batches.network import Cluster
from batches.training import Maps, Training
from report import RESULTS, machine, table

from hpcdiff.files import write_atomic

BATCHES = (4, 8, 16, 32, 64, 128, 256)
TARGETS = (1000, 2000, 4000)
"""Images after which the smallest batch's losses are the targets."""
SEEDS = (0, 1)
LARGER = (300.0, 1000.0, 4000.0)
"""Critical batches beside the measured one for which the GPUs are counted: that of a long training is larger."""
MOST_STEPS, MOST_IMAGES = 2500, 60000
"""Where a run ends that does not come to the target."""
COLUMNS = (("gpus", 0), ("batch", 0), ("steps", 2), ("speed_up", 1), ("efficiency", 2))
NOISE_AT = (250, 1000, 4000, 16000)
"""Images after which the gradient's noise is measured, in a training with batches of 16."""


def run(maps: Maps, batch: int, factor: float, seed: int, target: float, most: int) -> dict:
    """Train until `target` or `most` steps; validates about every 8 % more steps."""
    training, curve, began = Training(maps, batch, factor, seed), [], time.perf_counter()
    following = 10
    while training.steps < most:
        training.step()
        if training.steps >= following or training.steps == most or training.seen in TARGETS:
            loss = training.validate()
            curve.append([training.steps, round(loss, 6)])
            following = max(training.steps + 1, math.ceil(training.steps * 1.08))
            if loss < target or not math.isfinite(loss):
                break
    return {"batch": batch, "factor": factor, "seed": seed, "curve": curve, "seconds": round(time.perf_counter() - began, 1)}


def steps_to(curve: list, target: float) -> float | None:
    """Steps at which the validation loss first passes `target`, interpolated in ln steps and ln loss."""
    for (s0, l0), (s1, l1) in zip(curve, curve[1:], strict=False):
        if l1 <= target < l0:
            return math.exp(np.interp(math.log(target), [math.log(l1), math.log(l0)], [math.log(s1), math.log(s0)]))
    return None


def targets(runs: list[dict], seed: int) -> list[float]:
    """The losses that the smallest batch reaches after TARGETS images, each with its best f."""
    ours = [r["curve"] for r in runs if r["batch"] == BATCHES[0] and r["seed"] == seed]
    at = [s // BATCHES[0] for s in TARGETS]
    return [min(dict(map(tuple, c)).get(s, math.inf) for c in ours) for s in at]


def best(runs: list[dict], batch: int, seed: int, target: float) -> tuple[float, float] | None:
    """(steps, f) of the run that needs fewest."""
    found = [(s, r["factor"]) for r in runs if (r["batch"], r["seed"]) == (batch, seed) and (s := steps_to(r["curve"], target))]
    return min(found, default=None)


def beyond(runs: list[dict], batch: int, seed: int, target: float) -> float | None:
    """The f beyond the best one if that is the outermost tried; None when it is bracketed."""
    tried = [r["factor"] for r in runs if (r["batch"], r["seed"]) == (batch, seed)]
    found = best(runs, batch, seed, target)
    if found is None:
        return min(tried) / 2 if min(tried) > 0.1 else None
    factor = found[1] * {max(tried): 2.0, min(tried): 0.5}.get(found[1], 1.0)
    return None if factor == found[1] or not 0.1 < factor < 20 else factor


def search(runs: list[dict], batches: tuple[int, ...], seed: int, first: tuple[float, ...], target):
    """(batch, f) one after the other: the factors `first` of all batches, then beyond the best ones. `target()` is asked each time."""
    done = {(r["batch"], r["factor"]) for r in runs if r["seed"] == seed}
    yield from ((b, f) for f in first for b in batches if (b, f) not in done)
    for b in batches:
        while factor := beyond(runs, b, seed, target()):
            yield b, factor


def work(maps: Maps, content: dict):
    """Do what is missing, yielding a line after each piece."""
    runs, smallest = content["runs"], BATCHES[0]

    def one(batch: int, factor: float, seed: int, goal: float) -> str:
        found = best(runs, batch, seed, goal)
        most = min(MOST_STEPS, max(250, MOST_IMAGES // batch), math.ceil(found[0] * 1.02) if found else MOST_STEPS)
        runs.append(run(maps, batch, factor, seed, goal, most if goal else TARGETS[-1] // batch))
        return f"batch {batch}, f {factor:g}, seed {seed}: {runs[-1]['curve'][-1]} after {runs[-1]['seconds']} s"

    if not content["targets"]:
        for batch, factor in search(runs, (smallest,), SEEDS[0], (1.0, 2.0, 0.5), lambda: min(targets(runs, SEEDS[0]))):
            yield one(batch, factor, SEEDS[0], 0.0)
        content["targets"] = targets(runs, SEEDS[0])
    if not content["noise"]:
        training = Training(maps, 16, 1.0, 5)
        for at in NOISE_AT:
            while training.steps * training.batch < at:
                training.step()
            content["noise"].append({"images": at, "loss": training.validate(), **training.noise()})
        yield "noise scales measured"
    goal = min(content["targets"])
    usual = best(runs, smallest, SEEDS[0], goal)[1]
    for seed in SEEDS:
        for batch, factor in search(runs, BATCHES[seed == SEEDS[0] :], seed, (usual, usual / 2), lambda: goal):
            yield one(batch, factor, seed, goal)


def summarise(content: dict) -> None:
    """Fits, and what they say about the number of GPUs; prints the tables."""
    content["fits"] = []
    for target, images in zip(content["targets"], TARGETS, strict=True):
        points = [(b, s[0]) for seed in SEEDS for b in BATCHES if (s := best(content["runs"], b, seed, target))]
        content["fits"].append({"target": target, "images": images, "points": points, **fit(points)})
    rows = []
    for b in BATCHES:
        cells = [[s[0] for seed in SEEDS if (s := best(content["runs"], b, seed, t))] for t in content["targets"]]
        f = best(content["runs"], b, SEEDS[0], content["targets"][-1])
        rows.append([str(b), *(f"{np.mean(c):.0f}" if c else "-" for c in cells), f"{np.mean(cells[-1]) * b:.0f}" if cells[-1] else "-"])
        rows[-1].append(f"{f[1]:g}" if f else "-")
    print(table(["batch", *(f"steps to {t:.4f}" for t in content["targets"]), "images", "best f"], rows))
    for f in content["fits"]:
        print(
            f"loss {f['target']:.4f}: least steps {f['steps']:.0f}, critical batch {f['critical']:.0f} ({f['low']:.0f} ... {f['high']:.0f})"
        )
    for n in content["noise"]:
        print(f"after {n['images']} images: " + ", ".join(f"{k} {n[k]['value']:.0f} +- {n[k]['error']:.0f}" for k in ("plain", "adam")))
    last = content["fits"][-1]
    content["gpus"] = [{"critical": c, "table": gpus(c, Cluster())} for c in (last["critical"], *LARGER)]
    for entry in content["gpus"]:
        print(f"critical batch {entry['critical']:.0f}: {helping(entry['table'])} GPUs bring at least half of what the first did each")
        rows = [[f"{r[k]:.{d}f}" for k, d in COLUMNS] for r in entry["table"]]
        print(table(["GPUs", "best batch", "steps / S", "speed-up", "efficiency"], rows))


def save(path: Path, content: dict) -> None:
    """As JSON, a point of a curve on one line; under another name first, for a run may be killed."""
    text = re.sub(r"\[\s+([^\s,\[\]]+),\s+([^\s,\[\]]+)\s+\]", r"[\1, \2]", json.dumps(content, indent=1))
    write_atomic(path, text + "\n")


def main() -> None:
    """Go on for some minutes; once all targets stand, fit and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", type=Path)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "batch_scaling.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    maps = Maps(options.maps)
    content = json.loads(options.out.read_text()) if options.out.exists() else {"runs": [], "noise": [], "targets": []}
    if content.setdefault("maps", maps.fingerprint) != maps.fingerprint:
        raise SystemExit(f"{options.out} was begun with other maps ({content['maps']}): remove it")
    content["machine"] = machine("torch")
    until = time.time() + 60 * options.minutes
    for line in work(maps, content):
        print(line, flush=True)
        save(options.out, content)
        if time.time() > until:
            break
    if content["targets"] and content["noise"]:
        summarise(content)
        save(options.out, content)
        draw(content, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
