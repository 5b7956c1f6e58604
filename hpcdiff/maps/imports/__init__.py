"""Maps from elsewhere: .npy or FITS images and a catalogue -> a map file."""

from hpcdiff.maps.imports.spec import Import, read_spec
from hpcdiff.maps.imports.work import import_maps

__all__ = ["Import", "import_maps", "read_spec"]
