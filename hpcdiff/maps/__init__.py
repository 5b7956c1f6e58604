"""The map file `maps.h5` (format hpcdiff-maps): create, write collectively, read, catalogue, splits, checksums."""

import os

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "BEST_EFFORT")  # scratch file systems often have no locks; before h5py

from hpcdiff.maps.layout import CATALOG, FORMAT, MEAN_OF, UNITS, VERSION, shared, view_checksum
from hpcdiff.maps.reader import MapFile, has_format, open_hdf5
from hpcdiff.maps.sound import interpreting, refuse_hollow
from hpcdiff.maps.splits import PARTS, deal, split_ids, splitmix64
from hpcdiff.maps.structure import config_of
from hpcdiff.maps.writer import MapWriter

__all__ = [
    "CATALOG",
    "FORMAT",
    "MEAN_OF",
    "PARTS",
    "UNITS",
    "VERSION",
    "MapFile",
    "MapWriter",
    "config_of",
    "deal",
    "has_format",
    "interpreting",
    "open_hdf5",
    "refuse_hollow",
    "shared",
    "split_ids",
    "splitmix64",
    "view_checksum",
]
