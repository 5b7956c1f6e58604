"""Writes lines as training does, and dies as a node does: `monitor_dies.py FOLDER RESUMED LAST VALUE`; run by test_monitor.py."""

import os
import signal
import sys
from pathlib import Path

from hpcdiff.train.monitor import Monitor

EDGES = [0.001, 0.01, 0.1, 1.0]


def write(monitor: Monitor, first: int, last: int, value: float) -> None:
    """A line each 10 images; `value` tells the processes apart."""
    for images in range(first, last + 1, 10):
        monitor.write(images, {"loss": value + images, "loss_1": value, "maps_per_s": value})


if __name__ == "__main__":
    folder, resumed, last, value = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    monitor = Monitor(folder, resumed, EDGES)
    monitor.text("config", f"run: {{seed: {value:g}}}\n")
    write(monitor, resumed + 10, last, value)
    os.kill(os.getpid(), signal.SIGKILL)
