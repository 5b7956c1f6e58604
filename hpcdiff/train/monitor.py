"""Where training says what it does: `stats.jsonl`, TensorBoard and a line on the console. Rank 0 alone writes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcdiff import files
from hpcdiff.errors import disk_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAGS = {
    "loss": "loss/train",
    "validation_loss": "loss/validation (EMA)",
    "maps_per_s": "speed/maps per s",
    "maps_per_s_per_gpu": "speed/maps per s per GPU",
    "tflops": "speed/model TFLOP per s",
    "mfu_percent": "speed/MFU (%)",
    "data_percent": "speed/waiting for data (%)",
    "memory_gb": "memory/GB",
    "memory_reserved_gb": "memory/reserved GB",
    "lr": "optimiser/learning rate",
    "gradient_norm": "optimiser/gradient norm",
    "ema": "optimiser/EMA decay",
    "updates": "steps/updates",
    "skipped": "steps/skipped",
    "skipped_in_a_row": "steps/skipped in a row",
    "checkpoint_s": "checkpoint/s",
}
"""TensorBoard's name, with its unit, of each number."""
CLOCKS_S = 5.0
"""Most seconds by which a restart waits for its clock to pass that of the node before."""


def noise_tags(edges: Sequence[float]) -> dict[str, str]:
    """Names of `loss_0`, `loss_1`, ... by the noise levels between which they lie (`meter.noise_edges`)."""
    return {f"loss_{k}": f"loss by noise/{low:.3g}-{high:.3g}" for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False))}


class Monitor:
    """Writes one line of numbers at a time; after a restart, what stands beyond the resumed point is dropped.

    Args:
        run_dir: the run's folder.
        images: images seen at the start.
        edges: noise levels between the bins of the loss, in transformed units; none: bins have no tags in TensorBoard.
    """

    def __init__(self, run_dir: Path, images: int, edges: Sequence[float] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "stats.jsonl"
        self._drop_after(images)
        self.tags = TAGS | noise_tags(edges)
        self.first = images + 1 if images else 0  # TensorBoard drops what its earlier files have from this step on
        _outlast(run_dir / "tensorboard")
        threading.excepthook = _excepthook
        self.board = SummaryWriter(run_dir / "tensorboard", purge_step=self.first, flush_secs=30)

    def _drop_after(self, images: int) -> None:
        if not self.path.exists():
            return
        kept, last = [], -1
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                number = json.loads(line)["images"]
                if last < number <= images:
                    kept.append(line + "\n")
                    last = number
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut short
        files.write_atomic(self.path, "".join(kept))

    def text(self, title: str, yaml: str) -> None:
        """A text in TensorBoard, such as the config, once a start."""
        self.board.add_text(title, "".join(f"    {line}\n" for line in yaml.splitlines()), self.first)
        self.board.flush()

    def write(self, images: int, numbers: dict[str, float]) -> None:
        """One line of `stats.jsonl`, safe on disk, and each number under its TensorBoard tag at step `images`.

        A number that is not finite is null in the file, which stays JSON, and left out of TensorBoard.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with open(self.path, "a") as f:
            f.write(json.dumps({"images": images, **finite}, allow_nan=False) + "\n")
            f.flush()
            os.fsync(f.fileno())
        for name, value in finite.items():
            if name in self.tags and value is not None:
                self.board.add_scalar(self.tags[name], value, images)
        self.board.flush()  # a kill then takes no step from TensorBoard that the file has

    def picture(self, images: int, figures: dict[str, Figure]) -> None:
        """Figures by their names, to TensorBoard at step `images`."""
        for name, figure in figures.items():
            self.board.add_figure(name, figure, images, close=False)
        self.board.flush()

    def close(self) -> None:
        """Flush TensorBoard's files."""
        with contextlib.suppress(OSError):  # a full disk at this point costs the last curve, not the training
            self.board.close()
        threading.excepthook = threading.__excepthook__


def _excepthook(args: threading.ExceptHookArgs) -> None:
    """What the disk does to TensorBoard's writing thread is raised again by `flush`: no traceback before it."""
    if disk_error(args.exc_value) is None:
        threading.__excepthook__(args)


def _outlast(folder: Path) -> None:
    """Wait until a new event file's name, which begins with the time in seconds, sorts behind those in `folder`: TensorBoard reads
    them in the order of their names, and drops what a later one begins anew. Clocks of two nodes may differ by a little."""
    parts = [p.name.split(".") for p in folder.glob("events.out.tfevents.*")]
    newest = max((int(p[3]) for p in parts if p[3].isdigit()), default=0)
    time.sleep(min(max(newest + 1 - time.time(), 0.0), CLOCKS_S))


def line(images: int, total: int, numbers: dict[str, float]) -> str:
    """One short line for the console, always in the same order; what was not measured is left out.

    Args:
        images, total: seen so far, and wanted.
        numbers: as in `stats.jsonl`.
    """
    shown = {k: v for k, v in numbers.items() if math.isfinite(v)}
    words = [f"image {images:,}/{total:,}"]
    for name, form in (
        ("loss", "loss {:.3g}"),
        ("validation_loss", "val {:.3g}"),
        ("maps_per_s", "{:,.0f} maps/s" if shown.get("maps_per_s", 0) >= 100 else "{:.3g} maps/s"),
        ("mfu_percent", "MFU {:.0f} %"),
        ("data_percent", "data {:.1f} %"),
        ("lr", "lr {:.2g}"),
    ):
        if name in shown:
            words.append(form.format(shown[name]))
    if numbers.get("skipped"):
        words.append(f"skipped {numbers['skipped']:.0f}")
    if shown.get("maps_per_s") and images < total:
        words.append(f"left {duration((total - images) / shown['maps_per_s'])}")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """As 45 s, 12 min, 3 h 05 min or 2 d 4 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
