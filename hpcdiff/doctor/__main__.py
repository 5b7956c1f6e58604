"""`hpcdiff doctor [DIR | CONFIG.yaml] [section.key=value ...] [--json FILE]`: under any launcher, or alone."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from hpcdiff import files
from hpcdiff.blame import rank_names
from hpcdiff.config import read_config
from hpcdiff.doctor import aside, folder, libraries, needs, ranks, verdict
from hpcdiff.doctor.clock import Clock
from hpcdiff.doctor.verdict import Finding
from hpcdiff.errors import UserError, disk_error
from hpcdiff.guards import WrongLaunch, first_started, say_once
from hpcdiff.launch import DONE, FAULT, USER
from hpcdiff.world import TorchWorld, World, launched_rank

USAGE = """\
usage: hpcdiff doctor [DIR | CONFIG.yaml] [section.key=value ...] [--json FILE]
under a launcher: srun python -m hpcdiff doctor ..., mpirun -n 4 python -m hpcdiff doctor ..., torchrun --nproc-per-node 4 -m hpcdiff doctor ...
DIR (or the config's run.dir) is the folder whose disk is measured; without one, the current folder.
It takes under a minute. Exit status: 0 fit or usable, 2 not usable."""


JOINING = "loading MPI or torch, and finding the other ranks"
AFTER = 26.0
"""Seconds that are kept for network and disk; imports and dry runs have the rest: torch from a cold parallel file system takes long."""


class Report:
    """What is known so far: `data` for programs, `text` for people, `findings` for the verdict."""

    def __init__(self) -> None:
        self.data: dict = {"format": "hpcdiff-doctor", "version": 1}
        self.text: list[str] = []
        self.findings: list[Finding] = []
        self.json: Path | None = None

    def close(self) -> int:
        """Print the rest and the verdict, and write the JSON file; returns the exit status. On rank 0."""
        said = verdict.verdict(self.findings)
        self.data["verdict"] = said
        self.data["findings"] = [vars(f) for f in self.findings]
        print("\n".join([*self.text, *verdict.lines(self.findings)]), flush=True)
        if self.json is not None:
            files.write_json(self.json, self.data)
        return USER if said == verdict.NOT else DONE


def main(argv: list[str] | None = None) -> int:
    """Examine; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        if first_started():
            print(USAGE)
        return DONE
    report, world = Report(), None

    def last_words(name: str, behind: str) -> None:
        who = f"; behind the others: {behind}" if behind else ""
        how = "the network's and the disk's own tests; without one node after the other, to find which hangs"
        if name == JOINING:
            how = "is every rank started? srun --mpi=list; NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME: an interface that all nodes have"
        report.findings.append(Finding(True, f"{name} did not end in time{who}", how))
        if world is not None or first_started() or launched_rank("doctor") == 0:
            report.close()

    clock = Clock(last_words)
    try:
        path, overrides, config = _parse(argv, report)
        with clock.limit(JOINING, 40):
            world = clock.world = ranks.join()
        status = _examine(world, clock, report, path, overrides, config)
        status = int(world.broadcast(status))
        world.barrier()
        world.close()
        if isinstance(world, TorchWorld) and world.size > 1:
            sys.stdout.flush()
            os._exit(status)  # threads of gloo that outlive the process group can abort the interpreter's own way out
        return status
    except UserError as error:
        wrong = isinstance(error, WrongLaunch)
        speaks = first_started() if wrong else world.main if world else launched_rank("doctor") == 0
        say_once("doctor", error, speaks, world is not None)
        return USER
    except BaseException as error:
        said = disk_error(error)
        if said is None:
            traceback.print_exc()
        else:
            print(f"hpcdiff doctor: error: {said}", file=sys.stderr, flush=True)
        if clock.folder is not None and world.main:
            files.remove(clock.folder)
        if world is not None and world.size > 1:
            world.abort(FAULT if said is None else USER)
        return FAULT if said is None else USER


def _parse(argv: list[str], report: Report) -> tuple[Path | None, list[str], Path | None]:
    """The folder, the overrides and the config file, if one was given."""
    words, k = [], 0
    while k < len(argv):
        name, equals, file = argv[k].partition("=")
        if name == "--json":
            if not equals:
                k, file = k + 1, argv[k + 1] if k + 1 < len(argv) else ""
            if not file:
                raise UserError("--json names no file", "command line", USAGE.splitlines()[0])
            report.json = Path(file)
        elif argv[k].startswith("-"):
            raise UserError(f"unknown option {argv[k]!r}", "command line", USAGE.splitlines()[0])
        else:
            words.append(argv[k])
        k += 1
    names, overrides = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    if len(names) > 1 or (overrides and not names):
        raise UserError("one folder or one config file is examined", "command line", USAGE.splitlines()[0])
    if names and Path(names[0]).suffix in (".yaml", ".yml"):
        return read_config(names[0], overrides).dir, overrides, Path(names[0])
    if overrides:
        raise UserError(f"{overrides[0]} needs a config file", "command line", USAGE.splitlines()[0])
    return (Path(names[0]) if names else None), [], None


def _examine(world: World, clock: Clock, report: Report, path: Path | None, overrides: list[str], config: Path | None) -> int:
    """All measurements, in the order in which they are printed; the exit status, on rank 0."""
    began = time.monotonic()
    loading = libraries.start() if world.main else {}
    planning = needs.start(config, overrides) if world.main and config is not None else {}
    where = path or Path()
    with clock.limit("looking at the ranks", 25):
        everyone = world.allgather(ranks.about_rank(world))
        mine = everyone[world.rank]
        hosts = [one["node"] for one in everyone]
        nodes, first = len(set(hosts)), hosts.index(mine["node"]) == world.rank
    meet = "alone" if world.size == 1 else "torch.distributed" if isinstance(world, TorchWorld) else "MPI"
    report.data.update(ranks=everyone, nodes=nodes, meet_by=meet, command=sys.argv)
    report.text += [f"hpcdiff doctor: {world.size} rank(s) on {nodes} node(s), {meet}", *ranks.lines(everyone)]
    report.findings += ranks.judge(everyone, torch_ranks=isinstance(world, TorchWorld))
    left = min((one["seconds_left"] for one in everyone if one["seconds_left"] is not None), default=None)
    report.text.append(_limits(everyone, left))
    until = clock.end - AFTER
    with clock.limit("loading the libraries", until - time.monotonic() + 8):
        found = world.broadcast(libraries.collect(loading, until) if world.main else None)
        wanted = world.broadcast(needs.collect(planning, until) if planning else {})
    report.data.update(libraries=found, needs=wanted)
    report.text += libraries.lines(found)
    report.findings += libraries.judge(found, world.size, any(one["gpus"] for one in everyone))
    _network(world, clock, report)
    _disk(world, clock, report, where, path is not None, wanted, first, nodes, began)
    return report.close() if world.main else DONE


def _limits(everyone: list[dict], left: float | None) -> str:
    least = {
        key: min((one[key] for one in everyone if one[key] is not None), default=None)
        for key in ("memory_gb", "shm_gb", "memlock_gb", "open_files")
    }
    said = [f"{least['memory_gb']:.4g} GB of memory free a node" if least["memory_gb"] is not None else "memory not known"]
    said.append(f"/dev/shm {least['shm_gb']:.3g} GB" if least["shm_gb"] is not None else "no /dev/shm")
    said.append(
        f"open files {least['open_files'] or 'unlimited'}, locked memory {'unlimited' if least['memlock_gb'] is None else format(least['memlock_gb'], '.3g') + ' GB'}"
    )
    said.append("no time limit is known" if left is None else f"{left / 60:.0f} minutes left of the job")
    return f"limits (the least of all ranks): {'; '.join(said)}"


def _network(world: World, clock: Clock, report: Report) -> None:
    from hpcdiff.doctor import network

    found: dict[str, list[dict]] = {}
    for carrier, make in network.carriers(world).items():
        if clock.enough(12):
            with clock.limit(f"all-reduce by {carrier}", 20):
                rows, fault = network.tried(world, clock, make)
            if fault:
                report.findings.append(
                    Finding(True, f"all-reduce by {carrier} fails ({fault})", "NCCL_DEBUG=INFO says more; one rank a GPU?")
                )
            else:
                found[carrier] = rows
    with clock.limit("comparing clocks", 5):
        difference = network.clocks(world)
    report.data["network"] = {"all_reduce": found, "clock_difference_s": difference}
    report.text += network.lines(found, difference, world.size)
    report.findings += network.judge(found, difference)


def _disk(
    world: World, clock: Clock, report: Report, where: Path, given: bool, wanted: dict, first: bool, nodes: int, began: float
) -> None:
    from hpcdiff.doctor import disk

    place, refused, one = None, "", {}
    with clock.limit(f"looking at {where}", 15):
        if world.main:
            one = folder.about(where)
            place, refused = folder.scratch(where)
        one, name, refused = world.broadcast([one, None if place is None else str(place), refused])
    lock, hdf5, speed = None, None, {}
    if name is not None:
        place = clock.folder = Path(name)
        seen = world.allgather(place.is_dir())
        if not all(seen):
            blind = rank_names([r for r, s in enumerate(seen) if not s])
            report.findings.append(Finding(True, f"{blind} cannot see {place.parent}", "a run.dir that all nodes share"))
        else:
            with clock.limit("trying locks", 10):
                lock = folder.locks(world, place, report.data["ranks"][world.rank]["node"])
                hdf5 = world.broadcast(folder.hdf5_locking(place) if world.main else None)
            for key, title, work in (
                ("one_file", "writing one file from all ranks", lambda: disk.one_file(world, place, 3.0)),
                ("file_a_node", "writing a file a node", lambda: disk.file_a_node(world, place, 3.0, first, nodes)),
                ("small_files", "making small files", lambda: disk.small_files(world, place)),
            ):
                if clock.enough(6):
                    with clock.limit(f"{title} in {where}", 20):
                        speed[key] = work()
        world.barrier()
        if world.main:
            files.remove(place)
        clock.folder = None
    report.data["folder"] = {**one, "locks": lock, "hdf5_locking": hdf5, "refused": refused or None, "speed": speed}
    report.data["seconds"] = time.monotonic() - began
    report.text += folder.lines(one, lock, hdf5, refused, wanted)
    report.text += disk.lines(speed, world.size, nodes) if lock is not None else []
    report.findings += folder.judge(one, lock, hdf5, refused, given, wanted, nodes)
    report.findings += disk.judge(speed)
    if wanted and wanted["failed"]:
        slow = all(aside.TIMEOUT in said for said in wanted["failed"])
        report.findings.append(
            Finding(not slow, f"the dry run of {'; '.join(wanted['failed'])}", "hpcdiff STAGE CONFIG.yaml --dry-run says more")
        )


if __name__ == "__main__":
    sys.exit(main())
