"""Figures as files: PNG to look at, PDF for print, CSV with the numbers behind each."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG

from hpcdiff.evaluate.look import Figure, plt


class Sheet:
    """The numbers behind a figure, a row each: `columns` name them."""

    def __init__(self, *columns: str) -> None:
        self.columns, self.rows = columns, []

    def add(self, *values: object) -> None:
        """One row; None is an empty cell."""
        assert len(values) == len(self.columns), (values, self.columns)
        self.rows.append(values)

    def curve(self, labels: tuple, *columns) -> None:
        """One row for each entry of `columns`, sequences of one length; `labels` stand before each."""
        for values in zip(*columns, strict=True):
            self.add(*labels, *(v.item() if hasattr(v, "item") else v for v in values))

    def text(self) -> str:
        """As CSV; numbers keep all their digits."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()


class Drawn(NamedTuple):
    """A figure, its numbers, and whether it is drawn with lines (which a page shows as SVG) or holds maps."""

    figure: Figure
    sheet: Sheet
    lines: bool = True


def save(folder: Path, name: str, drawn: Drawn) -> str:
    """Write `<name>.png`, `.pdf` and `.csv` into `folder` and close the figure; returns the picture for a page as a data URI.

    No version and no date are stored: the same metrics give the same files.
    """
    figure = drawn.figure
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    # the backends' own calls: savefig would draw each figure twice
    FigureCanvasAgg(figure).print_png(folder / f"{name}.png", metadata={"Software": None})
    FigureCanvasPdf(figure).print_pdf(folder / f"{name}.pdf", metadata={"Creator": None, "Producer": None, "CreationDate": None})
    (folder / f"{name}.csv").write_text(drawn.sheet.text())
    if drawn.lines:
        out = io.BytesIO()
        for part in (figure, *figure.axes):
            part.patch.set_alpha(0.0)  # on a dark page too
        FigureCanvasSVG(figure).print_svg(out, metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
        uri = f"data:image/svg+xml;base64,{base64.b64encode(out.getvalue()).decode()}"
    else:
        uri = f"data:image/png;base64,{base64.b64encode((folder / f'{name}.png').read_bytes()).decode()}"
    plt.close(figure)
    return uri
