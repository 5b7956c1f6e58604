"""The stage: measure, reduce, draw; `metrics.json` is written last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.evaluate import sums
from hpcdiff.evaluate.inputs import Samples, open_inputs
from hpcdiff.evaluate.run import VERSION, measure
from hpcdiff.scout import go_ahead
from hpcdiff.strict import refuse_difference
from hpcdiff.versions import refuse_version
from hpcdiff.world import World

SECTIONS = ("task", "evaluate")


def outputs(config) -> Iterator[Path]:
    """What `--overwrite` removes."""
    yield from (config.dir / name for name in ("metrics.json", sums.NAME, "report.html", "figures", "figures.partial"))


def plan(config) -> Iterator[str]:
    """Lines of `--dry-run`."""
    missing = [path for path in (*config.map_paths(), config.dir / "samples.h5") if not path.exists()]
    if missing:
        yield from (f"{path} is not there yet" for path in missing)
        return
    maps, samples = open_inputs(config)
    train, size = len(maps.rows("train")), maps.npix**2 * 4
    fields = len(config.task.inputs) + len(config.task.outputs)
    yield f"{len(samples.views)} views, {samples.count} samples each; {train} training views for the baselines"
    twice = train * fields + len(samples.views) * samples.count * len(samples.fields)  # maps read two times
    yield f"{(2 * twice + len(samples.views) * fields) * size:.4g} bytes to read"


def work(config, world: World) -> str:
    """Measure, reduce, draw; `metrics.json` is written last."""
    target = config.dir / "metrics.json"
    go_ahead(world, config.map_paths(), "map file")
    go_ahead(world, [config.dir / "samples.h5", *([config.evaluate.regression] if config.evaluate.regression else [])], "samples file")
    with world.together():
        maps, samples = open_inputs(config)
        damaged = sums.damaged_outputs(config.dir) if world.main and target.exists() else []
    if damaged := world.broadcast(damaged):
        others = f" and {len(damaged) - 1} more" * (len(damaged) > 1)
        world.print(
            f"hpcdiff evaluate: {damaged[0]}{others} of the last run {'are' if others else 'is'} damaged or gone: all is made again"
        )
    with world.together():
        old = None if damaged else _finished(target, config)
    made_from = {"maps": maps.fingerprint, "samples": samples.fingerprint(world)}
    if config.evaluate.regression:
        with world.together():
            regression = Samples(Path(config.evaluate.regression))
        made_from["regression"] = regression.fingerprint(world)
    if old is not None:
        refuse_difference({"inputs": old.get("inputs")}, {"inputs": made_from}, target, "evaluate")
        return f"{target} is done already (--overwrite makes it anew)"
    if "maps" not in samples.inputs:
        world.print(f"{samples.path} does not say what it was made from: not checked")
    metrics = measure(config, world, maps, samples, made_from)
    with world.together():
        if world.main:
            from hpcdiff.evaluate.report import write_figures_and_report

            write_figures_and_report(config, maps, samples, metrics)
            text = files.json_text(metrics)
            sums.write_sums(config.dir, text)
            files.write_atomic(target, text)
    return f"{len(samples.views)} views -> {target}; open {config.dir / 'report.html'}"


def _finished(target: Path, config) -> dict | None:
    if not target.exists():
        return None
    try:
        old = json.loads(target.read_text())
        stored = old["config"]
    except (ValueError, KeyError, TypeError):
        raise UserError("not a metrics file of ours", target, "evaluate --overwrite") from None
    refuse_version("metrics file", old.get("version"), VERSION, target, "evaluate --overwrite")
    refuse_difference(stored, config.resolved(*SECTIONS), target, "evaluate")
    return old
