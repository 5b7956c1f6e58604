"""The posterior of one observed cluster: samples on its grid, and its masses."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from hpcdiff import diffusion
from hpcdiff.errors import UserError
from hpcdiff.model import Model
from hpcdiff.sample.cluster.masses import weigh
from hpcdiff.sample.cluster.observed import Observed
from hpcdiff.sections import AUTO_INIT, AUTO_SAMPLER, AUTO_STEPS


@dataclass
class Posterior:
    """The posterior of one cluster.

    Attributes:
        observed: what the model was shown. samples: {output: float32 (S, npix, npix)} in the map file's units; S = 1 for a regression.
        masses: see `masses.weigh`. settings: how it was made, ready for JSON. regression: the one map is the mean, and there is no spread.
    """

    observed: Observed
    samples: dict[str, np.ndarray]
    masses: dict
    settings: dict
    regression: bool

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """Mean of the samples, {output: float64 (npix, npix)}."""
        return {f: x.mean(0, dtype=np.float64) for f, x in self.samples.items()}

    @property
    def std(self) -> dict[str, np.ndarray]:
        """Their standard deviation (ddof = 1), {output: float64 (npix, npix)}; empty for a regression."""
        return {} if self.regression else {f: x.std(0, ddof=1, dtype=np.float64) for f, x in self.samples.items()}


def infer(
    model: Model,
    observed: Observed,
    samples: int = 10,
    sampler: str = "auto",
    steps: int | None = None,
    seed: int = 0,
    init: str | None = None,
    batch_size: int = 64,
    churn: float = 0.0,
    r500_mpc: float | None = None,
    r200_mpc: float | None = None,
) -> Posterior:
    """Draw the posterior of an observed cluster, and weigh it.

    Args:
        model: that of `observe`. observed: its result.
        samples, sampler, steps, seed, init, batch_size, churn: as in `Model.sample`; the cluster is view 0.
        r500_mpc, r200_mpc: radii of the cylinders, physical Mpc; None = fitted to each sample.
    Raises:
        UserError: fewer than two samples (but for a regression), a guide that the model cannot use, or samples that are not finite.
    """
    regression, guide = model.method == "regression", observed.guide
    if guide is not None and (regression or guide.field not in (*model.outputs, "total")):
        why = "a regression has one answer" if regression else f"it is made of {', '.join(model.outputs)}"
        raise UserError(f"the model cannot be guided by {guide.field}: {why}", "sample.guide", "leave it out")
    if samples < 2 and not regression:
        raise UserError(f"{samples} sample has no spread", "sample.samples", "draw two at least")
    settings = settings_of(model, observed, samples, sampler, steps, seed, init, churn, r500_mpc, r200_mpc)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is unlike the training maps is in `observed`
        drawn = model.sample(
            observed.inputs,
            settings["samples"],
            sampler,
            steps,
            seed,
            init=settings["init"],
            batch_size=batch_size,
            churn=churn,
            guide=guide,
        )
    maps = {field: x[0] for field, x in drawn.items()}
    for field, x in maps.items():
        if not np.isfinite(x).all():
            raise UserError(f"samples of {field} are not finite", "the model", "train longer, or take smaller steps")
    masses = weigh(maps, observed.trained, observed.redshift, observed.grid.pixel_mpc, {"R500c": r500_mpc, "R200c": r200_mpc})
    return Posterior(observed, maps, masses, settings, regression)


def settings_of(
    model: Model,
    observed: Observed,
    samples: int,
    sampler: str,
    steps: int | None,
    seed: int,
    init: str | None,
    churn: float,
    r500_mpc: float | None,
    r200_mpc: float | None,
) -> dict:
    """How a posterior is made, ready for JSON: what a rerun into the same folder is compared with. Arguments as in `infer`."""
    o = observed
    out = {"model": model.info.get("weights_sha256"), "seed": seed, "redshift": o.redshift, "centre": list(o.grid.centre)}
    out |= {"r500_mpc": r500_mpc, "r200_mpc": r200_mpc, "fill_nan": o.fill_nan, "pixel_mpc": o.grid.pixel_mpc}
    out |= {"guide": None if o.guide is None else {"field": o.guide.field, "noise": float(np.min(o.guide.noise)), "beam": o.guide.beam}}
    out |= {f"image of {field} (SHA-256)": source["sha256"] for field, source in o.sources.items()}
    if model.method == "regression":
        return out | {"sampler": "regression", "samples": 1, "steps": 1, "nfe": 1, "init": None, "churn": 0.0}
    name = AUTO_SAMPLER if sampler == "auto" else sampler
    if steps is None:
        steps = 1000 if name in ("euler_maruyama", "predictor_corrector") else AUTO_STEPS
    out |= {"sampler": name, "samples": samples, "steps": steps, "nfe": diffusion.nfe(name, steps)}
    return out | {"init": init or (AUTO_INIT if sampler == "auto" else "prior"), "churn": churn}
