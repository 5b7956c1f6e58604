"""What a run draws: its views and where their inputs come from, checked against the model; and the drawing of one batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.guided import Guide, Telescope, mock
from hpcdiff.maps import MapFile, shared
from hpcdiff.model import Model, sample_keys
from hpcdiff.network import cannot_compile
from hpcdiff.observe import ObservedMaps
from hpcdiff.strict import refuse_difference
from hpcdiff.world import World


@dataclass
class Unlike:
    """Views whose inputs are unlike the training maps, on this rank, and what was said of the first."""

    views: set[int] = field(default_factory=set)
    first: str = ""

    def tell(self, world: World, n: int) -> None:
        """Print one line on rank 0 if there are any. Collective."""
        found = world.allgather([sorted(self.views), self.first])
        views = set().union(*(v for v, _ in found))
        if views:
            text = next(text for _, text in found if text)
            world.print(f"hpcdiff sample: warning: the inputs of {len(views)} of {n} views are unlike the training maps ({text})")


@dataclass
class Job:
    """One sampling run.

    Attributes:
        config, model: its config and model, on its device.
        maps: the map file, its inputs as observed. truth: the same, not observed.
        views: int64 (M,), rows of the map file. source: int64 (M,), rows whose inputs they get.
        samples: S. telescope: what measures the guide, or None.
    """

    config: Config
    model: Model
    maps: ObservedMaps
    truth: MapFile
    views: np.ndarray
    source: np.ndarray
    samples: int
    telescope: Telescope | None

    @property
    def manner(self) -> str:
        """How the network is evaluated, in words."""
        guided = self.telescope is not None
        words = [f"guided by {self.telescope.field}"] if guided else []
        words += ["fp32" if guided else self.model.precision, *(["compiled"] if self.model.compiled and not guided else [])]
        return ", ".join(words)

    def names(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View and sample number of flat positions in (M, S), int64 (n,) each."""
        return self.views[rows // self.samples], rows % self.samples

    def warm_up(self, rows: np.ndarray, size: int) -> None:
        """Compile the network, and see whether the device has the memory for a call, before any rank counts on another.

        Args:
            rows, size: as in `draw`, of a batch that is to be drawn.
        Raises:
            UserError: it cannot be compiled, or there is too little memory.
        """
        if not self.model.compiled and self.model.device.type == "cpu":
            return
        try:
            condition, keys, guide = self._padded(self.read(rows, Unlike()), rows, size)
            self.model.draw(condition, keys, "dpmpp_2m", 2, guide=guide)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{size} maps in one network call need more memory than the device has", "sample.batch_size", "lower it"
            ) from None
        except RuntimeError as error:
            if not self.model.compiled or self.telescope is not None:
                raise
            text = " ".join(str(error).split())[:160]
            raise UserError(f"the network cannot be compiled here ({text})", "sample.compile", "set it to false") from None

    def read(self, rows: np.ndarray, unlike: Unlike) -> tuple[torch.Tensor, Guide | None]:
        """Condition (n, K, npix, npix) and guiding data of the samples at flat positions `rows`; notes inputs unlike the training.

        Raises:
            UserError: maps that are damaged or not finite.
        """
        distinct, which = np.unique(rows // self.samples, return_inverse=True)
        source = self.source[distinct]
        inputs = {name: self.maps.read(name, source) for name in self.model.inputs}
        for k, view in enumerate(self.views[distinct].tolist()):
            lines = [] if view in unlike.views else self.model.unlike({name: x[k : k + 1] for name, x in inputs.items()})
            if lines:
                unlike.views.add(view)
                unlike.first = unlike.first or f"view {view}: {lines[0]}"
        condition, which = self.model.condition(inputs), torch.from_numpy(which)
        if self.telescope is None:
            return condition[which], None
        noise = self.config.sample.guide.noise
        y = mock(self.telescope, self.truth, noise, self.config.run.seed, source)[:, None]
        transforms = [self.model.transforms[name] for name in self.model.outputs]
        return condition[which], Guide(self.telescope, transforms, y[which], torch.full((1, 1, 1, 1), noise**2))

    def draw(self, ready: tuple[torch.Tensor, Guide | None], rows: np.ndarray, size: int, on_step) -> dict[str, np.ndarray]:
        """The samples at flat positions `rows`, {output: float32 (len(rows), npix, npix)}, in the map file's units.

        The network is always called with `size` rows, the last one repeated where they run out, so that neither the number of ranks
        nor a restart changes a bit.
        """
        s, (condition, keys, guide) = self.config.sample, self._padded(ready, rows, size)
        drawn = self.model.draw(condition, keys, s.sampler, s.steps, s.init, on_step, s.churn, guide)
        out = self.model.to_units(drawn[: len(rows)])
        for name, x in out.items():
            if not np.isfinite(x).all():
                view = self.names(rows)[0][~np.isfinite(x).all(axis=(1, 2))][0]
                raise UserError(f"samples of {name} are not finite", f"view {view}", "train longer, or take smaller steps")
        return out

    def _padded(self, ready: tuple[torch.Tensor, Guide | None], rows: np.ndarray, size: int) -> tuple:
        """Condition, keys and guide of `size` rows, the last one repeated."""
        padded = torch.arange(size).clamp_max(len(rows) - 1)
        keys = sample_keys(self.config.run.seed, *self.names(rows))
        return ready[0][padded], keys[padded], None if ready[1] is None else ready[1].rows(padded)


def prepare(config: Config, maps: MapFile, model: Model, samples: int) -> Job:
    """Hold the model against the config and the map file, and settle what is drawn.

    Raises:
        UserError: they do not belong together, or there is nothing to draw.
    """
    theirs = {key: model.config["task"].get(key, "diffusion") for key in ("inputs", "outputs", "method")}
    ours = {key: getattr(config.task, key) for key in theirs}
    refuse_difference({"task": theirs}, {"task": ours}, config.model_path(), "train")
    observed = {"observe": model.config.get("observe", Config().resolved("observe")["observe"])}
    refuse_difference(observed, config.resolved("observe"), config.model_path(), "train")
    _belong_together(maps, model)
    views = maps.rows(config.sample.split)
    if not len(views):
        raise UserError(f"the {config.sample.split} part of the split is empty", maps.path, "project again with another project.split")
    source = _shuffled(views, maps, config.run.seed) if config.sample.shuffle_inputs else views
    on_gpu = model.device.type == "cuda"
    model.precision = "bf16" if on_gpu and model.config["train"]["precision"] == "bf16" else "fp32"
    model.compiled = _compiles(config.sample.compile, model)
    telescope = _telescope(config, maps, model) if config.sample.guide.field else None
    observed_maps = ObservedMaps(maps, observed["observe"], model.inputs, config.run.seed)
    return Job(config, model, observed_maps, maps, views, source, samples, telescope)


def _compiles(asked: bool | None, model: Model) -> bool:
    """Is the network to be compiled? If nothing is asked, on GPUs where that can be."""
    why_not = cannot_compile(model.device) if asked or (asked is None and model.device.type == "cuda") else "not asked"
    if asked and why_not:
        raise UserError(f"the network cannot be compiled: {why_not}", "sample.compile", "set it to false")
    return why_not is None


def _belong_together(maps: MapFile, model: Model) -> None:
    """Raise a UserError if the map file is not of the kind that the model was trained on: fields, pixels, units."""
    maps.require(model.inputs, "the model")
    if maps.npix != model.npix:
        raise UserError(f"the model was trained on {model.npix} pixels and the maps have {maps.npix}", maps.path, "project or train again")
    ours, theirs = model.info.get("pixel_mpc"), _pixel(maps)
    if ours and theirs and abs(ours / theirs - 1) > 1e-6:
        raise UserError(
            f"the model was trained on pixels of {ours:.6g} Mpc and the maps have {theirs:.6g}", maps.path, "project or train again"
        )
    if ours and not theirs:
        raise UserError(
            f"the model was trained on pixels of {ours:.6g} Mpc and the maps' have no common size", maps.path, "project or train again"
        )
    if not ours and maps.attributes.get("pixel_mpc"):
        raise UserError(
            f"the model was trained on pixels of no common size and the maps have {theirs:.6g} Mpc", maps.path, "project or train again"
        )
    units = model.info.get("units")
    for name in model.inputs:
        taken = units.get(name) if isinstance(units, dict) else None
        if taken is None:
            raise UserError(f"the model does not say in which units it takes {name}", "its config.json", "train again with --overwrite")
        if maps.units[name] != taken:
            raise UserError(f"{name} is in {maps.units[name]!r}; the model takes {taken!r}", maps.path, "mend the units")


def _pixel(maps: MapFile) -> float | None:
    """Side of a pixel, physical Mpc; None where views differ."""
    width = shared(maps.catalog["width_mpc"])
    return maps.attributes.get("pixel_mpc") or (width / maps.npix if width else None)


def _telescope(config: Config, maps: MapFile, model: Model) -> Telescope:
    guide, known = config.sample.guide, [maps.attributes.get(name, getattr(config.cosmology, name)) for name in ("Om0", "Ob0")]
    try:
        telescope = Telescope(guide.field, guide.beam, model.outputs, _pixel(maps), *known)
    except ValueError as error:
        raise UserError(str(error), "sample.guide", "see docs/samplers.md") from None
    if guide.field not in maps.fields:
        maps.require([name for name, weight in telescope.weights.items() if weight], f"sample.guide ({guide.field})")
    return telescope


def _shuffled(views: np.ndarray, maps: MapFile, seed: int) -> np.ndarray:
    """For each view a view of another halo, int64 (M,)."""
    halo = maps.catalog["halo_id"][views]
    ids = np.unique(halo)
    if len(ids) < 2:
        raise UserError("shuffling inputs needs two halos at least", maps.path, "sample another split")
    order = np.random.Generator(np.random.Philox(key=[seed, 3])).permutation(ids)
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    source = np.empty_like(views)
    for h in ids:
        rows = views[halo == other[int(h)]]
        source[halo == h] = rows[np.arange((halo == h).sum()) % len(rows)]
    return source
