"""What `hpcdiff.load` returns: a trained model that draws posterior maps from arrays."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from hpcdiff import diffusion, seen
from hpcdiff.density import log_density
from hpcdiff.diffusion import VESDE
from hpcdiff.drawing import Captured, paced, plain_call, sample_keys, start_of
from hpcdiff.errors import nearest
from hpcdiff.guided import Guide, Measured, guide_of
from hpcdiff.sections import AUTO_INIT, AUTO_SAMPLER, AUTO_STEPS
from hpcdiff.transform import Transform


class Model:
    """A trained conditional score model with its normalisation.

    Attributes:
        config: resolved sections of the training run.
        info: npix, pixel_mpc, units, images seen, fingerprint of the maps, range of the training maps, provenance.
        transforms: {field: Transform}.
        denoiser: torch module, D(x, sigma, condition) -> E[x0], in the network's units.
        statistics: `mean`, `std` (C, npix, npix), `sigma_data` (C,) of the outputs over the training split, `condition_mean`
            (K, npix, npix), `condition_std` (K,) of the inputs, in the network's units.
        method: `diffusion`, or `regression`, which has one answer.
        precision: `fp32` or `bf16`, inside the network. compiled: is it compiled, and on a GPU captured, for sampling?
    """

    def __init__(
        self,
        config: dict,
        info: dict,
        transforms: dict[str, Transform],
        denoiser: torch.nn.Module,
        statistics: dict[str, torch.Tensor],
    ) -> None:
        self.config, self.info, self.transforms, self.denoiser = config, info, transforms, denoiser
        self.statistics = statistics
        self.inputs, self.outputs = config["task"]["inputs"], config["task"]["outputs"]
        self.npix = int(info["npix"])
        self.method = config["task"].get("method", "diffusion")
        self.precision, self.compiled = "fp32", False
        self._graph: Captured | None = None
        self.device = torch.device("cpu")

    @property
    def sde(self) -> VESDE:
        """The noise levels that the network was trained on."""
        return VESDE(self.config["diffusion"]["sigma_min"], self.config["diffusion"]["sigma_max"])

    def to(self, device: str | torch.device) -> Model:
        """Move the network; returns self."""
        self.device, self._graph = torch.device(device), None  # a captured graph knows the weights by their old addresses
        self.denoiser.to(self.device)
        return self

    def condition(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """Input maps in the map file's units, each (N, npix, npix) -> the network's condition (N, K, npix, npix).

        Raises:
            ValueError: a field is missing or not asked for, shapes differ, or values are not finite.
        """
        for name in inputs:
            if name not in self.inputs:
                raise ValueError(f"unknown input {name!r}{nearest(name, self.inputs)}; this model takes {', '.join(self.inputs)}")
        maps = []
        for name in self.inputs:
            if name not in inputs:
                raise ValueError(f"the input {name!r} is missing; this model takes {', '.join(self.inputs)}")
            x = np.asarray(inputs[name])
            if x.ndim != 3 or x.shape[1:] != (self.npix, self.npix) or len(x) != len(np.asarray(inputs[self.inputs[0]])):
                raise ValueError(f"the input {name!r} has shape {x.shape}; this model takes (N, {self.npix}, {self.npix})")
            if not np.isfinite(x).all():
                raise ValueError(f"the input {name!r} has values that are not finite")
            maps.append(self.transforms[name].forward(x))
        return torch.from_numpy(np.stack(maps, 1))

    def draw(
        self,
        condition: torch.Tensor,
        keys: torch.Tensor,
        sampler: str,
        steps: int,
        init: str = "prior",
        on_step=None,
        churn: float = 0.0,
        guide: Guide | None = None,
    ) -> torch.Tensor:
        """Posterior samples of one batch, one a row; of a regression its answer, by one evaluation.

        Args:
            condition: (B, K, npix, npix) from `condition`.
            keys: int64 (B,), one a sample; they alone name its noise.
            sampler, steps, init, churn: as in `sample`, none of them None.
            on_step: called with 0, 1, ... after each step, to poll for a stop.
            guide: further data of each row; the network is then evaluated in fp32, with gradients, and not compiled.
        Returns:
            (B, C, npix, npix) float32 on the CPU, in the network's units.
        """
        bf16 = self.precision == "bf16" and guide is None
        condition, keys = condition.to(self.device), keys.to(self.device)
        shape = (len(keys), len(self.outputs), self.npix, self.npix)
        self.denoiser.eval()
        with torch.no_grad():
            denoise = self._captured(condition, bf16) if self.compiled and guide is None else plain_call(self, condition, bf16)
            if self.method == "regression":
                return denoise(torch.zeros(shape, device=self.device), torch.ones(len(keys), device=self.device)).cpu()
            if guide is not None:
                denoise = guide.of(denoise, self.device)
            name = AUTO_SAMPLER if sampler == "auto" else sampler
            options = {"seed": keys, "init": start_of(self, init, keys, shape), "churn": churn, "on_step": paced(on_step, self.device)}
            return diffusion.sample(denoise, shape, sde=self.sde, sampler=name, steps=steps, **options).cpu()

    def _captured(self, condition: torch.Tensor, bf16: bool) -> Captured:
        """The compiled network of this batch shape; one is kept, since a run has one shape."""
        key = (id(self.denoiser), len(condition), bf16, str(self.device))
        if self._graph is None or self._graph.key != key:
            self._graph = Captured(self, len(condition), bf16)
        return self._graph.load(condition)

    def to_units(self, x: torch.Tensor) -> dict[str, np.ndarray]:
        """The network's units (..., C, npix, npix) -> {output: float32 (..., npix, npix)} in the map file's units."""
        return {name: self.transforms[name].inverse(x[..., i, :, :].numpy()) for i, name in enumerate(self.outputs)}

    def sample(
        self,
        inputs: dict[str, np.ndarray],
        samples: int | None = None,
        sampler: str = "auto",
        steps: int | None = None,
        seed: int = 0,
        view: np.ndarray | None = None,
        init: str | None = None,
        batch_size: int = 64,
        churn: float = 0.0,
        guide: Measured | None = None,
    ) -> dict[str, np.ndarray]:
        """Draw posterior maps given observed ones. Warns once of inputs unlike the training maps.

        Args:
            inputs: {field: (npix, npix) or (N, npix, npix)} in the map file's units.
            samples: S, posterior samples of each view, 10 if not given; a regression has 1.
            sampler: euler_maruyama | predictor_corrector | heun | dpmpp_2m | dpmpp_2m_sde | auto.
            steps: number of noise levels; None = 1000 for euler_maruyama and predictor_corrector, else that of `auto`.
            seed, view: they name the noise with the sample number; view is int (N,), default 0..N-1.
            init: `prior` = N(0, sigma_max^2); `matched` = N(E[x], Var[x] + sigma_max^2) of the training split; None = that of `auto`
                for `auto`, else `prior`.
            batch_size: maps in one network call.
            churn: noise that `heun` adds on the way, S_churn of Karras et al. 2022.
            guide: a further measured map, on which the samples are conditioned too; batches then need the memory of training.
        Returns:
            {output field: float32 (N, S, npix, npix)}.
        Raises:
            ValueError: shapes, names or values of the inputs or of the guide, an unknown sampler, several samples of a regression.
        """
        regression = self.method == "regression"
        samples = (1 if regression else 10) if samples is None else samples
        if samples < 1 or batch_size < 1:
            raise ValueError(f"samples and batch_size must be at least 1, not {samples} and {batch_size}")
        if regression and (samples > 1 or guide is not None):
            raise ValueError("this model is a regression, which has one answer: no further samples, and no guide")
        inputs = stacked(inputs)
        condition = self.condition(inputs)
        n = len(condition)
        view = view_numbers(view, n)
        data = guide_of(self, guide, n) if guide is not None else None
        if lines := self.unlike(inputs):
            warnings.warn(f"inputs unlike the training maps: {'; '.join(lines)}", stacklevel=2)
        if steps is None:
            steps = 1000 if sampler in ("euler_maruyama", "predictor_corrector") else AUTO_STEPS
        init = init or (AUTO_INIT if sampler == "auto" else "prior")
        keys = sample_keys(seed, view, samples).reshape(-1)
        of = torch.arange(n).repeat_interleave(samples)
        drawn, size = [], batch_size if self.compiled else min(batch_size, len(keys))  # a compiled network has one batch shape
        for i in range(0, len(keys), size):
            rows = torch.arange(i, i + size).clamp_max(len(keys) - 1)  # the last row is repeated
            which = of[rows]
            x = self.draw(condition[which], keys[rows], sampler, steps, init, None, churn, data and data.rows(which))
            drawn.append(x[: len(keys) - i])
        return self.to_units(torch.cat(drawn).reshape(n, samples, len(self.outputs), self.npix, self.npix))

    def log_likelihood(
        self,
        inputs: dict[str, np.ndarray],
        maps: dict[str, np.ndarray],
        steps: int = 65,
        probes: int | None = 8,
        seed: int = 0,
        view: np.ndarray | None = None,
        batch_size: int = 16,
        with_error: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """ln p(maps | inputs) in nats, the density over all output pixels in the map file's units, by the probability-flow ODE.

        It is the density at noise level sigma_min of what the ODE makes from the matched start; see `diffusion.likelihood`, also for
        `steps` and `probes`. In fp32, whatever the model's precision.

        Args:
            inputs, maps: {field: (npix, npix) or (N, npix, npix)} of the inputs, and of all outputs.
            seed, view: they name the random probes; view is int (N,), default 0..N-1.
            batch_size: maps in one call of network and gradient.
            with_error: return the standard error by the probes too.
        Returns:
            float64 (N,), or two of them.
        Raises:
            ValueError: as `sample`; a regression; a pixel at the floor of a log10 transform.
        """
        condition = self.condition(stacked(inputs))
        views = view_numbers(view, len(condition))
        nats, error = log_density(self, condition, stacked(maps), steps, probes, seed, views, batch_size)
        return (nats, error) if with_error else nats

    def unlike(self, inputs: dict[str, np.ndarray]) -> list[str]:
        """What about input maps, each (N, npix, npix) in the map file's units, lies outside the training range; one line each."""
        return seen.unlike(inputs, self.info["seen"]) if self.info.get("seen") else []


def stacked(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Single maps (npix, npix) as stacks of one, (1, npix, npix); others as they are."""
    return {k: np.asarray(v)[None] if np.ndim(v) == 2 else np.asarray(v) for k, v in maps.items()}


def view_numbers(view: np.ndarray | None, n: int) -> np.ndarray:
    """Numbers that name the views, int64 (n,); 0..n-1 if not given.

    Raises:
        ValueError: not one for each map.
    """
    view = np.arange(n) if view is None else np.atleast_1d(np.asarray(view, np.int64))
    if view.shape != (n,):
        raise ValueError(f"view has shape {view.shape} for {n} maps")
    return view
