"""The table of gates: what, the number, its error, its bounds, and whether it holds."""

from __future__ import annotations

import numpy as np

HEADER = ["measured", "±", "from", "to", "holds"]


class Table:
    """Rows that are filled one by one.

    Attributes:
        rows: of each gate its group, what it is, value, error (None: not known), low, high, holds.
    """

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def gate(self, group: str, what: str, value: float, low: float, high: float, error: float | None = None) -> None:
        """Add a row."""
        value, error = (None if number is None else float(f"{number:.4g}") for number in (value, error))
        self.rows.append(
            {"group": group, "what": what, "value": value, "error": error, "low": low, "high": high, "holds": bool(low <= value <= high)}
        )

    def median(self, group: str, what: str, values: np.ndarray, low: float, high: float) -> None:
        """Add a row for a median over halos, if there are any; its error is that of normal scatter."""
        if len(values):
            scatter = 0.5 * np.ptp(np.percentile(values, [16, 84]))
            self.gate(group, what, np.median(values), low, high, 1.2533 * scatter / np.sqrt(len(values)))

    def mean(self, group: str, what: str, values: np.ndarray, low: float, high: float) -> None:
        """Add a row for a mean over halos, if there are two or more."""
        if len(values) > 1:
            self.gate(group, what, np.mean(values), low, high, np.std(values, ddof=1) / np.sqrt(len(values)))


def failing(rows: list[dict]) -> list[str]:
    """The groups in which a gate does not hold, sorted."""
    return sorted({row["group"] for row in rows if not row["holds"]})


def cells(rows: list[dict]) -> list[list[str]]:
    """Each row as text."""
    return [
        [
            row["what"],
            f"{row['value']:.3g}",
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
