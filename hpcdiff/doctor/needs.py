"""What a config needs of the disk, from what the stages' `--dry-run` prints."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hpcdiff.doctor import aside


def start(config: Path, overrides: list[str]) -> dict[str, subprocess.Popen]:
    """Begin the dry runs whose output tells bytes, each in a process; on one rank."""
    stages = ("simulate", "project", "train")
    return {stage: aside.start(["-m", f"hpcdiff.{stage}", str(config), *overrides, "--dry-run"]) for stage in stages}


def collect(processes: dict[str, subprocess.Popen], until: float) -> dict:
    """{"gb": in all, "files": about, "lines": what was said, "failed": [stage: why]}; gb is None where no size is known yet."""
    said = aside.collect(processes, until)
    failed = [f"{stage}: {error}" for stage, (_, error) in said.items() if error]
    return {**read({stage: out for stage, (out, _) in said.items()}), "failed": failed}


def read(plans: dict[str, str]) -> dict:
    """Bytes and files out of the plans of `simulate`, `project` and `train`."""
    parts, lines, files = [], [], 100
    own = not re.search(r"^#   snapshot: ", plans.get("project", ""), re.M)  # the snapshot is not there yet, so it is still to be made
    if own and (m := re.search(r"(\d+) chunk files, ([\d.e+]+) GB", plans.get("simulate", ""))):
        parts.append(float(m[2]))
        files += int(m[1])
        lines.append(f"snapshot {float(m[2]):.3g} GB in {m[1]} files")
    clusters = re.search(r"#   (\d+) clusters", plans.get("simulate", ""))
    if m := re.search(r"maps\.h5: .*?([\d.]+) MiB( a halo)?", plans.get("project", "")):
        each = not m[2]
        size = float(m[1]) * 2**20 / 1e9 * (1 if each else int(clusters[1]) if clusters else 0)
        if size:
            parts.append(size)
        lines.append(f"maps.h5 {size:.3g} GB" if size else f"maps.h5 {m[1]} MiB a halo, as many as the catalogue will have")
    if m := re.search(r"a checkpoint has ([\d.]+) MB, (\d+) are kept", plans.get("train", "")):
        size = float(m[1]) / 1e3 * (int(m[2]) + 1)
        parts.append(size)
        lines.append(f"checkpoints {size:.3g} GB ({m[2]} kept, one under way)")
    return {"gb": sum(parts) if parts else None, "files": files, "lines": lines}
