"""What a network has to beat: predictions fitted on the training split, in map units, and another network's."""

from hpcdiff.evaluate.baselines.fitted import NAMES, Baselines

__all__ = ["NAMES", "Baselines"]
