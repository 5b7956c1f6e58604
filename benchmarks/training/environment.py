"""score_models in a folder of its own, beside the project's environment and not in it; and what a side's process finds about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERSION = "0.5.11"
PACKAGES = (f"score_models=={VERSION}", "torch_ema==0.3")
"""The version that the paper used, and the one package of those it needs that the project has not."""
DROPPED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD", "MASTER_", "TORCHELASTIC", "SLURM", "OMP", "MKL", "PYTHONPATH")


def install(cache: Path) -> Path:
    """Install score_models below `cache` unless it is there; returns the folder, for PYTHONPATH.

    Its other dependencies (torch, numpy, scipy, h5py, tqdm) are those of the project's environment: both sides run the same torch.
    """
    folder = cache / f"score_models-{VERSION}"
    if not (folder / f"score_models-{VERSION}.dist-info").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *PACKAGES], check=True)
    return folder


def for_process(threads: int, device: str, *folders: Path) -> dict[str, str]:
    """The environment of a process: so many threads, these folders importable, no GPU for `cpu`, what a launcher has set taken away."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
    kept |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(map(str, folders))}
    return kept | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
