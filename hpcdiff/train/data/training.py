"""The training data of a run: maps of all files, how they become the network's numbers, and batches of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.observe import observation_keys, observations
from hpcdiff.train.data.batch import NOISE, VALIDATION_STREAM, Batch, keys_of, level_quantiles, symmetries, to_device, turn
from hpcdiff.train.data.familiar import bounds_seen
from hpcdiff.train.data.fitting import fit_transforms
from hpcdiff.train.data.order import Order
from hpcdiff.train.data.stage import local_copies, place
from hpcdiff.train.data.statistics import MODE_VIEWS, noise_range, statistics
from hpcdiff.train.data.stream import Stream
from hpcdiff.train.data.views import choose, open_files
from hpcdiff.world import World

STATISTICS_STREAM = 6
"""Separates the noise of observed maps in the statistics from every other use of the seed."""


class TrainingData:
    """Maps of the training and validation views, and batches of them. Collective.

    Args:
        config: the run's. world: its ranks. beat: called with the name of each part of the work, which may take long, as it begins.
    Raises:
        UserError: map files that are incomplete, damaged, do not go together or lack something; an empty split; a constant field; more
            ranks than training views; no room at `train.stage`; a beam in Mpc where pixels have no common size.
    Attributes:
        transforms: {field: Transform}. statistics: as in `Model.statistics`.
        npix, pixel_mpc (None where views differ), units ({field: text}), fingerprints (one a file), files (list of MapFile).
        n_train, n_validation: views.
        seen: {input: {quantity: [low, high]}}, what the training maps of each input were like, as observed (`hpcdiff.seen`).
        where: words on where the maps wait, and how much they take.
        noise_range: suggested (sigma_min, sigma_max), see `statistics.noise_range`.
        device: where batches are.
    """

    def __init__(self, config: Config, world: World, beat: Callable[[str], None] = lambda phase: None) -> None:
        self.device = getattr(world, "device", torch.device("cpu"))
        self.seed, self.augment, task = config.run.seed, config.train.augment, config.task
        self.inputs, fields = list(task.inputs), [*task.inputs, *task.outputs]
        beat("reading the maps")
        with world.together():
            self.files = open_files(config)
            self.views = choose(self.files, config, world.size)
            self.npix, self.pixel_mpc = self.files[0].npix, self.files[0].attributes.get("pixel_mpc")
            self.observed = observations(config.observe, self.inputs, self.pixel_mpc)
        if config.train.stage == "local":
            beat("copying the maps")
            self.views.files = local_copies(self.files, world)
        self.units = {field: self.files[0].units[field] for field in fields}
        self.fingerprints = [maps.fingerprint for maps in self.files]
        self.n_train, self.n_validation = self.views.n_train, len(self.views) - self.views.n_train
        self.order = Order(self.views.sizes, self.seed, config.train.map_weights)
        beat("checking the maps")
        self.transforms = fit_transforms(self.views, task, world)
        with world.together():
            # what is observed waits in its own units, as the telescope comes before the transform
            self.stream = Stream(self.views, fields, {f: t for f, t in self.transforms.items() if f not in self.observed})
        beat("taking the maps to where they wait")
        self.store, self.where = place(config.train.stage, self.stream, self.device, world)
        beat("measuring the maps")
        shape = (len(fields), self.npix, self.npix)
        self.statistics = statistics(self._once, self.order.weights(), len(self.inputs), shape, self.augment, world)
        beat("describing the maps")
        self.seen = bounds_seen(self.views, self.inputs, self._observed_alone, world)
        self.noise_range = self._noise_range(config.sample.init == "matched", world)

    def batch(self, numbers: np.ndarray) -> Batch:
        """The training images `numbers` (0, 1, ... from the start of training), int64 (B,); a function of (seed, image number) alone."""
        numbers = np.asarray(numbers, np.int64)
        keys = keys_of(numbers, self.seed)
        symmetry = symmetries(keys) if self.augment else None
        return self._made(self.order.views(numbers), keys, level_quantiles(numbers, self.seed), symmetry, keys)

    def validation(self, numbers: np.ndarray) -> Batch:
        """The validation views `numbers` (0 .. n_validation - 1), unturned, each always with the same noise."""
        numbers = np.asarray(numbers, np.int64)
        views = self.n_train + numbers
        observed = observation_keys(self.seed, self.views.row[views])  # the same draws as in the sample stage
        return self._made(views, keys_of(numbers, self.seed, VALIDATION_STREAM), level_quantiles(numbers, self.seed), None, observed)

    def close(self) -> None:
        """Let memory and files go."""
        if self.store is not self.stream:
            self.store.close()
        self.stream.close()

    def _made(self, views: np.ndarray, keys: torch.Tensor, u: torch.Tensor, symmetry: torch.Tensor | None, observed: torch.Tensor) -> Batch:
        x = to_device(self.store.take(views), self.device)
        keys, observed, u = (to_device(y, self.device) for y in (keys, observed, u))
        condition, target = x[:, : len(self.inputs)], x[:, len(self.inputs) :]
        if symmetry is not None:
            symmetry = to_device(symmetry, self.device)
            condition, target = turn(condition, symmetry), turn(target, symmetry)
        condition = self._observe(condition, observed)
        return Batch(target.contiguous(), condition.contiguous(), u, diffusion.normal(keys, NOISE, target.shape[1:]))

    def _observe(self, condition: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Conditions as stored -> as the network sees them: what is observed goes through its telescope, then through its transform."""
        if not self.observed:
            return condition
        channels = list(condition.unbind(1))
        for k, name in enumerate(self.inputs):
            if name in self.observed:
                channels[k] = self.transforms[name].forward_tensor(self.observed[name](channels[k], keys))
        return torch.stack(channels, 1)

    def _once(self, views: np.ndarray) -> torch.Tensor:
        """Views as the network sees them, unturned, observed once and for all: (B, K + C, npix, npix)."""
        x = to_device(self.store.take(views), self.device)
        keys = to_device(keys_of(views, self.seed, STATISTICS_STREAM), self.device)
        return torch.cat([self._observe(x[:, : len(self.inputs)], keys), x[:, len(self.inputs) :]], 1)

    def _observed_alone(self, field: str, maps: torch.Tensor, views: np.ndarray) -> torch.Tensor:
        """Maps of one input in its own units (B, npix, npix), as in `_once` but not transformed; on the CPU."""
        if field not in self.observed:
            return maps
        keys = keys_of(views, self.seed, STATISTICS_STREAM)
        return self.observed[field](to_device(maps, self.device), to_device(keys, self.device)).cpu()

    def _noise_range(self, matched: bool, world: World) -> tuple[float, float]:
        found = None
        with world.together():
            if world.main:
                chosen = np.linspace(0, self.n_train - 1, min(self.n_train, MODE_VIEWS)).astype(np.int64)
                found = noise_range(self.store.take(chosen)[:, len(self.inputs) :], self.statistics, matched)
        low, high = world.broadcast(found)
        return low, high
