"""What training says of itself: `stats.jsonl`, TensorBoard, one picture of samples. Rank 0 alone writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from hpcdiff import files

TAGS = {
    "loss": "loss/train",
    "validation_loss": "loss/validation (EMA)",
    "lr": "learning rate",
    "gradient_norm": "gradient norm",
    "maps_per_s": "speed/maps per s",
    "data_percent": "speed/making batches (%)",
    "checkpoint_s": "speed/checkpoint (s)",
    "skipped": "skipped steps",
}


class Monitor:
    """Writes one line of numbers at a time; after a restart, lines beyond the resumed point are dropped.

    Args:
        run_dir: the run's folder.
        images: images seen at the start.
    """

    def __init__(self, run_dir: Path, images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "stats.jsonl"
        self._drop_after(images)
        self.board = SummaryWriter(run_dir / "tensorboard", purge_step=images + 1 if images else 0, flush_secs=30)

    def _drop_after(self, images: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["images"] <= images:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut short
        files.write_atomic(self.path, "".join(kept))

    def write(self, images: int, numbers: dict[str, float]) -> None:
        """One line of `stats.jsonl`, and each number under its TensorBoard tag at step `images`."""
        with open(self.path, "a") as f:
            f.write(json.dumps({"images": images, **numbers}) + "\n")
            f.flush()
            os.fsync(f.fileno())
        for name, value in numbers.items():
            if name in TAGS:
                self.board.add_scalar(TAGS[name], value, images)

    def picture(self, images: int, rows: list[list[np.ndarray]], titles: list[str]) -> None:
        """A grid of maps, rows x columns of (npix, npix), each pair of truth and sample on the truth's colour scale."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2 * len(titles), 2.1 * len(rows)), dpi=80, layout="constrained")
        axes = figure.subplots(len(rows), len(titles), squeeze=False)
        for r, row in enumerate(rows):
            for c, image in enumerate(row):
                reference = row[c - 1] if titles[c].startswith("sample") else image
                axes[r, c].imshow(image.T, origin="lower", cmap="magma", vmin=reference.min(), vmax=reference.max())
                axes[r, c].set_axis_off()
                if r == 0:
                    axes[r, c].set_title(titles[c], fontsize=9)
        self.board.add_figure("validation views and samples", figure, images, close=False)

    def close(self) -> None:
        """Flush TensorBoard's files."""
        self.board.close()
