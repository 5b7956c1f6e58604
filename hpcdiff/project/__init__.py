"""Particles to maps: views, particle exchange, kernel, deposit, fields; writes `maps.h5`."""

from hpcdiff.project.image import deposit

__all__ = ["deposit"]
