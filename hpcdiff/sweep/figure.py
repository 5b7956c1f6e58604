"""The figure of a sweep: each quantity against what is varied."""

from __future__ import annotations

import json
from pathlib import Path

from hpcdiff.sweep.gather import Row
from hpcdiff.sweep.members import labels, text_of


def axis_key(rows: list[Row]) -> str | None:
    """The key along the abscissa: the varied number with most values; None = the settings side by side."""
    best, most = None, 1
    for key in rows[0].setting:
        values = [r.setting[key] for r in rows]
        if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values) and len(set(values)) > most:
            best, most = key, len(set(values))
    return best


def draw(path: Path, rows: list[Row]) -> None:
    """A panel for each quantity; bars are the 95 % interval over seeds, or the bootstrap error where there is one seed (hollow)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    quantities, key = list(dict.fromkeys(r.quantity for r in rows)), axis_key(rows)
    settings = list(dict.fromkeys(json.dumps(r.setting, sort_keys=True) for r in rows))
    words = labels(list(rows[0].setting))
    across = min(3, len(quantities))
    down = -(-len(quantities) // across)
    figure, panels = plt.subplots(down, across, figsize=(4.6 * across, 3.0 * down), squeeze=False, layout="constrained")
    for panel, quantity in zip(panels.flat, quantities, strict=False):
        lines: dict[str, list[Row]] = {}
        for r in rows:
            if r.quantity == quantity:
                rest = [f"{words[k]} {text_of(v)}" for k, v in r.setting.items() if k != key] if key else []
                lines.setdefault(", ".join([*[r.field] * bool(r.field), *rest]), []).append(r)
        for n, (label, ours) in enumerate(lines.items()):
            if key:
                ours = sorted(ours, key=lambda r: r.setting[key])
                x = [r.setting[key] for r in ours]
            else:  # side by side, a little apart
                x = [settings.index(json.dumps(r.setting, sort_keys=True)) + 0.12 * (n - (len(lines) - 1) / 2) for r in ours]
            half = [(r.high - r.low) / 2 if r.low is not None else r.halo_error or 0.0 for r in ours]
            style, colour = "o-" if key else "o", f"C{n % 10}"
            panel.errorbar(x, [r.mean for r in ours], half, fmt=style, color=colour, ms=4, lw=1, capsize=3, label=label or None)
            alone = [(at, r.mean) for at, r in zip(x, ours, strict=True) if r.low is None]
            if alone:
                panel.plot(*zip(*alone, strict=True), "o", color=colour, mfc="white", ms=4)
        panel.set_title(quantity, fontsize=9)
        if key:
            values = sorted({r.setting[key] for r in rows})
            panel.set(xlabel=key, xscale="log" if values[0] > 0 and values[-1] > 8 * values[0] else "linear")
            panel.set_xticks(values, [text_of(v) for v in values])
            panel.minorticks_off()
        else:
            names = ["\n".join(text_of(v) for v in json.loads(s).values()) or "all" for s in settings]
            panel.set_xticks(range(len(settings)), names, fontsize=7, rotation=90 if len(settings) > 6 else 0)
            panel.set_xlim(-0.6, len(settings) - 0.4)
        if any(lines):
            panel.legend(fontsize=6)
    for panel in list(panels.flat)[len(quantities) :]:
        panel.remove()
    figure.savefig(path, dpi=120)
    plt.close(figure)
