"""`python -m hpcdiff.sweep SWEEP.yaml ...`: an ensemble of runs as a Slurm array, or here, and its table."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from hpcdiff.command import run_command
from hpcdiff.errors import UserError, nearest

USAGE = """usage: python -m hpcdiff.sweep SWEEP.yaml              submits what is not finished as one Slurm array (jobs/sweep.sbatch)
       python -m hpcdiff.sweep SWEEP.yaml --local N    runs it here, N members at a time
       python -m hpcdiff.sweep SWEEP.yaml --gather     one table of what is finished: table.csv, table.json, table.png
       python -m hpcdiff.sweep SWEEP.yaml --dry-run    says which members there are; touches nothing"""


def sweep(argv: list[str]) -> Iterator[str]:
    """The lines that one command prints; raises UserError or Stopped."""
    from hpcdiff.sweep.members import expand, refuse_change, write_members
    from hpcdiff.sweep.spec import missing_maps, read_sweep
    from hpcdiff.sweep.state import DONE as FINISHED
    from hpcdiff.sweep.state import FAILED, state

    path, options, places = parse(argv)
    spec = read_sweep(path)
    members = expand(spec)
    refuse_change(spec, members)
    states = [state(m.folder, spec.stages) for m in members]
    open_ones = [m for m, (word, _) in zip(members, states, strict=True) if word != FINISHED]
    if "--dry-run" in options:
        for m, (word, reason) in zip(members, states, strict=True):
            yield f"{m.folder}: {word}{', ' * bool(reason)}{reason}"
        yield f"{len(members)} members, {len(open_ones)} to run: {', '.join(spec.stages)}"
        if missing := missing_maps(members[0].config):
            yield f"{missing} is not there yet: run project first"
        return
    if options != {"--gather"}:
        if missing := missing_maps(members[0].config):
            raise UserError("the map file is not there", missing, "run project first, or name maps in the sweep")
        write_members(spec, members)
        yield f"{spec.folder}: {len(members)} members, {len(open_ones)} to run"
        if places and open_ones:
            from hpcdiff.sweep.local import run_here

            run_here(spec, open_ones, places)
        elif open_ones:
            from hpcdiff.sweep.submit import submit

            yield submit(spec, open_ones)
    if "--gather" in options:
        yield from table(spec)
    if places:
        failed = [(m.name, reason) for m in members for word, reason in [state(m.folder, spec.stages)] if word == FAILED]
        if failed:
            name, reason = failed[0]
            raise UserError(f"{len(failed)} of {len(members)} members failed ({name}: {reason})", spec.folder, "mend it and run again")


def table(spec) -> Iterator[str]:
    """Gather, write, print."""
    from hpcdiff.sweep.figure import draw
    from hpcdiff.sweep.gather import gather, lines, write_tables

    rows, missing, content = gather(spec.folder)
    write_tables(spec.folder, rows, missing)
    yield from lines(rows, missing, len(content["members"]))
    if rows:
        draw(spec.folder / "table.png", rows)
        yield f"{spec.folder}/table.csv, table.json, table.png"


def parse(argv: list[str]) -> tuple[str, set[str], int]:
    """(SWEEP.yaml, options, N of --local or 0)."""
    words, options, places, rest = [], set(), 0, list(argv)
    known = ["--dry-run", "--local", "--gather"]
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            if name not in known:
                raise UserError(f"unknown option {word!r}{nearest(word, known)}", "command line", USAGE.splitlines()[0])
            if name == "--local":
                value = value if equals else rest.pop(0) if rest else ""
                if not value.isdigit() or not int(value):
                    raise UserError(f"--local {value}: not a number of members", "command line", "write --local 2")
                places = int(value)
            options.add(name)
        else:
            words.append(word)
    if len(words) != 1:
        raise UserError(f"{len(words)} files are named", "command line", USAGE.splitlines()[0])
    return words[0], options, places


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 2 the user's input or a member is at fault, 75 stopped, 1 a fault of ours."""
    return run_command("sweep", USAGE, sweep, argv, "the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
