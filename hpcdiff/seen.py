"""What the training maps of an input were like, in a few numbers, and which maps are unlike them.

A network answers whatever it is shown; these numbers are no test of its answer, only of whether the question is of the kind that it has
learned. Each is robust enough that a cluster like the training ones passes, and each has a mistake that it is there to find: a wrong
unit (`total`, `peak`, `centre`), a wrong scale or centre (`concentration`, `offset`), noise or a beam other than the training's (`noise`,
`negative`), a background that was not taken off (`edge`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hpcdiff.maps.layout import UNITS

MARGIN = 0.2
"""By how much of itself a bound is moved outwards, so that a cluster a little beyond the last training one still counts as familiar."""
FLOOR = {"concentration": 0.02, "offset": 1.0, "negative": 0.01}
"""The same in absolute terms, where a bound may be 0."""
FAINT = 0.01
"""`edge` and `noise` move by this part of the faintest training cluster's `centre` at least: what is so far below any signal does no harm."""
SAID = {
    "total": "sum over the pixels",
    "peak": "highest pixel",
    "centre": "mean within a quarter of the half-width of the centre",
    "edge": "median of the outermost pixels",
    "concentration": "part of the signal within a quarter of the half-width of the centre",
    "offset": "distance of the peak from the centre",
    "noise": "noise from pixel to pixel",
    "negative": "fraction of pixels below 0",
}
"""What each quantity is, in words."""
PLAIN = {"concentration": "", "offset": "pixels", "negative": ""}
"""Units of those that are not in the map's own."""


def describe(maps: np.ndarray) -> dict[str, np.ndarray]:
    """A few numbers of each map that say what it is like.

    Args:
        maps: (n, npix, npix), in the field's units; finite.
    Returns:
        {quantity: float64 (n,)}, the keys of `SAID`; `concentration` is 0 where the map's sum is not above 0. `offset` is that of the
        peak after a mean over 3 x 3 pixels; `noise` the scale of second differences in both directions, 1.4826 median |d| / 6, which is
        the standard deviation for white noise and sees nothing of a smooth map (Immerkaer 1996, CVIU 64, 300).
    """
    x = np.asarray(maps, np.float64)
    n, npix = x.shape[0], x.shape[-1]
    i = np.arange(npix) - (npix - 1) / 2
    radius = np.hypot(i[:, None], i[None, :])
    inner = radius < max(npix / 8, 1.0)
    rim = np.ones((npix, npix), bool)
    rim[1:-1, 1:-1] = False
    total, centre = x.sum((1, 2)), x[:, inner]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth = sum(padded[:, a : a + npix, b : b + npix] for a in range(3) for b in range(3))
    return {
        "total": total,
        "peak": x.max((1, 2)),
        "centre": centre.mean(1),
        "edge": np.median(x[:, rim], axis=1),
        "concentration": np.divide(centre.sum(1), total, out=np.zeros(n), where=total > 0),
        "offset": radius.ravel()[smooth.reshape(n, -1).argmax(1)] if n else np.zeros(0),
        "noise": 1.4826 / 6 * np.median(np.abs(np.diff(np.diff(x, n=2, axis=1), n=2, axis=2)).reshape(n, -1), axis=1),
        "negative": (x < 0).mean((1, 2)),
    }


def bounds(descriptions: Iterable[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """The range of each quantity over training maps, moved outwards by `MARGIN` of each bound, or by `FLOOR` or `FAINT` if more.

    Args:
        descriptions: results of `describe`, at least one and none of them empty.
    Returns:
        {quantity: [low, high]}, ready for JSON.
    """
    whole = list(descriptions)
    faint = FAINT * max(min(float(d["centre"].min()) for d in whole), 0.0)
    floor = FLOOR | {"edge": faint, "noise": faint}
    out = {}
    for name in SAID:
        low, high = min(float(d[name].min()) for d in whole), max(float(d[name].max()) for d in whole)
        least = floor.get(name, 0.0)
        out[name] = [low - max(MARGIN * abs(low), least), high + max(MARGIN * abs(high), least)]
        if name in ("offset", "noise", "negative"):  # never below 0
            out[name][0] = max(out[name][0], 0.0)
    return out


def unlike(inputs: dict[str, np.ndarray], seen: dict[str, dict[str, list[float]]]) -> list[str]:
    """What about these maps lies outside the range of the training maps.

    Args:
        inputs: {field: (n, npix, npix)} in the map file's units.
        seen: {field: result of `bounds`}; fields and quantities that it lacks are not judged.
    Returns:
        One plain line for each field and quantity outside: the field, the quantity, its value that is farthest out, the training
        range; [] = nothing is.
    """
    lines = []
    for field, maps in inputs.items():
        for name, values in describe(maps).items() if field in seen else ():
            low, high = seen[field].get(name, (-np.inf, np.inf))
            out = np.maximum(low - values, values - high)
            if not (out > 0).any():
                continue
            worst, bad = float(values[out.argmax()]), int((out > 0).sum())
            unit = PLAIN.get(name, UNITS.get(field, ""))
            unit = "" if unit in ("", "dimensionless") else f" {unit}"
            many = f", in {bad} of {len(values)} maps" if len(values) > 1 else ""
            side = "below" if worst < low else "above"
            lines.append(
                f"{field}: {name} ({SAID[name]}) {worst:.4g}{unit} is {side} the training range, {low:.4g} to {high:.4g}{unit}{many}"
            )
    return lines
