"""Training data: map files checked, transformed, held or streamed; which image comes when, turned how, with which noise."""

from hpcdiff.train.data.batch import Batch, level_quantiles, turn
from hpcdiff.train.data.prefetch import Prefetcher
from hpcdiff.train.data.training import TrainingData

__all__ = [
    "Batch",
    "Prefetcher",
    "TrainingData",
    "level_quantiles",
    "turn",
]
