"""Every view in the report: a few numbers, profiles, and all its maps in one small greyscale picture that the page colours.

The picture of a view holds its maps side by side, as logarithms in 256 steps: so one picture serves the linear and the logarithmic
stretch, and colour scales of the one cluster or of all. Views are read in blocks, so that memory does not grow with the test set.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, features

from hpcdiff.evaluate.calibration import fair_crps
from hpcdiff.evaluate.inputs import Samples
from hpcdiff.evaluate.look import FIELD_MAP, FIELD_UNIT, SIGNED_MAP, field_name, plt
from hpcdiff.evaluate.pictures import limits
from hpcdiff.maps import MapFile
from hpcdiff.measures import pixel_rings, ratio

BUDGET = 20_000_000
"""Bytes that the pictures of all views may take in the page."""
SHOWN = 2
"""Samples shown of each view."""
SMALLEST = 32
"""Pixels a side below which maps are not made coarser; rather are views left out."""
QUALITY = 80
FRACTION, PULL = 1.0, 5.0
"""Largest fractional error, and error over spread, that a picture can hold."""
RINGS = 32
"""Most rings of a profile."""


def panels(inputs: list[str], outputs: list[str], samples: int) -> list[tuple[str, str]]:
    """(field, kind) of the maps in a view's picture, from left to right."""
    kinds = ["truth", "mean", *(f"sample {n + 1}" for n in range(min(samples, SHOWN)))] if samples > 1 else ["truth", "sample 1"]
    kinds += ["spread", "fraction", "pull"] if samples > 1 else ["fraction"]
    return [(f, "input") for f in inputs] + [(f, kind) for f in outputs for kind in kinds]


class View:
    """One view: its maps, and the numbers that stand beside them.

    Args:
        inputs, truth: {field: (npix, npix)}. samples: {field: (S, npix, npix)}; in the map file's units, float64.
        rings: of the profile.
    """

    def __init__(self, inputs: dict, truth: dict, samples: dict, rings) -> None:
        self.numbers, self.maps, self.ranges, self.profiles = {}, {}, {}, {}
        for field, x in inputs.items():
            self.maps[field, "input"] = x
            self.ranges[field] = self._range(field, x, x.max())
        every = slice(None) if rings.n <= RINGS else np.unique(np.geomspace(1, rings.n, RINGS).astype(int) - 1)
        for field, y in truth.items():
            x = samples[field]
            mean, total = x.mean(0), x.sum((1, 2))
            error = mean - y
            spread = x.std(0, ddof=1) if len(x) > 1 else np.zeros_like(y)
            square, scale = (error**2).mean(), (y * y).mean()
            self.numbers |= {
                f"{field}_total_truth": y.sum(),
                f"{field}_total_mean": total.mean(),
                f"{field}_total_std": total.std(ddof=1) if len(x) > 1 else None,
                f"{field}_total_error": mean.sum() / y.sum() - 1 if y.sum() else None,
                f"{field}_squared_error": square,
                f"{field}_relative_error": np.sqrt(square / scale) if scale else None,
                f"{field}_crps": fair_crps(x, y).mean() if len(x) > 1 else None,
            }
            shown = {"truth": y, "mean": mean, **{f"sample {n + 1}": x[n] for n in range(min(len(x), SHOWN))}}
            self.maps |= {(field, kind): image for kind, image in shown.items()}
            self.maps[field, "spread"] = spread
            self.maps[field, "fraction"] = np.nan_to_num(ratio(error, y))
            self.maps[field, "pull"] = np.nan_to_num(ratio(error, spread))
            self.ranges[field] = self._range(field, y, max(image.max() for image in shown.values()))
            top = float(spread.max()) or 1.0
            self.ranges[f"{field} spread"] = [top * 1e-3, top, top * 1e-3, top]
            each = rings.mean(x)
            self.profiles[field] = [v[every] for v in (rings.mean(y), each.mean(0), each.min(0), each.max(0))]
        self.radius = rings.radius[every]

    @staticmethod
    def _range(field: str, of: np.ndarray, top: float) -> list[float]:
        """[lowest, highest] that are stored, then those of the colour scale, which is the truth's."""
        low, high = limits(of, field, True)
        return [low / 2, max(float(top), high), low, high]

    def picture(self, order: list[tuple[str, str]], factor: int) -> str:
        """The maps side by side, each `factor` times coarser, as a data URI."""
        tiles = []
        for field, kind in order:
            image = coarser(self.maps[field, kind], factor)
            if kind in ("fraction", "pull"):
                code = 127.5 * (1 + np.clip(image / (PULL if kind == "pull" else FRACTION), -1, 1))
            else:
                low, high = self.ranges[f"{field} spread" if kind == "spread" else field][:2]
                code = 255 * np.log(np.clip(image, low, high) / low) / np.log(high / low)
            tiles.append(np.round(code).astype(np.uint8).T[::-1])
        return encode(np.concatenate(tiles, 1))


def coarser(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over factor x factor pixels."""
    n = len(image) // factor
    return image.reshape(n, factor, n, factor).mean((1, 3))


def encode(grey: np.ndarray) -> str:
    """A greyscale picture, uint8 (height, width), as a data URI."""
    out, kind = io.BytesIO(), "webp" if features.check("webp") else "jpeg"
    Image.fromarray(grey).convert("RGB" if kind == "webp" else "L").save(out, kind, quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def collect(maps: MapFile, samples: Samples, inputs: list[str]) -> tuple[dict[str, list], dict, list[str]]:
    """All evaluated views in the order of their rows: columns of `views.csv`, what the page needs to know, and a picture of each.

    Where the pictures would take more than `BUDGET`, maps are made coarser; where that is not enough, views are left out evenly, the
    pictures' list then has an empty text in their place.
    """
    catalog, outputs = maps.catalog, samples.fields
    order, rings = panels(inputs, outputs, samples.count), pixel_rings(maps.npix)
    columns: dict[str, list] = {}
    factor, stride, seen, pictures = None, 1, [], []
    for start in range(0, len(samples.views), 8):
        positions = np.arange(start, min(start + 8, len(samples.views)))
        rows = samples.views[positions]
        x, y = ({f: maps.read(f, rows).astype(np.float64) for f in fields} for fields in (inputs, outputs))
        drawn = {f: samples.read(f, positions) for f in outputs}
        for n, row in enumerate(rows):
            view = View(
                {f: a[n] for f, a in x.items()},
                {f: a[n] for f, a in y.items()},
                {f: a[n].astype(np.float64) for f, a in drawn.items()},
                rings,
            )
            if factor is None:
                factor, stride = _fit(view, order, maps.npix, len(samples.views))
            about = {"view": int(row), "halo_id": int(catalog["halo_id"][row])}
            about |= {"axis": "xyz"[catalog["axis"][row] % 3], "sightline": int(catalog["sightline_index"][row])}
            about |= {name: float(catalog[name][row]) for name in ("mass_200m", "radius_200m", "width_mpc", "redshift")}
            for name, value in (about | view.numbers).items():
                columns.setdefault(name, []).append(value if value is None or isinstance(value, str | int) else float(value))
            pixel = about["width_mpc"] / maps.npix
            seen.append(
                {
                    "ranges": {f: _short(r) for f, r in view.ranges.items()},
                    "radius": _short(view.radius * pixel),
                    "profiles": {f: [_short(v) for v in p] for f, p in view.profiles.items()},
                }
            )
            pictures.append(view.picture(order, factor) if (len(pictures) % stride) == 0 else "")
    rank = np.argsort(samples.views)
    columns = {name: [values[i] for i in rank] for name, values in columns.items()}
    page = {
        "npix": maps.npix // factor,
        "factor": factor,
        "panels": order,
        "fraction": FRACTION,
        "pull": PULL,
        "names": {f: field_name(f) for f in (*inputs, *outputs)},
        "units": {f: _plain(FIELD_UNIT.get(f, maps.units[f])) for f in (*inputs, *outputs)},
        "maps": {f: FIELD_MAP.get(f, "viridis") for f in (*inputs, *outputs)} | {"": SIGNED_MAP},
        "colours": {name: _colours(name) for name in {*(FIELD_MAP.get(f, "viridis") for f in (*inputs, *outputs)), SIGNED_MAP}},
        "outputs": outputs,
        "views": [{**{k: _shorter(v[i]) for k, v in columns.items()}, **seen[j]} for i, j in enumerate(rank)],
    }
    return columns, page, [pictures[i] for i in rank]


def _fit(view: View, order: list, npix: int, count: int) -> tuple[int, int]:
    """By what factor maps are made coarser, and every how-manieth view is shown."""
    factors = [f for f in (1, 2, 4, 8) if npix % f == 0 and (f == 1 or npix // f >= SMALLEST)]
    for factor in factors:
        size = len(view.picture(order, factor))
        if size * count <= BUDGET:
            return factor, 1
    return factors[-1], -(-size * count // BUDGET)


def _colours(name: str) -> str:
    """256 colours of a map as base64 of their bytes RGBRGB..."""
    return base64.b64encode((plt.get_cmap(name)(np.arange(256), bytes=True)[:, :3]).tobytes()).decode()


def _plain(unit: str) -> str:
    """A unit of mathematical text in plain letters."""
    for tex, letters in ((r"\Sigma/\bar\Sigma", "Σ/Σ̄"), (r"\mu", "µ"), ("$^{-1}$", "⁻¹"), ("$^{-2}$", "⁻²"), ("$", "")):
        unit = unit.replace(tex, letters)
    return unit


def _shorter(value):
    """Four digits of a float."""
    return float(f"{value:.4g}") if isinstance(value, float) and np.isfinite(value) else None if isinstance(value, float) else value


def _short(values) -> list[float]:
    return [_shorter(float(v)) for v in values]
