"""Settings against the reference on the same halos: paired differences with bootstrap errors, and which setting `auto` shall be."""

from __future__ import annotations

import functools
from typing import TypeVar

import numpy as np

from samplers.scores import nominal

T = TypeVar("T")
"""A setting, or the name of one."""
DRAWS = 4000
"""Bootstrap draws over halos."""
CRPS_MARGIN, COVERAGE_MARGIN = 0.1, 0.1
"""Largest loss that the rule lets pass however wide the paired error is: of CRPS as a fraction, of coverage as a probability."""
GAUSSIAN_MARGIN = 0.01
"""How far the spread may be off on a Gaussian, with the exact denoiser: or faults of the sampler that make up for faults of one model pass."""
ERRORS = 2.0
"""A setting is worse where it loses more than so many paired errors."""
CRPS, COVERAGE = ("pixel_crps", "total_crps"), ("pixel_coverage", "total_coverage")
SKILL = {"pixel_spread_skill": ("pixel_variance", "pixel_square"), "total_spread_skill": ("total_variance", "total_square")}
TO_ONE = tuple(f"{p}{q}_{band}" for p in ("", "sample_") for q in "br" for band in ("small", "large"))


def resamples(n: int, seed: int = 0) -> np.ndarray:
    """Rows of halos drawn with replacement, the first row all of them in order; int64 (DRAWS + 1, n)."""
    return np.concatenate([np.arange(n)[None], np.random.default_rng(seed).integers(0, n, (DRAWS, n))])


def summarise(scores: dict[str, np.ndarray], rows: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    """Every figure of one setting over all halos (first) and in each bootstrap draw, (DRAWS + 1, C).

    Means over halos of all scores; and spread-skill sqrt((S + 1) / S mean variance / mean squared error), 1 if calibrated.

    Args:
        scores: {name: (n, C)}, a row a halo. rows: `resamples`. samples: S.
    """
    means = {name: values[rows].mean(1) for name, values in scores.items()}
    for name, (variance, square) in SKILL.items():
        means[name] = np.sqrt((samples + 1) / samples * means[variance] / means[square])
    return means


def loss(name: str, mine: np.ndarray, reference: np.ndarray, samples: int) -> np.ndarray:
    """How much worse than the reference; positive is worse.

    CRPS and profile error: the fraction by which they are larger. Coverage, b, r, spread-skill: by how much further from what they should be.
    """
    if name in COVERAGE:
        return np.abs(mine - nominal(samples)) - np.abs(reference - nominal(samples))
    if name in TO_ONE or name in SKILL:
        return np.abs(mine - 1) - np.abs(reference - 1)
    return mine / reference - 1


def against(mine: dict[str, np.ndarray], reference: dict[str, np.ndarray], samples: int) -> dict[str, dict]:
    """{name: {"value", "error", "loss", "loss_error", "reference"}}, each a list over fields, from two settings' `summarise` on the same draws."""
    out = {}
    for name in (*CRPS, *COVERAGE, *SKILL, *TO_ONE, "profile_error"):
        x = mine[name]
        lost = loss(name, x, reference[name], samples)
        out[name] = {
            "value": x[0].tolist(),
            "error": x[1:].std(0).tolist(),
            "loss": lost[0].tolist(),
            "loss_error": lost[1:].std(0).tolist(),
            "reference": reference[name][0].tolist(),
        }
    return out


def compared(scores: dict[T, dict[str, np.ndarray]], reference: T, samples: int) -> dict[T, tuple[int, dict[str, dict]]]:
    """Of each setting the number of its halos, at most those of the reference, and `against` the reference on the same halos.

    Args:
        scores: {setting: {name: (n, C)}}, a row a halo, in the same order for all; n may differ.
    """

    @functools.cache
    def summary(setting: T, halos: int) -> dict[str, np.ndarray]:
        return summarise({name: x[:halos] for name, x in scores[setting].items()}, resamples(halos), samples)

    def count(setting: T) -> int:
        return min(len(next(iter(scores[one].values()))) for one in (setting, reference))

    return {s: (count(s), against(summary(s, count(s)), summary(reference, count(s)), samples)) for s in scores}


def worse(found: dict[str, dict], names: tuple[str, ...] = (*CRPS, *COVERAGE)) -> list[str]:
    """Names of what is worse than the reference: it loses more than `ERRORS` paired errors, or more than the margin; "name field number"."""
    out = []
    for name in names:
        margin = COVERAGE_MARGIN if name in COVERAGE else CRPS_MARGIN
        for field, (lost, error) in enumerate(zip(found[name]["loss"], found[name]["loss_error"], strict=True)):
            if lost > min(ERRORS * error, margin):
                out.append(f"{name} {field}")
    return out


def choose(rows: list[dict], gaussian_margin: float = GAUSSIAN_MARGIN) -> dict | None:
    """The cheapest that is not worse in CRPS and coverage and right on Gaussians; of equally cheap ones that of the lowest CRPS; or None.

    Those that were drawn for fewer halos than others are not chosen.

    rows: {"curve", "steps", "init", "nfe", "halos", "gaussian", "against": `against`} of each setting; gaussian: largest deviation of the spread.
    """
    most = max((row["halos"] for row in rows), default=0)
    good = [row for row in rows if row["halos"] == most and not worse(row["against"]) and abs(row["gaussian"]) <= gaussian_margin]
    return min(good, key=lambda row: (row["nfe"], sum(sum(row["against"][name]["loss"]) for name in CRPS)), default=None)


def needed(rows: list[dict], curve: str, init: str) -> int | None:
    """Fewest network evaluations of a sample with which this sampler and all its finer settings are not worse in CRPS; None = not reached."""
    mine = sorted((row for row in rows if (row["curve"], row["init"]) == (curve, init)), key=lambda row: row["nfe"], reverse=True)
    fewest = None
    for row in mine:
        if worse(row["against"], CRPS):
            break
        fewest = row["nfe"]
    return fewest


def rounded(value: object, digits: int = 5) -> object:
    """The same JSON with all floats rounded."""
    if isinstance(value, dict):
        return {key: rounded(x, digits) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(x, digits) for x in value]
    return round(value, digits) if isinstance(value, float) else value
