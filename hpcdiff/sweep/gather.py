"""One table of a sweep: each setting's mean over seeds, with the spread of seeds and the error of the test halos kept apart.

Two errors that mean two things, so both stand: `low` and `high` are the 95 % t interval over the members that differ in nothing but
`run.seed` (would another training give the same?); `halo_error` is the error of one member's mean by bootstrap over test halos, averaged
over members in quadrature (would other clusters?). All seeds see the same halos, so it does not fall with their number.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.stats import t as student

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.plain import read_json
from hpcdiff.sweep.members import labels, read_members, text_of
from hpcdiff.sweep.state import DONE, state

LEVEL = 0.95
SEED = "run.seed"
MOST = 1e100
"""Larger numbers are damage; their squares would overflow."""
TABLE1 = ("b_large", "b_small", "r_large", "r_small")


@dataclass
class Row:
    """One quantity of one field under one setting.

    Attributes:
        setting: {dotted key: value}, without the seed. field: output field, or "" for what has none. quantity: its name.
        members: how many have it. mean: over members. low, high: t interval, None for a single member. halo_error: see above, or None.
    """

    setting: dict[str, object]
    field: str
    quantity: str
    members: int
    mean: float
    low: float | None
    high: float | None
    halo_error: float | None


def numbers_of(folder: Path) -> dict[tuple[str, str], tuple[float, float | None]]:
    """{(field, quantity): (value, error by bootstrap over halos or None)} of one member; what it lacks is left out.

    Raises:
        UserError: its metrics are damaged.
    """
    found: dict[tuple[str, str], tuple[float | None, float | None]] = {("", "validation_loss"): (_validation_loss(folder), None)}
    path = folder / "metrics.json"
    try:
        found |= _numbers(read_json(path.read_text()))
        known = {key: (float(v), None if e is None else float(e)) for key, (v, e) in found.items() if v is not None and math.isfinite(v)}
        if any(abs(x) > MOST for pair in known.values() for x in pair if x is not None):
            raise ValueError("beyond all measure")
    except FileNotFoundError:
        return {key: (v, e) for key, (v, e) in found.items() if v is not None and math.isfinite(v)}
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise UserError("the metrics of a member are damaged", path, "evaluate it again with --overwrite") from None
    return known


def _numbers(metrics: dict) -> dict[tuple[str, str], tuple[float | None, float | None]]:
    """What `metrics.json` says of each field and quantity."""
    found: dict[tuple[str, str], tuple[float | None, float | None]] = {}

    def of(quantity: str) -> dict:
        return ((metrics.get(quantity) or {}).get("all")) or {}

    for field, entry in of("table1").items():
        for q in TABLE1:
            found[field, q] = _summary(entry.get(q))
    for quantity in ("total_mass_error", "squared_error"):
        for field, entry in of(quantity).items():
            found[field, quantity] = _summary(entry)
    for field, entry in of("squared_error").items():
        found[field, "relative_squared_error"] = _summary((entry or {}).get("relative"))
    for field, entry in of("calibration").items():
        for part, skill in (("total", "crps_skill_over_climatology"), ("pixel", "crps_skill_over_stacked_profile")):
            number = ((entry or {}).get(part) or {}).get(skill) or {}
            found[field, f"crps_skill_{part}"] = (number.get("value"), number.get("error"))
    return found


def _summary(entry: dict | None) -> tuple[float | None, float | None]:
    return ((entry or {}).get("mean"), (entry or {}).get("error_of_mean"))


def _validation_loss(folder: Path) -> float | None:
    """The last one in `stats.jsonl`."""
    try:
        lines = (folder / "stats.jsonl").read_text().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            value = json.loads(line).get("validation_loss")
        except (ValueError, AttributeError, RecursionError):  # a line that a kill cut short
            continue
        if isinstance(value, (int, float)) and not abs(value) > MOST:
            return float(value)
    return None


def combine(values: list[float], errors: list[float | None]) -> tuple[float, float | None, float | None, float | None]:
    """Mean, low and high of the t interval over members, and the root mean square of their own errors."""
    n, mean = len(values), math.fsum(values) / len(values)
    half = None
    if n > 1:
        variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
        half = float(student.ppf(0.5 + LEVEL / 2, n - 1)) * math.sqrt(variance / n)
    given = [e for e in errors if e is not None]
    halo = math.sqrt(math.fsum(e * e for e in given) / len(given)) if given else None
    return mean, None if half is None else mean - half, None if half is None else mean + half, halo


def gather(folder: Path) -> tuple[list[Row], list[tuple[str, str, str]], dict]:
    """(rows, members that are not done as (name, state, reason), content of members.json).

    Raises:
        UserError: no sweep is there.
    """
    content = read_members(folder)
    stages = content["sweep"]["stages"]
    groups: dict[str, tuple[dict, list[dict]]] = {}
    missing = []
    for member in content["members"]:
        word, reason = state(folder / member["name"], stages)
        if word != DONE:
            missing.append((member["name"], word, reason))
            continue
        setting = {k: v for k, v in member["settings"].items() if k != SEED}
        groups.setdefault(json.dumps(setting, sort_keys=True), (setting, []))[1].append(numbers_of(folder / member["name"]))
    rows = []
    for setting, members in groups.values():
        for field, quantity in dict.fromkeys(key for m in members for key in m):
            found = [m[field, quantity] for m in members if (field, quantity) in m]
            mean, low, high, halo = combine([v for v, _ in found], [e for _, e in found])
            rows.append(Row(setting, field, quantity, len(found), mean, low, high, halo))
    return rows, missing, content


def write_tables(folder: Path, rows: list[Row], missing: list[tuple[str, str, str]]) -> None:
    """`table.csv`, one line a number, and `table.json`."""
    keys = list(dict.fromkeys(k for row in rows for k in row.setting))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "field", "quantity", "members", "mean", "low", "high", "halo_error"])
    for r in rows:
        numbers = ["" if v is None else repr(v) for v in (r.mean, r.low, r.high, r.halo_error)]
        writer.writerow([*(text_of(r.setting[k]) for k in keys), r.field, r.quantity, r.members, *numbers])
    files.write_atomic(folder / "table.csv", text.getvalue())
    out = {"interval": f"{LEVEL:.0%} t interval over members", "rows": [asdict(r) for r in rows]}
    files.write_json(
        folder / "table.json", {**out, "missing": [{"name": name, "state": word, "reason": reason} for name, word, reason in missing]}
    )


def lines(rows: list[Row], missing: list[tuple[str, str, str]], total: int) -> list[str]:
    """The table for a terminal: a line for each setting and field, a column for each quantity."""
    out = [f"{total - len(missing)} of {total} members are done"]
    out += [f"  {name}: {word}{', ' * bool(reason)}{reason}" for name, word, reason in missing]
    if not rows:
        return out
    keys = list(rows[0].setting)
    words = labels(keys)
    for fields, title in ((False, "Of a run"), (True, "Of a field, over all test views")):
        chosen = [r for r in rows if bool(r.field) == fields]
        if not chosen:
            continue
        quantities = list(dict.fromkeys(r.quantity for r in chosen))
        table = [[*(words[k] for k in keys), *["field"] * fields, "n", *quantities]]
        groups: dict[str, list[Row]] = {}
        for r in chosen:
            groups.setdefault(json.dumps([r.setting, r.field], sort_keys=True), []).append(r)
        for group in groups.values():
            first, cells = group[0], {r.quantity: cell(r) for r in group}
            table.append([*(text_of(first.setting[k]) for k in keys), *[first.field] * fields, str(max(r.members for r in group))])
            table[-1] += [cells.get(q, "-") for q in quantities]
        width = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
        out += ["", title, *("  " + "  ".join(c.ljust(w) for c, w in zip(row, width, strict=True)).rstrip() for row in table)]
    out += ["", f"mean ± half of the {LEVEL:.0%} interval over seeds (n members) [± bootstrap error over test halos]"]
    if any(k.startswith(("task.", "diffusion.", "observe.")) for k in keys):
        out.append("validation losses compare only where task, diffusion and observe are alike: they are in transformed units")
    return out


def cell(row: Row) -> str:
    """0.951±0.012 [±0.010]."""
    spread = "" if row.low is None else f"±{(row.high - row.low) / 2:.2g}"
    return f"{row.mean:.4g}{spread}" + ("" if row.halo_error is None else f" [±{row.halo_error:.2g}]")
