"""What the training maps say of their simulation: cosmology, redshifts, depths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcdiff.maps import MapFile

COSMOLOGY = ("Om0", "Ob0", "h", "sigma8", "ns", "Tcmb0")


def universe(files: Sequence[MapFile], outputs: Sequence[str]) -> dict:
    """Cosmology (of the first file), `redshift` [lowest, highest] and `depth_mpc` {output: physical Mpc, None where files differ or don't say}."""
    first = files[0].attributes

    def depth(field: str) -> float | None:
        found = {f.field_attributes[field].get("depth_mpc", f.attributes.get("depth_mpc")) for f in files}
        return float(found.pop()) if len(found) == 1 and None not in found else None

    z = np.concatenate([f.catalog["redshift"] for f in files])
    return {
        **{k: float(first[k]) for k in COSMOLOGY if k in first},
        "redshift": [float(z.min()), float(z.max())],
        "depth_mpc": {name: depth(name) for name in outputs},
    }
