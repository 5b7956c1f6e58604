"""Snapshots and halo catalogues as plain arrays in Mpc, Msun and K, whatever code wrote them."""

from hpcdiff.snapshot.gadget import KINDS, Particles, Snapshot, open_snapshot, snapshot_paths
from hpcdiff.snapshot.halos import Halos, read_halos
from hpcdiff.snapshot.neighbours import neighbour_distance

__all__ = ["KINDS", "Halos", "Particles", "Snapshot", "neighbour_distance", "open_snapshot", "read_halos", "snapshot_paths"]
