"""Score networks: pure torch modules that map (x, t, condition) to an image; no files, no ranks, no config."""

from hpcdiff.network.compiled import cannot_compile, compiled
from hpcdiff.network.ncsnpp import NCSNpp

__all__ = ["NCSNpp", "cannot_compile", "compiled"]
