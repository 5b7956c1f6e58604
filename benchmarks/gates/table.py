"""The table of gates: what, the number, its error, its bounds, and whether it holds."""

from __future__ import annotations

import numpy as np

HEADER = ["measured", "±", "from", "to", "holds"]


class Table:
    """Rows that are filled one by one.

    Attributes:
        rows: of each gate its group, what it is, value (None: nothing could be measured, which never holds), error (None: not known), low, high, holds.
    """

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def gate(self, group: str, what: str, value: float, low: float, high: float, error: float | None = None) -> None:
        """Add a row."""
        value, error = (None if number is None or not np.isfinite(number) else float(f"{number:.4g}") for number in (value, error))
        holds = value is not None and bool(low <= value <= high)
        self.rows.append({"group": group, "what": what, "value": value, "error": error, "low": low, "high": high, "holds": holds})

    def median(self, group: str, what: str, values: np.ndarray, low: float, high: float) -> None:
        """Add a row for a median over halos; its error is that of normal scatter."""
        median, error = np.nan, None
        if len(values):
            median, error = np.median(values), 1.2533 * 0.5 * np.ptp(np.percentile(values, [16, 84])) / np.sqrt(len(values))
        self.gate(group, what, median, low, high, error)

    def mean(self, group: str, what: str, values: np.ndarray, low: float, high: float) -> None:
        """Add a row for a mean over two or more halos."""
        mean, error = (np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else (np.nan, None)
        self.gate(group, what, mean, low, high, error)


def failing(rows: list[dict]) -> list[str]:
    """The groups in which a gate does not hold, sorted."""
    return sorted({row["group"] for row in rows if not row["holds"]})


def cells(rows: list[dict]) -> list[list[str]]:
    """Each row as text."""
    return [
        [
            row["what"],
            "nothing" if row["value"] is None else f"{row['value']:.3g}",
            "" if row["error"] is None else f"{row['error']:.2g}",
            *(f"{row[k]:.3g}" for k in ("low", "high")),
            "yes" if row["holds"] else "NO",
        ]
        for row in rows
    ]


def markdown(content: dict) -> str:
    """The table of a JSON file as it stands in docs/simulation.md."""
    return lines(["gate", *HEADER], cells(content["gates"]))


def lines(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
