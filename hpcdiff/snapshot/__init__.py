"""Snapshots and halo catalogues as plain arrays in Mpc, Msun and K, whatever code wrote them."""

from hpcdiff.snapshot.catalogues import catalogue_paths
from hpcdiff.snapshot.chunks import open_snapshot, snapshot_paths
from hpcdiff.snapshot.dialects import KINDS
from hpcdiff.snapshot.halos import Halos, read_halos
from hpcdiff.snapshot.neighbours import SupportRadii, support_files, support_radii
from hpcdiff.snapshot.particles import Particles
from hpcdiff.snapshot.snapshot import Snapshot

__all__ = [
    "KINDS",
    "Halos",
    "Particles",
    "Snapshot",
    "SupportRadii",
    "catalogue_paths",
    "open_snapshot",
    "read_halos",
    "snapshot_paths",
    "support_files",
    "support_radii",
]
