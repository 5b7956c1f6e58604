"""Columns of text catalogues whose first comment line names them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError

IDS = {"id", "pid", "hosthalo"}
"""Columns of whole numbers that may need all 64 bits."""


def header_lines(path: Path) -> list[str]:
    """The comment lines at the top of a file, without their `#`; none if it is not a text.

    Raises:
        UserError: the file is not there.
    """
    lines = []
    try:
        with open(path, encoding="utf-8") as f:
            for line in f:
                if not line.startswith("#"):
                    break
                lines.append(line[1:].strip())
    except FileNotFoundError:
        raise UserError("the halo catalogue is not there", path, "run simulate, or set project.halos") from None
    except UnicodeDecodeError:
        return []
    return lines


def column_names(header: str) -> list[str]:
    """Names in small letters, without the numbers that AHF and consistent-trees put behind them: `Mvir(4)` is mvir."""
    return [re.sub(r"\(\d+\)$", "", name).casefold() for name in header.split()]


def read_columns(path: Path, names: list[str], wanted: list[str]) -> dict[str, np.ndarray]:
    """The wanted columns, float64 (n,) or, for ids, int64 or uint64.

    Raises:
        UserError: a row is cut short, or has text where a number should be.
    """
    kinds = [(name, "u8" if name in IDS else "f8") for name in wanted]
    columns = [names.index(name) for name in wanted]
    converters = {names.index(name): _whole for name in wanted if name in IDS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a table without rows, which the caller refuses
            table = np.loadtxt(path, dtype=kinds, usecols=columns, converters=converters, ndmin=1, encoding="utf-8")
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise UserError(f"the halo catalogue has a row that cannot be read ({_brief(error)})", path, "mend it, or make it again") from None
    out = {name: np.ascontiguousarray(table[name]) for name in wanted}
    return {name: column.view(np.int64) if name in IDS else column for name, column in out.items()}


def _whole(text: str) -> int:
    """A whole number modulo 2^64, so that -1 and AHF's unsigned ids both keep all bits."""
    try:
        return int(text) & (2**64 - 1)
    except ValueError:
        return int(float(text)) & (2**64 - 1)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 120 else text[:117] + "..."


def number_after(lines: list[str], pattern: str) -> float | None:
    """The number that the first line with `pattern` has behind it; None if there is none."""
    for line in lines:
        if match := re.search(pattern + r"\s*([-+0-9.eE]+)", line):
            return float(match[1])
    return None
