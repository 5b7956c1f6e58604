"""Runs of a stage with one fault: where it strikes is set by a count of its calls on files, so that a case can be had again.

`Harness.run` is one run on 1 or 2 ranks; `fault_trial.strike` makes a whole case of it: a run with a fault, and a rerun without.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import LAUNCHERS, ROOT, descendants, environment, ranks_among

HERE = Path(__file__).resolve().parent
STAGES = ("simulate", "project", "train", "sample", "evaluate")
CONFIG = """
run: {dir: "${RUN}"}
simulate: {clusters: 8, mass_range: [2.0e14, 1.0e15], cell: 32.0, particle_mass: 1.6e12}
project: {npix: 16, split: {train: 0.6, val: 0.2, test: 0.2, seed: 1}}
network: {channels: 8, multipliers: [1, 2], blocks: 1}
diffusion: {precondition: edm}
task: {transform: asinh}
train: {batch_size: 6, images: 48, precision: fp32, checkpoint_every: 12, keep: 2, log_every: 12, first_timeout: 60, timeout: 60}
sample: {steps: 4, samples: 6, batch_size: 6}
"""
LIMIT = 300.0
"""Seconds that any run may take, on a busy machine."""
OWN = {
    "simulate": ["halos.hdf5", "snapshot", "simulate.partial"],
    "project": ["maps.h5", "maps.h5.partial", "maps.h5.partial.tmp"],
    "train": ["checkpoints", "tensorboard", "stats.jsonl", "model", "model.partial"],
    "sample": ["samples.h5", "samples.h5.partial", "samples.partial", "samples.shards"],
    "evaluate": ["metrics.json", "evaluate.sha256", "report.html", "figures", "figures.partial"],
}
"""What each stage writes."""
READ = {
    "simulate": [],
    "project": ["halos.hdf5", "snapshot"],
    "train": ["maps.h5"],
    "sample": ["maps.h5", "model"],
    "evaluate": ["maps.h5", "samples.h5", "samples.shards", "stats.jsonl", "model"],
}
"""What each stage reads of the others'."""


def build_shim(folder: Path) -> Path | None:
    """The LD_PRELOAD shim, compiled; None without gcc."""
    if shutil.which("gcc") is None:
        return None
    target = folder / "fault_shim.so"
    words = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-o", target, HERE / "fault_shim.c", "-ldl"]
    return target if subprocess.run(words, capture_output=True).returncode == 0 else None


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        status: of each rank (forked), or of the launcher; negative: by a signal. out: what all said. hung: did the limit end it?
        seconds: wall time. left: processes that outlived it. launched: is it the status of mpirun or torchrun?
    """

    status: list[int]
    out: str
    hung: bool
    seconds: float
    left: list[int] = field(default_factory=list)
    launched: bool = False

    @property
    def errors(self) -> list[str]:
        """The lines that say a user's error."""
        return [line for line in self.out.replace("\r", "\n").splitlines() if line.startswith("hpcdiff ") and ": error: " in line]


class Harness:
    """A shim, a nursery, and an undisturbed run of all stages, whose files are copied for each case.

    Args:
        folder: scratch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shim = build_shim(self.folder)
        self.base = self.folder / "base"
        self.config = self.folder / "c.yaml"
        self.config.write_text(CONFIG)
        env = environment(RUN="unset", MPLBACKEND="Agg", GIT_CEILING_DIRECTORIES="/", **self.preload())
        path = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
        self.nursery = subprocess.Popen(
            [sys.executable, str(HERE / "fault_nursery.py")], cwd=ROOT, env={**env, "PYTHONPATH": path}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        assert json.loads(self.nursery.stdout.readline()) == "ready"
        self.pids: list[int] = []

    def close(self) -> None:
        """End the nursery."""
        self.nursery.stdin.close()
        self.nursery.wait(20)

    def preload(self) -> dict[str, str]:
        """The shim, if there is one; what is loaded already comes behind it."""
        before = os.environ.get("LD_PRELOAD", "")
        return {"LD_PRELOAD": f"{self.shim} {before}".strip()} if self.shim else {}

    def make_base(self) -> None:
        """Run all stages once, undisturbed; `base/1` and, for training alone, `base/2` hold what one and two ranks give."""
        for ranks in (1, 2):
            case = self.base / str(ranks)
            if (case / "metrics.json").exists():
                continue
            shutil.rmtree(case, ignore_errors=True)
            case.mkdir(parents=True)
            calls = {}
            for stage in STAGES:
                counter = self.folder / "count"
                counter.unlink(missing_ok=True)
                fault = {"FAULT_COUNT": str(counter)} if self.shim else None
                ended = self.run(stage, case, ranks if stage == "train" else 1, fault=fault)
                assert set(ended.status) == {0}, f"{stage}\n{ended.out[-3000:]}"
                calls[stage] = np.fromfile(counter, np.int64).tolist() if self.shim else [1, 1, 1]
            (case / "calls.json").write_text(json.dumps(calls))

    def calls(self, stage: str, ranks: int) -> list[int]:
        """Reads, writes and other calls on files of an undisturbed run, of all ranks."""
        return json.loads((self.base / str(ranks) / "calls.json").read_text())[stage]

    def case(self, stage: str, ranks: int, where: Path | None = None) -> Path:
        """A folder with what `stage` reads."""
        target = where or Path(tempfile.mkdtemp(prefix=f"{stage}.", dir=self.folder))
        base = self.base / str(ranks)
        for name in READ[stage]:
            (shutil.copytree if (base / name).is_dir() else shutil.copy2)(base / name, target / name)
        return target

    def run(
        self,
        stage: str,
        case: Path,
        ranks: int = 1,
        *words: str,
        config: Path | None = None,
        fault: dict[str, str] | None = None,
        launcher: str = "fork",
        limit: float = LIMIT,
        at: tuple[float, int, str] | None = None,
        pictures: bool = False,
    ) -> Ended:
        """One run of a stage below `case`.

        Args:
            fault: the shim's variables, beside FAULT_DIR.
            launcher: "fork" (of the nursery; two ranks as plain srun starts them), or "launcher" (mpirun, torchrun, a new interpreter).
            at: (seconds from the start, signal, "one" or "all" of the ranks).
        """
        fault = {"FAULT_DIR": str(case), **(fault or {})} if self.shim else {}
        argv = [str(config or self.config), *words]
        began = time.monotonic()
        if launcher == "fork" and (ranks == 1 or stage in ("train", "sample", "evaluate")):
            ended = self._forked(stage, argv, case, ranks, fault, limit, at, pictures)
        else:
            ended = self._launched(stage, argv, case, ranks, fault, limit, at)
        ended.seconds = time.monotonic() - began
        return ended

    def _forked(self, stage, argv, case, ranks, fault, limit, at, pictures) -> Ended:
        outs = [case / f".out{rank}" for rank in range(ranks)]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        each = []
        for rank in range(ranks):
            world = {"WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            env = {k: str(v) for k, v in (world if ranks > 1 else {}).items()}
            each.append({"env": {**env, **fault, "RUN": str(case)}, "out": str(outs[rank])})
        self._tell({"stage": stage, "argv": argv, "limit": limit, "pictures": pictures, "ranks": each})
        self.pids = json.loads(self.nursery.stdout.readline())
        if at is not None:
            time.sleep(at[0])
            for pid in self.pids[-1:] if at[2] == "one" else self.pids:
                with contextlib.suppress(ProcessLookupError):  # a zombie until the nursery has looked: nobody else has its number
                    os.kill(pid, at[1])
        ended = json.loads(self.nursery.stdout.readline())
        left = _outlived(lambda: [p for pid in self.pids for p in _session(pid)])
        return Ended(ended["status"], "".join(o.read_text(errors="replace") for o in outs if o.exists()), bool(ended["hung"]), 0.0, left)

    def _tell(self, job: dict) -> None:
        self.nursery.stdin.write(json.dumps(job) + "\n")
        self.nursery.stdin.flush()

    def _launched(self, stage, argv, case, ranks, fault, limit, at) -> Ended:
        kind = "alone" if ranks == 1 else "mpirun" if stage in ("simulate", "project") else "torchrun"
        command = [*LAUNCHERS[kind](ranks), "-m", f"hpcdiff.{stage}", *argv]
        env = environment(RUN=str(case), MPLBACKEND="Agg", **self.preload(), **fault)
        out = case / ".out"
        with open(out, "w") as f:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=f, stderr=f, start_new_session=True)
        family, end, hung = {process.pid}, time.monotonic() + limit, False
        strike = None if at is None else time.monotonic() + at[0]
        while process.poll() is None:
            family.update(descendants(process.pid))
            if strike is not None and time.monotonic() > strike:
                strike = None
                for pid in ranks_among(family, stage)[: 1 if at[2] == "one" else None] or [process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, at[1])
            if time.monotonic() > end:
                hung = True
                _end(family)
            time.sleep(0.02)
        left = _outlived(lambda: [pid for pid in family if _alive(pid)])
        return Ended([process.returncode], out.read_text(errors="replace"), hung, 0.0, left, kind != "alone")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _outlived(living: Callable[[], list[int]]) -> list[int]:
    """Those that don't end by themselves within 10 s; they are ended here."""
    wait_until = time.monotonic() + 10.0
    while (left := living()) and time.monotonic() < wait_until:
        time.sleep(0.05)
    _end(set(left))
    return left


def _session(leader: int) -> list[int]:
    """Living processes of the session that a rank led."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(words[3]) == leader and words[0] != "Z":
                    found.append(int(entry.name))
    return found
