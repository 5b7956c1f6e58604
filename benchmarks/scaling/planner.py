"""The planner alone, in one process: 370,000 clusters and 3x10^11 particles dealt to 10^2 .. 10^5 ranks.

No particle is there. The snapshot's rows stand along a Morton curve of 256^3 cells, as many in each as the density field says,
half gas and half dark matter; a cluster asks for the blocks of rows of the cells that its views cover. From that and the plan
follow who sends to whom, what has to be read again, and the bytes on each rank.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from unittest import mock

import numpy as np
from report import table

from hpcdiff.cosmology import Background
from hpcdiff.project import forecast, passes
from hpcdiff.project.balance import RATES, Budget, Load, make_plan
from hpcdiff.project.cutout import Reach
from hpcdiff.project.source import BLOCK, Ledger, Source
from hpcdiff.project.views import catalogue
from hpcdiff.sections import Project, Views
from hpcdiff.snapshot import Particles
from hpcdiff.world import World
from scaling.sky import Sky, sky
from scaling.traffic import Layout, traffic

HALOS = 370_000
PARTICLES = 300_000_000_000
RANKS = (100, 1000, 10_000, 100_000)


class _Caught(Exception):
    """Carries what `forecast` was about to plan."""


def load_of(snapshot: SimpleNamespace, catalog: dict[str, np.ndarray], project: Project) -> Load:
    """What `--dry-run` plans for a catalogue."""
    with mock.patch.object(forecast, "make_plan", side_effect=lambda load, *_: _raise(load)):
        try:
            forecast.forecast(snapshot, catalog, project, 1)
        except _Caught as caught:
            return caught.args[0]
    raise AssertionError("the forecast makes no plan")


def _raise(load: Load) -> None:
    raise _Caught(load)


class _Fake:
    """A snapshot whose every row lies somewhere in one small part of the box."""

    def __init__(self, box: float, centre: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        position = (centre + rng.normal(0, 8, (BLOCK, 3))) % box
        self.box, self.scale_factor = box, 1.0
        self.particles = Particles(np.arange(BLOCK), position, np.ones(BLOCK), np.full(BLOCK, 0.1))

    def count(self, kind: str) -> int:
        """Rows."""
        return PARTICLES

    def read(self, *_, **__) -> Particles:
        """A copy of the same."""
        p = self.particles
        return Particles(p.index.copy(), p.position.copy(), p.mass.copy(), p.h.copy())


def seconds_of_a_block(where: Sky, reach: Reach, halos: np.ndarray, repeats: int = 7) -> float:
    """CPU seconds that a block of dark matter near a cluster takes in the scan, without the disk, with only some clusters there."""
    few, project = reach.subset(halos), Project(fields=["dm"])
    budget, n = Budget.of(4.0), len(halos)
    fake = _Fake(where.box, where.halos.position[halos[0]])
    source = Source(fake, few, project, World(), 1, {}, np.full(n, 0.1), 128, few.position, np.zeros((n, 0)), budget, Ledger())
    census = _census(n)
    taken = []
    for _ in range(repeats + 1):
        started = time.process_time()
        source._scan_block("dm", 0, BLOCK, census)
        taken.append(time.process_time() - started)
        source.blocks.clear()
        source.ledger.set("kept", 0)
    return min(taken[1:])


def _census(n: int) -> SimpleNamespace:
    """An empty census of n halos."""
    return SimpleNamespace(rows={"dm": np.zeros(n, np.int64)}, cost=np.zeros(n), place=np.zeros(n), enclosed=np.zeros((n, 0)))


def run(halos: int = HALOS, ranks: tuple[int, ...] = RANKS) -> dict:
    """Plan for each number of ranks; prints a table, returns everything."""
    where, background, out = sky(halos), Background(), {}
    for name, views in (("fixed", Views()), ("flat_mass", Views(mode="flat_mass"))):
        project = Project(views=views)
        (catalog, made), budget = (
            _timed(lambda p=project: catalogue(where.halos, p, 0.0, where.box, background)),
            Budget.of(project.memory_gb),
        )
        kinds = {"gas": PARTICLES // 2, "dm": PARTICLES // 2, "star": 0, "bh": 0}
        snapshot = SimpleNamespace(
            count=kinds.get,
            has_h=dict.fromkeys(kinds, True),
            background=background,
            box=where.box,
            scale_factor=1.0,
            require=lambda *_: None,
        )
        load, forecast_seconds = _timed(lambda s=snapshot, c=catalog, p=project: load_of(s, c, p))
        reach, reach_seconds = _timed(lambda c=catalog, p=project, s=snapshot: reach_of(c, p, s))
        layout = Layout(where, reach, PARTICLES // 2)
        load.place = layout.place
        held = sum(c.nbytes for c in catalog.values())
        about = {
            "halos": len(load.views),
            "views": len(catalog["halo_id"]),
            "box_mpc": where.box,
            "particles": PARTICLES,
            "seconds_catalogue": made,
            "seconds_load": forecast_seconds,
            "seconds_reach": reach_seconds,
            "bytes_catalogue": held,
            "seconds_projecting_all": float(load.seconds @ load.views),
            "pairs": int(load.rows.sum()),
            "ranks": [],
        }
        if name == "fixed":
            for n in (1000, len(load.views)):
                about[f"seconds_block_{n}_halos"] = seconds_of_a_block(where, reach, np.arange(n))
        for n in ranks:
            plan, seconds = _timed(lambda load=load, n=n, budget=budget: make_plan(load, n, budget))
            row = {
                "ranks": n,
                "seconds_plan": seconds,
                "passes": plan.turns,
                "streamed": int(plan.streamed.sum()),
                "units": len(plan.halo),
                "imbalance": plan.balance - 1,
                "projecting": plan.wall,
                "reading": RATES.read * PARTICLES / n,
                "plan_bytes": sum(v.nbytes for v in vars(plan).values() if isinstance(v, np.ndarray)),
                "collective_messages": plan.messages(),
                **traffic(plan, layout, load, project, budget),
            }
            about["ranks"].append(row)
        out[name] = about
        show(name, about)
    return out


def reach_of(catalog: dict[str, np.ndarray], project: Project, snapshot: SimpleNamespace) -> Reach:
    """Who sees what, as a run makes it."""
    _, first, count = np.unique(catalog["halo_id"], return_index=True, return_counts=True)
    one = SimpleNamespace(whole=(first, first + count), catalog=catalog, snapshot=snapshot, project=project)
    return passes.Projection._reach(one)


def _timed(work) -> tuple:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def show(name: str, about: dict) -> None:
    """Print one catalogue's table."""
    print(
        f"\nplanner, {name}: {about['halos']} halos, {about['views']} views, box {about['box_mpc']:.4g} Mpc, {PARTICLES:.3g} particles; "
        f"CPU seconds: catalogue {about['seconds_catalogue']:.2f}, load {about['seconds_load']:.2f}, reach {about['seconds_reach']:.2f}; "
        f"catalogue {about['bytes_catalogue'] / 1e6:.0f} MB a rank"
    )
    header = [
        "ranks",
        "plan s",
        "passes",
        "units",
        "imbalance %",
        "projecting s",
        "reading s",
        "messages",
        "rounds",
        "reads",
        "again",
        "again s",
        "if even s",
        "sent/rank GB",
        "mean",
        "recv/rank/pass GB",
    ]
    rows = [
        [
            str(r["ranks"]),
            f"{r['seconds_plan']:.2f}",
            f"{r['passes']}",
            str(r["units"]),
            f"{100 * r['imbalance']:.1f}",
            f"{r['projecting']:.3g}",
        ]
        + [f"{r['reading']:.3g}", f"{r['messages']:.3g}", str(r["rounds"]), f"{r['read_requests']:.3g}", f"{r['read_again']:.3g}"]
        + [f"{r['seconds_again']:.3g}", f"{r['seconds_again_if_even']:.3g}"]
        + [
            f"{r['sent_bytes_rank_max'] / 1e9:.3g}",
            f"{r['sent_bytes_rank_mean'] / 1e9:.3g}",
            f"{r['received_bytes_rank_pass_max'] / 1e9:.3g}",
        ]
        for r in about["ranks"]
    ]
    print(table(header, rows), flush=True)
