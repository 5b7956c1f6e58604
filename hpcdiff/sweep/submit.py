"""A sweep as one Slurm array: the members that are neither finished nor in the queue already."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.spans import spans
from hpcdiff.sweep.members import Member
from hpcdiff.sweep.spec import Sweep
from hpcdiff.sweep.state import forget_lost

SCRIPT = Path("jobs/sweep.sbatch")


def _call(*words: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise UserError(f"no {words[0]}", "PATH", "run this where Slurm is, or with --local N") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{words[0]} did not answer within 120 s", "Slurm", "try again later") from None


def queued(folder: Path) -> set[int]:
    """Members that Slurm still holds, waiting or running, of the arrays submitted before and of the links that their tasks chained."""
    path, links, found = folder / "submitted.json", folder / "chained", set()
    jobs = json.loads(path.read_text())["jobs"] if path.exists() else []
    for job in [*jobs, *(links.read_text().split() if links.exists() else [])]:
        done = _call("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%K")  # fails for a job that Slurm has forgotten
        found |= {int(word) for word in done.stdout.split() if word.isdigit()} if done.returncode == 0 else set()
    return found


def submit(sweep: Sweep, members: list[Member]) -> str:
    """Submit these members as one array; returns one line about it.

    Raises:
        UserError: no Slurm here, or it refuses.
    """
    if not SCRIPT.exists():
        raise UserError(f"{SCRIPT} is not there", Path.cwd(), "run this in hpcdiff's own folder, as the other jobs")
    waiting = queued(sweep.folder)
    ours = [m for m in members if m.number not in waiting]
    if not ours:
        return f"{len(members)} members are in the queue already"
    for m in ours:
        forget_lost(m.folder, sweep.stages)
    array = spans(m.number for m in ours) + (f"%{sweep.throttle}" if sweep.throttle else "")
    done = _call("sbatch", "--parsable", f"--array={array}", *sweep.sbatch, str(SCRIPT), str(sweep.folder), *sweep.stages)
    job = done.stdout.strip().partition(";")[0]  # JOB;CLUSTER where there are several
    if done.returncode or not job:
        said = (done.stderr.strip() or "no job number came back").splitlines()[-1]
        raise UserError(f"sbatch refused ({said})", sweep.where, "look to sbatch: in it, and to your site's limits")
    path = sweep.folder / "submitted.json"
    before = json.loads(path.read_text())["jobs"] if path.exists() else []
    files.write_json(path, {"jobs": [*before, job]})
    more = f"; {len(members) - len(ours)} are in the queue already" if len(ours) < len(members) else ""
    return f"job {job}: {len(ours)} members, --array={array}{more}"
