"""How many network evaluations a posterior sample needs, and how long a cluster takes beside score_models 0.5.11.

    python benchmarks/sampler_quality.py --run runs/quickstart [--work DIR]        # again: goes on where it stopped
    python benchmarks/sampler_quality.py --parts width --run runs/quickstart
    python benchmarks/sampler_quality.py --parts speed [--channels 32 128] [--device auto]

quality   On a finished run's trained model: one view of each test halo (the axes by turns), 10 samples of each, by every sampler at
          several numbers of steps and from both starts; the same views and the same names of the noise for all. Writes
          benchmarks/results/sampler_quality.json and a figure for each field. What is drawn is kept in --work, in pieces of 4 halos by
          all samplers, so that --drawn compares what there is at any time; the same command in several processes shares the work
          (OMP_NUM_THREADS=1 each), and the last to end writes the whole. A setting drawn for fewer halos than the reference is compared on these,
          and not chosen.
          The reference is Euler-Maruyama with 1000 steps from a matched start. Differences to it are paired: of the same halos, with an
          error by bootstrap over halos. The rule for `sample.sampler: auto`: the setting with fewest network evaluations that is not
          worse than the reference in fair CRPS and in coverage (of the widest order-statistics interval), of pixels and of the total
          mass, of any field. Worse is what loses more than two errors of the paired difference, or more than a margin (10 % of the CRPS,
          0.1 of the coverage) that keeps a wide error from letting everything pass. A loss of coverage is a larger distance from the
          nominal one.
          And its spread is within 1 % on all Gaussians of sampler_closed_form.py, so that a sampler's faults cannot make up for a model's:
          what would be taken without that is told as well.

width     The same views by the same model, from noise that is narrower and wider (sigma_max): what becomes of the total masses where it is
          below the width of coherent modes, by an ODE and an SDE. Writes benchmarks/results/sampler_width.json.

speed     Seconds a cluster (10 samples at 128^2) of score_models' own `ScoreModel.sample`, 1000 steps as in the paper, and of ours by
          `auto`, on the paper's network with random weights, in one run by turns. score_models' time is that of a smaller number of steps
          times what is left; two numbers of steps show that time is proportional to them. So is ours where the table says so. Writes
          benchmarks/results/sampler_speed.json, or sampler_speed_<GPU>.json: there ours runs in bf16, compiled, score_models in fp32
          (it has nothing else). score_models is installed in a folder of its own below --cache.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import torch
from report import RESULTS, machine, write
from sampler_closed_form import SDE, SPREADS, moments
from samplers import contest, figure, speed, tables, width
from samplers.draw import PIECE, Setting, Views
from samplers.scores import nominal, score_views
from training.environment import VERSION
from training.sides import Failed

REFERENCE = Setting("euler_maruyama", 1000, "matched")
GRID = (
    ("dpmpp_2m_sde", (6, 9, 12, 18, 24, 36, 50, 100), "matched"),
    ("dpmpp_2m", (6, 12, 18, 36), "matched"),
    ("heun", (6, 10, 18, 25), "matched"),
    ("predictor_corrector", (10, 25, 50), "matched"),
    ("heun", (18,), "matched", 5.0),
    ("heun", (25,), "matched", 10.0),
    ("heun", (50,), "matched", 30.0),
    ("euler_maruyama", (18, 36, 100), "matched"),
    ("dpmpp_2m_sde", (18, 36), "prior"),
    ("dpmpp_2m", (18,), "prior"),
    ("heun", (10,), "prior"),
    ("predictor_corrector", (25,), "prior"),
    ("euler_maruyama", (100,), "prior"),
)
"""Samplers, numbers of steps, start, churn."""
QUICK = (("dpmpp_2m", (3, 4), "matched"), ("heun", (3,), "matched", 1.0), ("dpmpp_2m_sde", (3,), "prior"))
KEYS = ("sampler", "steps", "init", "churn", "nfe")
PARTS = ("quality", "width", "speed")
WIDTHS = (0.5, 1.0, 3.5)
"""sigma_max tried by `width`."""


def quality(options: argparse.Namespace) -> None:
    """Draw what is not drawn yet, score, compare, choose; print, write, plot."""
    views = Views(options.run, options.samples, options.seed, options.halos)
    reference = Setting("euler_maruyama", 8, "matched") if options.quick else REFERENCE
    grid = [Setting(sampler, n, *rest) for sampler, steps, *rest in (QUICK if options.quick else GRID) for n in steps]
    scores: dict[Setting, dict] = {}
    for upto in [] if options.drawn else range(PIECE, len(views.rows) + PIECE, PIECE):  # a few halos by all settings, then the next
        for setting in [*grid, reference]:
            views.draw(setting, options.work, upto)
    for setting in [*grid, reference]:
        drawn = views.draw(setting, options.work, 0)
        if len(drawn):
            scores[setting] = score_views(drawn, views.truth, views.width_mpc, views.h)
    n = len(next(iter(scores.get(reference, {}).values()), ()))
    if n < 2:
        raise SystemExit(f"{reference.name} is not drawn yet, and it is what all are held against")
    rows = []
    for setting, (halos, found) in contest.compared(scores, reference, options.samples).items():
        about = {"name": setting.name, "curve": setting.curve, **{key: getattr(setting, key) for key in KEYS}, "halos": halos}
        rows.append(about | {"gaussian": on_gaussians(setting), "against": found})
    chosen, by_scores = contest.choose(rows), contest.choose(rows, math.inf)
    content = {
        "machine": machine("torch", "numpy"),
        "model": views.model.info["weights_sha256"],
        "fields": views.fields,
        "halos": n,
        "test_halos": len(views.rows),
        "samples": options.samples,
        "nominal": nominal(options.samples),
        "rule": {"errors": contest.ERRORS, "crps_margin": contest.CRPS_MARGIN, "coverage_margin": contest.COVERAGE_MARGIN}
        | {"gaussian_margin": contest.GAUSSIAN_MARGIN},
        "auto": chosen and {key: chosen[key] for key in KEYS},
        "cheapest_by_scores_alone": by_scores and {key: by_scores[key] for key in KEYS},
        "nfe_at_equal_crps": {s: contest.needed(rows, s, "matched") for s in figure.COLOURS if any(row["curve"] == s for row in rows)},
        "reference": next(row for row in rows if row["name"] == reference.name),
        "rows": rows,
    }
    tables.show(content)
    print(tables.markdown(content) + "\n")
    if not options.quick:
        print(f"written to {write('sampler_quality', contest.rounded(content))}")
        for field, name in enumerate(views.fields):
            figure.draw(tables.told(content), RESULTS / f"sampler_quality_{name}.png", field)


def on_gaussians(setting: Setting) -> float:
    """Largest deviation of the sampled from the true spread over Gaussians of s = 0.02..2, from a matched start whatever its own is."""
    start = (SPREADS**2 + SDE.sigma_max**2).sqrt()
    deviation = moments(setting.sampler, setting.steps, setting.churn, start, 0.0)[0] - 1
    return deviation[deviation.abs().argmax()].item()


def widths(options: argparse.Namespace) -> None:
    """Samples from narrower and wider noise: print, write."""
    views = Views(options.run, options.samples, options.seed, options.halos)
    low, high = views.model.info["noise_range"]
    rows = width.compare(views, list(WIDTHS[:2] if options.quick else WIDTHS))
    print(
        f"{len(views.rows)} halos, {options.samples} samples each; the maps suggest a sigma_max of {high:.2g}\n\n{width.markdown(rows)}\n"
    )
    if not options.quick:
        about = {
            "machine": machine("torch", "numpy"),
            "model": views.model.info["weights_sha256"],
            "fields": views.fields,
            "halos": len(views.rows),
        }
        content = {**about, "samples": options.samples, "suggested": [low, high], "rows": rows}
        print(f"written to {write('sampler_width', contest.rounded(content))}")


def clock(options: argparse.Namespace) -> None:
    """Both sides at every number of channels; print, write."""
    name = torch.cuda.get_device_name(0) if options.device == "cuda" else ""
    about = machine("torch") | {"score_models": VERSION, "threads": options.threads, "gpu": name or None}
    print(f"{name or about['processor']}, {options.threads} threads, torch {about['torch']}, load average {about['load_average']}\n")
    rows = [speed.compare(options, channels) for channels in options.channels]
    print(speed.as_table(rows, options.device) + "\n")
    if not options.quick:
        path = write("sampler_speed" + re.sub(r"\W+", "_", f"_{name}" if name else ""), {"machine": about, "rows": rows})
        print(f"written to {path}")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["quality"])
    parser.add_argument("--run", type=Path, help="quality, width: folder of a finished run, with maps.h5 and model/")
    parser.add_argument("--work", type=Path, help="quality: where samples are kept; default RUN/sampler_quality")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--halos", type=int, help="quality: so many alone, for a try")
    parser.add_argument("--drawn", action="store_true", help="quality: draw nothing, compare what is drawn so far")
    parser.add_argument("--channels", type=int, nargs="+", help="speed: default 32 128")
    parser.add_argument("--npix", type=int, help="speed: default 128")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="speed")
    parser.add_argument("--threads", type=int, help="speed: default: all cores of this process")
    parser.add_argument("--turns", type=int, default=3, help="speed")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hpcdiff-benchmarks", help="speed")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; nothing is written")
    options = parser.parse_args()
    if {"quality", "width"} & set(options.parts) and not options.run:
        parser.error("--run is missing: the folder of a finished run, as configs/quickstart.yaml makes it")
    options.work = options.work or (options.run and options.run / "sampler_quality")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.channels = options.channels or ([8] if options.quick else [32, 128])
    options.npix, options.threads = options.npix or (32 if options.quick else 128), options.threads or machine()["cores"]
    for part in PARTS:
        if part in options.parts:
            {"quality": quality, "width": widths, "speed": clock}[part](options)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(f"a process of the benchmark failed:\n{error}") from None
