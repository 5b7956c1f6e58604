"""Cheaper networks beside the paper's on the same maps: validation loss against FLOP.

    python -m hpcdiff.simulate configs/quickstart.yaml && python -m hpcdiff.project configs/quickstart.yaml
    python benchmarks/network_preset.py --maps runs/quickstart/maps.h5        # 25 minutes of one core; stop and continue at will

Every candidate is scaled down in channels by the same factor (`--scale`), so that the ratios of FLOP are those of the full
networks, and sees the same images (`longer`: more of them), turned alike; the preconditioning is EDM's with the noise range of
configs/quickstart.yaml, but for `published`, which has the paper's own preconditioning, noise levels and weights (configs/hsu2025.yaml).
The loss is that of the averaged weights on the validation views, with the noise, the noise levels and the weights of EDM for all.
Each finished run is written to benchmarks/results/network_preset.json at once; runs that are
there with the same settings are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import report
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcdiff.diffusion import VESDE, EDMDenoiser, VEDenoiser, denoising_loss, sample
from hpcdiff.evaluate.calibration.scores import fair_crps
from hpcdiff.maps import MapFile
from hpcdiff.network import NCSNpp
from hpcdiff.transform import fit

INPUTS, OUTPUTS = ("sz", "xray"), ("gas", "dm")
PAPER = {"channels": 128, "multipliers": [2, 2, 2, 2], "blocks": 2, "attention": "coarsest"}
CANDIDATES = {
    "published": PAPER | {"precondition": "ve"},
    "paper": PAPER,
    "half first": PAPER | {"multipliers": [1, 2, 2, 2], "blocks": 1},
    "deep": PAPER | {"multipliers": [1, 1, 2, 4]},
    "thin": PAPER | {"channels": 96, "blocks": 1},
    "wide below": PAPER | {"channels": 96, "multipliers": [1, 2, 4, 4], "blocks": 1},
    "attention": PAPER | {"multipliers": [1, 2, 2, 2], "blocks": 1, "attention": [4, 8]},
}
CANDIDATES["thin longer"] = CANDIDATES["thin"] | {"times": 2.67}
CANDIDATES["published slower"] = CANDIDATES["published"] | {"rate": 0.25}
"""`times` the images of the others: as much work in training as the paper's; `rate` times the others' learning rate."""
TRAINING = ("times", "rate", "precondition")
"""What is no setting of the network."""
SAMPLER, STEPS, SAMPLES = "dpmpp_2m_sde", 36, 8
"""How the posterior is drawn, from a matched start."""
QUICKSTART_RANGE = (0.002, 3.5)
PUBLISHED_RANGE = (0.001, 1.0)
"""Noise levels of Hsu et al. 2025, drawn uniformly in their logarithm."""
DRAWS = 4
"""Noise draws of each validation view."""


def network(settings: dict, scale: int) -> NCSNpp:
    """The candidate with its channels divided by `scale`."""
    shape = {k: v for k, v in settings.items() if k not in TRAINING} | {"channels": settings["channels"] // scale}
    return NCSNpp(len(OUTPUTS), len(OUTPUTS), len(INPUTS), **shape)


def size(settings: dict) -> dict:
    """GFLOP of one evaluation (multiply and add are 2) at 128^2, and millions of parameters, of the full network."""
    with torch.device("meta"):
        net, x = network(settings, 1), torch.empty(1, 2, 128, 128)
        with FlopCounterMode(display=False) as counter:
            net(x, torch.empty(1), x)
    return {"gflop": counter.get_total_flops() / 1e9, "parameters_m": sum(p.numel() for p in net.parameters()) / 1e6}


class Data:
    """Training and validation maps in [0, 1] units (asinh), (n, 2, npix, npix) each, and the statistics that EDM needs."""

    def __init__(self, path: Path, npix: int) -> None:
        maps = MapFile(path)
        if maps.npix % npix:
            raise SystemExit(f"--npix {npix} does not divide the maps' {maps.npix}")
        cells = (npix, maps.npix // npix) * 2
        rows = {part: maps.rows(part) for part in ("train", "val")}
        self.parts, self.transforms = {part: [] for part in rows}, {}
        for fields in (INPUTS, OUTPUTS):
            stacks = {part: [] for part in rows}
            for field in fields:
                coarse = {part: maps.read(field, r).reshape(-1, *cells).mean((2, 4)) for part, r in rows.items()}
                transform = self.transforms[field] = fit("asinh", field, [coarse["train"]])
                for part, x in coarse.items():
                    stacks[part].append(transform.forward(x))
            for part, stack in stacks.items():
                self.parts[part].append(torch.from_numpy(np.stack(stack, 1)))
        self.fingerprint = maps.fingerprint
        self.first = np.unique(maps.catalog["halo_id"][rows["val"]], return_index=True)[1]  # one view of each halo
        (condition_mean, condition_std), (mean, sigma_data) = (self._moments(x) for x in self.parts["train"])
        self.statistics = {"sigma_data": sigma_data, "mean": mean, "condition_mean": condition_mean, "condition_std": condition_std}

    @staticmethod
    def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean image over the 8 symmetries of the square and the deviation about it, a channel each."""
        turned = [torch.rot90(m, k, (1, 2)) for m in (x.mean(0), x.mean(0).flip(2)) for k in range(4)]
        mean = torch.stack(turned).mean(0)
        return mean, (x - mean).square().mean((0, 2, 3)).sqrt()


def noise(shape: tuple[int, ...], *key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantiles of the noise level (B,), spread evenly, and noise of this shape, the same for every network."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    u = (torch.arange(shape[0]) + torch.rand(shape[0], generator=generator)) / shape[0]
    return u.clamp(1e-4, 1 - 1e-4), torch.randn(shape, generator=generator)


def train(name: str, data: Data, seed: int, options: argparse.Namespace) -> dict:
    """Train one candidate; its validation loss and what it took."""
    torch.manual_seed(seed)
    settings = CANDIDATES[name]
    net = network(settings, options.scale)
    ruler = EDMDenoiser(net, **data.statistics, shift=1.3, width=1.6)
    denoiser = VEDenoiser(net, *PUBLISHED_RANGE) if settings.get("precondition") == "ve" else ruler
    denoiser.to(memory_format=torch.channels_last)
    parameters = list(denoiser.parameters())
    averaged = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, lr=options.lr, fused=True)
    conditions, targets = data.parts["train"]
    steps, began = int(options.images * settings.get("times", 1)) // options.batch, time.process_time()
    lr = options.lr * settings.get("rate", 1)
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        index, turns, flip = torch.from_numpy(rng.integers(len(targets), size=options.batch)), int(rng.integers(4)), bool(rng.integers(2))
        condition, target = (torch.rot90(x[index].flip(3) if flip else x[index], turns, (2, 3)) for x in (conditions, targets))
        optimiser.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss(denoiser, denoiser, target, condition, noise(target.shape, 1, seed, step)).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - min(options.ema, (1 + step) / (10 + step)))
    seconds = time.process_time() - began
    with torch.no_grad():
        for p, mean in zip(parameters, averaged, strict=True):
            p.copy_(mean)
    scores = validate(denoiser.eval(), ruler, data, options.batch) | {"cpu_s": seconds}
    return scores | (posterior(denoiser, ruler, data) if options.posterior else {})


def loss(
    denoiser: EDMDenoiser | VEDenoiser, ruler: EDMDenoiser | VEDenoiser, target: torch.Tensor, condition: torch.Tensor, drawn: tuple
) -> torch.Tensor:
    """Squared error of each image (B,), at the noise levels and with the weights of `ruler`."""
    (u, z), last = drawn, torch.channels_last
    sigma = ruler.noise_levels(u)
    return denoising_loss(
        denoiser, target.contiguous(memory_format=last), condition.contiguous(memory_format=last), sigma, z, ruler.weight(sigma)
    )


@torch.no_grad()
def validate(denoiser: EDMDenoiser | VEDenoiser, ruler: EDMDenoiser, data: Data, batch: int) -> dict:
    """Mean loss over the validation views, and by thirds of the noise levels, lowest first."""
    condition, target = data.parts["val"]
    losses, quantiles = [], []
    for draw in range(DRAWS):
        u, z = noise(target.shape, 0, draw)
        u = u[torch.randperm(len(u), generator=torch.Generator().manual_seed(draw))]
        for i in range(0, len(target), batch):
            part = slice(i, i + batch)
            losses.append(loss(denoiser, ruler, target[part], condition[part], (u[part], z[part])))
            quantiles.append(u[part])
    losses, quantiles = torch.cat(losses), torch.cat(quantiles)
    thirds = [float(losses[(quantiles >= k / 3) & (quantiles < (k + 1) / 3)].mean()) for k in range(3)]
    return {"loss": float(losses.mean()), "thirds": thirds}


@torch.no_grad()
def posterior(denoiser: EDMDenoiser | VEDenoiser, ruler: EDMDenoiser, data: Data) -> dict:
    """Fair CRPS of one validation view a halo: of pixels (in standard deviations, mean of the fields) and of total masses (relative)."""
    condition, target = (x[data.first].contiguous(memory_format=torch.channels_last) for x in data.parts["val"])
    sde = VESDE(*(PUBLISHED_RANGE if isinstance(denoiser, VEDenoiser) else QUICKSTART_RANGE))
    spread, generator = (ruler.sigma_data**2 + sde.sigma_max**2).sqrt(), torch.Generator().manual_seed(0)
    drawn = []
    for k in range(SAMPLES):
        start = ruler.mean + spread * torch.randn(target.shape, generator=generator)
        drawn.append(sample(lambda x, sigma: denoiser(x, sigma, condition), target.shape, sde, SAMPLER, STEPS, k, start))
    drawn = torch.stack(drawn)
    pixels = fair_crps((drawn / ruler.sigma_data).numpy(), (target / ruler.sigma_data).numpy()).mean((1, 2, 3))
    totals = []
    for k, field in enumerate(OUTPUTS):
        sums = [data.transforms[field].inverse(x[..., k, :, :].numpy()).sum((-1, -2), dtype=np.float64) for x in (drawn, target)]
        totals.append(fair_crps(sums[0] / sums[1], np.ones_like(sums[1])))
    return {"crps_pixels": pixels.round(6).tolist(), "crps_totals": np.mean(totals, 0).round(6).tolist()}


def summary(runs: list[dict]) -> dict:
    """Each candidate's size, loss over the paper's at the same seed, and its scatter over seeds."""
    paper = {r["seed"]: r["loss"] for r in runs if r["name"] == "paper"}
    out = {}
    for name, settings in CANDIDATES.items():
        mine = [r for r in runs if r["name"] == name]
        if not mine:
            continue
        ratios = [r["loss"] / paper[r["seed"]] for r in mine if r["seed"] in paper]
        made = size(settings)
        out[name] = settings | {
            "gflop": round(made["gflop"], 1),
            "flop_ratio": round(made["gflop"] / size(PAPER)["gflop"], 3),
            "parameters_m": round(made["parameters_m"], 1),
            "losses": [round(r["loss"], 5) for r in mine],
            "loss_ratios": [round(r, 4) for r in ratios],
            "thirds": np.mean([r["thirds"] for r in mine], 0).round(5).tolist(),
            "cpu_s": round(float(np.mean([r["cpu_s"] for r in mine]))),
        }
        out[name] |= {score: compared(runs, name, score) for score in ("crps_pixels", "crps_totals") if score in mine[0]}
    return out


def compared(runs: list[dict], name: str, score: str) -> dict:
    """Mean of a score, over that of `published` at the same seeds, and the ratio's error from the scatter over halos (paired)."""
    both = [{r["name"]: np.array(r[score]) for r in runs if r["seed"] == seed} for seed in sorted({r["seed"] for r in runs})]
    both = [b for b in both if name in b and "published" in b]
    mean = float(np.mean([r[score] for r in runs if r["name"] == name]))
    if not both:
        return {"mean": mean, "ratio": None, "error": None}
    mine, theirs = (np.mean([b[n] for b in both], 0) for n in (name, "published"))
    ratio = mine.mean() / theirs.mean()
    error = (mine - ratio * theirs).std(ddof=1) / len(mine) ** 0.5 / theirs.mean()
    return {"mean": mean, "ratio": float(ratio), "error": float(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--npix", type=int, default=64, help="maps are averaged down to this")
    parser.add_argument("--scale", type=int, default=8, help="channels are divided by this")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--posterior", action="store_true", help="draw posterior samples too; writes network_posterior.json")
    parser.add_argument("--networks", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Data(options.maps, options.npix)
    same = {k: v for k, v in vars(options).items() if k not in ("maps", "seeds", "networks")}
    same |= {"views": len(data.parts["train"][0]), "maps": data.fingerprint}
    result = "network_posterior" if options.posterior else "network_preset"
    path = report.RESULTS / f"{result}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    runs = kept["runs"] if kept.get("settings") == same else []
    for seed in range(options.seeds):
        for name in options.networks:
            if any(r["name"] == name and r["seed"] == seed for r in runs):
                continue
            runs.append({"name": name, "seed": seed, **train(name, data, seed, options)})
            report.write(result, {"settings": same, "machine": report.machine("torch"), "candidates": summary(runs), "runs": runs})
            print(f"{name}, seed {seed}: loss {runs[-1]['loss']:.5f}, {runs[-1]['cpu_s']:.0f} s", flush=True)
    rows = [
        [
            name,
            str(c["channels"]),
            str(c["multipliers"]),
            str(c["blocks"]),
            str(c["attention"]),
            f"{c['gflop']:.0f}",
            f"{c['flop_ratio']:.2f}",
        ]
        + [f"{c['parameters_m']:.1f}", f"{np.mean(c['losses']):.4f}", " ".join(f"{r:.3f}" for r in c["loss_ratios"])]
        for name, c in summary(runs).items()
    ]
    for name, c in summary(runs).items():
        for score in ("crps_pixels", "crps_totals"):
            if c.get(score, {}).get("ratio"):
                print(f"{name}: {score} {c[score]['mean']:.4f}, {c[score]['ratio']:.3f} +- {c[score]['error']:.3f} of the published")
    header = ["network", "channels", "multipliers", "blocks", "attention", "GFLOP", "of paper's", "10^6 par.", "loss", "over paper's"]
    print(report.table(header, rows))


if __name__ == "__main__":
    main()
