"""One input: where it lies, how its files are damaged, and the runs that read it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import fuzz_bytes
import fuzz_fits
import fuzz_hdf5
import fuzz_json
import fuzz_text
import h5py
import numpy as np
from fuzz_fork import Outcome, in_fork
from fuzz_inputs import not_finite, without_pictures

OUTSIDE = b"not to be touched\n" * 64
"""What stands in the files that malicious links lead to."""
KNOWN = {".csv": "table", ".list": "table", ".AHF_halos": "table", ".gz": "fits"}
"""How a file is damaged, by the end of its name, where that is not its own."""
BINARY = {"safetensors": fuzz_json.mutate_safetensors, "fits": fuzz_fits.mutate_fits, "npy": fuzz_fits.mutate_npy}
REAL = 16
"""Every one of so many inputs has HDF5 files looked at by a child of its own (hpcdiff.scout), as a user's are; the others by a fork, which costs less."""


class Case:
    """One input: a folder `case/` with `run/` in it, where alone may be written, and `outside/` beside it."""

    def __init__(self, base: Path, work: Path, kind: str, seed: int, number: int) -> None:
        self.base, self.kind, self.number = base, kind, number
        self.rng = random.Random(f"{kind} {seed} {number}")
        self.around = work / kind
        shutil.rmtree(self.around, ignore_errors=True)
        self.folder, self.run, self.outside = self.around / "case", self.around / "case" / "run", self.around / "outside"
        self.run.mkdir(parents=True)
        self.outside.mkdir()
        for name in ("victim", "victim.h5"):
            (self.outside / name).write_bytes(OUTSIDE)
        with h5py.File(self.outside / "other.h5", "w") as f:
            f["x"] = np.arange(10.0)
        self.log = work / f"{kind}.log"
        self.commands: list[tuple[str, list[str]]] = []
        self.what = ""

    def stage(self, name: str, *words: str) -> None:
        """A stage or command to be run on the input; its config is the whole inputs' own."""
        self.commands.append((name, [str(self.base / "config.yaml"), f"run.dir={self.run}", *words]))

    def command(self, name: str, *words: str) -> None:
        """A command without a config."""
        self.commands.append((name, list(words)))

    def mutate(self, path: Path, how: str = "") -> None:
        """Damage a file, by its bytes or by its structure, and say in `what` how."""
        rng = self.rng
        how = how or KNOWN.get(path.suffix, path.suffix[1:])
        if rng.random() < (0.35 if how in ("hdf5", "h5") else 0.2):
            how = "bytes"
        self.what = f"{self.what} {path.name} by its {how}".strip()
        data = path.read_bytes()
        if how == "bytes":
            path.write_bytes(fuzz_bytes.mutate(rng, data))
        elif how == "yaml":
            path.write_bytes(fuzz_text.mutate_yaml(rng, data.decode()))
        elif how == "table":
            path.write_bytes(fuzz_text.mutate_table(rng, data.decode(), "," if path.suffix == ".csv" else None))
        elif how == "json":
            path.write_text(fuzz_json.mutate_json(rng, data.decode()), errors="surrogatepass")
        elif how in BINARY:
            path.write_bytes(BINARY[how](rng, data))
        else:
            others = [self.outside / name for name in ("victim", "victim.h5", "other.h5")] + sorted((self.folder / "other").glob("*"))
            apart(lambda: fuzz_hdf5.mutate(rng, path, others))

    def execute(self) -> Outcome:
        """Run the commands, each in a fork; the first fault ends it."""
        outcome, there = Outcome(0, ""), set(self.run.iterdir())
        for stage, argv in self.commands:
            outcome = in_fork(
                lambda stage=stage, argv=argv: without_pictures(stage, argv),
                self.run,
                self.around,
                self.log,
                real_scout=self.number % REAL == 0,
            )
            self.said = f"{stage} {' '.join(argv)}"
            if not outcome.fault and outcome.status == 0 and "--dry-run" not in argv:
                outcome.fault = not_finite([path for path in self.run.iterdir() if path not in there])
            if outcome.fault or outcome.status:
                break
        return outcome


def apart(work: Callable[[], None]) -> None:
    """Do something in a fork, whatever becomes of it: HDF5 does not bear all that can be written with it."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
        os._exit(0)
    os.waitpid(pid, 0)
