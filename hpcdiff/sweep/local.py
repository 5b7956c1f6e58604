"""A sweep on this machine: some members at a time, each stage a process of its own, with its output in the member's folder."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from hpcdiff import files
from hpcdiff.errors import Busy, Stopped
from hpcdiff.guards import without_launcher
from hpcdiff.lock import Lock
from hpcdiff.stop import StopSign
from hpcdiff.sweep.members import Member
from hpcdiff.sweep.spec import Sweep
from hpcdiff.sweep.state import DONE, FAILED, state

KEPT = ("SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME")
"""Of the launcher's variables a stage needs the job's times: it saves before the end."""


def stage_environment(gpu: str | None) -> dict[str, str]:
    """The environment of a stage that runs alone, on this GPU if one is named."""
    kept = without_launcher(os.environ) | {k: os.environ[k] for k in KEPT if k in os.environ}
    return kept if gpu is None else {**kept, "CUDA_VISIBLE_DEVICES": gpu}


def graphics() -> list[str]:
    """Names of the GPUs that may be used; [] if there are none."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(n) for n, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")] if done.returncode == 0 else []


class Crew:
    """Runs members, at most `places` at a time; with GPUs each place keeps to one of them."""

    def __init__(self, sweep: Sweep, places: int) -> None:
        self.sweep, self.places = sweep, places
        self.stopping, self.sign = threading.Event(), StopSign()
        self.running: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        gpus, self.free = graphics(), queue.SimpleQueue()
        for place in range(places):
            self.free.put(gpus[place % len(gpus)] if gpus else None)

    def stop(self, *_: object) -> None:
        """Ask every stage to save and leave; no other begins."""
        with self.lock:
            self.stopping.set()
            for process in list(self.running):
                process.send_signal(signal.SIGTERM)

    def _stage(self, member: Member, stage: str, gpu: str | None) -> int:
        words = [sys.executable, "-m", f"hpcdiff.{stage}", str(member.folder / "config.yaml")]
        with open(member.folder / "output.log", "a") as log:
            with self.lock:  # a stop either prevents this process or sees it
                if self.stopping.is_set():
                    return 75
                # a group of its own: Ctrl-C reaches it through us, once
                process = subprocess.Popen(words, env=stage_environment(gpu), stdout=log, stderr=log, start_new_session=True)
                self.running.add(process)
            try:
                return process.wait()
            finally:
                self.running.discard(process)

    def member(self, member: Member) -> None:
        """All stages of one member, up to the first that does not end with 0."""
        gpu = self.free.get()
        try:
            for stage in self.sweep.stages:
                if self.stopping.is_set() or self.sign.look(main=True):
                    return
                print(f"{member.name}: {stage}", flush=True)
                code = self._stage(member, stage, gpu)
                if code < 0 or (code and not (member.folder / f"{stage}.status.json").exists()):
                    how = f"ended by signal {-code}" if code < 0 else f"ended with {code}"
                    files.write_json(member.folder / f"{stage}.status.json", {"exit": 1, "reason": f"{how}, see output.log"})
                if code:
                    break
        finally:
            self.free.put(gpu)
        word, reason = state(member.folder, self.sweep.stages)
        print(f"{member.name}: {word}{', ' * bool(reason)}{reason}", flush=True)


def run_here(sweep: Sweep, members: list[Member], places: int) -> None:
    """Run what is not finished of these members, `places` at a time.

    Raises:
        Busy: another process runs this sweep. Stopped: a signal, a file `stop` or the end of the Slurm job came; every stage has saved.
    """
    lock = Lock(sweep.folder / ".sweep.lock")
    if not lock.acquire():
        raise Busy(f"another process runs this sweep ({lock.holder()})", sweep.folder, "wait for it or end it")
    crew = Crew(sweep, places)
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda *_: threading.Thread(target=crew.stop).start()) for number in wanted}
    try:
        with ThreadPoolExecutor(places) as pool:
            for done in [pool.submit(crew.member, m) for m in members]:
                done.result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        lock.release()
    left = sum(state(m.folder, sweep.stages)[0] not in (DONE, FAILED) for m in members)
    if left:
        raise Stopped(f"{left} members are not finished; the same command goes on with them")
