"""Run by project_scaling.py on one or several ranks: the projection, with the seconds of each of its parts.

    [mpirun -n N] python scaling/timed.py OUT.json WARM.yaml CONFIG.yaml [KEY=VALUE ...]

WARM.yaml is projected first, so that what is measured does not hold the loading of compiled functions. Every rank writes OUT.json.RANK.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

from hpcdiff.maps import MapWriter
from hpcdiff.project import passes
from hpcdiff.project.__main__ import main
from hpcdiff.project.balance import RATES
from hpcdiff.project.source import Source

PARTS = {
    "run": (passes.Projection, "run"),
    "scan": (passes.Projection, "_scan"),
    "plan": (passes, "make_plan"),
    "exchange": (passes, "exchange"),
    "write": (MapWriter, "write_many"),
}


class Clock:
    """Wall and CPU seconds by part, summed over its calls, and what some of the calls gave."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.gave = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0), {}
        self.units: list[tuple[int, float]] = []  # halo, CPU seconds
        self.again: list[int] = []  # rows that are read in each pass

    def around(self, name: str, of: object, attribute: str) -> None:
        """Time every call of a function or method."""
        inner = getattr(of, attribute)

        def timed(*arguments, **keywords):
            wall, cpu = time.perf_counter(), time.process_time()
            result = inner(*arguments, **keywords)
            self.wall[name] += time.perf_counter() - wall
            self.cpu[name] += time.process_time() - cpu
            self.gave[name] = (arguments, result)
            return result

        setattr(of, attribute, timed)


def facts(clock: Clock, before: int) -> dict:
    """What the run was, what its model says, and what it took on this rank."""
    projection, source = clock.gave["run"][0][0], clock.gave["scan"][1][0]
    (load, ranks, _), plan = clock.gave.get("plan", ((None,) * 3, None))
    out = {
        "wall": clock.wall,
        "cpu": clock.cpu,
        "rows_read": source.rows_read,
        "ledger_peak": projection.ledger.peak,
        "rss_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_before": before,
        "units": clock.units,
        "again": clock.again,
        "budget": projection.budget.total,
        "views": len(projection.rows),
        "mass": projection.catalog["mass_200m"][projection.whole[0]].tolist(),
    }
    if plan is not None:  # rank 0
        views, n = plan.last - plan.first, len(projection.project.fields)
        census = clock.gave["census"]
        out |= {
            "predicted_read": RATES.read * sum(map(projection.snapshot.count, projection.kinds)) / ranks,
            "predicted": plan.wall,
            "predicted_units": list(zip(plan.halo.tolist(), plan.seconds.tolist(), strict=True)),
            "balance": plan.balance,
            "passes": plan.turns,
            "streamed": int(plan.streamed.sum()),
            "pairs": int(load.rows.sum()),
            "pairs_of_halos": load.rows.tolist(),
            "kinds": {k: int(v.sum()) for k, v in census.rows.items()},
            "features": {
                "row": float(load.rows[plan.halo].sum()),
                "seen": float(load.rows[plan.halo] @ views),
                "deposit": float(census.cost[plan.halo] @ views),
                "pixel": float(views.sum() * source.npix**2 * n),
                "unit": len(plan.halo),
            },
        }
    return out


def run(out: str, warm: str, arguments: list[str]) -> int:
    """Project twice, time the second."""
    if status := main([warm]):
        return status
    clock = Clock()
    for name, (of, attribute) in PARTS.items():
        clock.around(name, of, attribute)
    scan, opened, finished = Source.scan, passes.Projection._open, passes.Projection._finish

    def keep_census(self, *rest):
        clock.gave["census"] = scan(self, *rest)
        return clock.gave["census"]

    def open_unit(self, plan, unit):
        clock.units.append((int(plan.halo[unit]), -time.process_time()))
        return opened(self, plan, unit)

    def count_rows(step):
        def counted(self, *rest):
            before = self.source.rows_read
            step(self, *rest)
            clock.again.append(self.source.rows_read - before)

        return counted

    def finish_unit(self, maps, plan, unit):
        made = finished(self, maps, plan, unit)
        k = next(k for k in reversed(range(len(clock.units))) if clock.units[k][0] == plan.halo[unit])
        clock.units[k] = (clock.units[k][0], clock.units[k][1] + time.process_time())
        return made

    Source.scan, passes.Projection._open, passes.Projection._finish = keep_census, open_unit, finish_unit
    passes.Projection._pass, passes.Projection._stream = map(count_rows, (passes.Projection._pass, passes.Projection._stream))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    if status := main(arguments):
        return status
    rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
    whole = time.perf_counter() - started
    Path(f"{out}.{rank}").write_text(
        json.dumps({**facts(clock, before), "whole": whole}, default=lambda v: v.item() if isinstance(v, np.generic) else v)
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
