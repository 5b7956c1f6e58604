"""What a projected halo is like: mass, concentration, ellipticity, offset of the peak, substructure. numpy and numba; no stage."""

from hpcdiff.structure.clumps import match
from hpcdiff.structure.structure import QUANTITIES, Structure

__all__ = ["QUANTITIES", "Structure", "match"]
