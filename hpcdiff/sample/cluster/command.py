"""The command for one cluster: from its words to the folder, and what it says on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.sample.cluster.options import parse
from hpcdiff.strict import difference
from hpcdiff.world import launched_rank


def work(argv: list[str]) -> Iterator[str]:
    """Run the command; yields lines about it.

    Raises:
        UserError: whatever is wrong with the input.
    """
    if launched_rank("sample") != 0:
        return  # one cluster is work for one process: the others have nothing to do
    options = parse(argv)
    config, s = options.config, options.config.sample
    import torch

    from hpcdiff.model import load_model
    from hpcdiff.sample.cluster.observed import observe
    from hpcdiff.sample.cluster.posterior import infer, settings_of
    from hpcdiff.sample.cluster.write import refuse_foreign, write

    model = load_model(config.model_path())
    refuse_foreign(options.out)
    n = options.numbers
    observed = observe(
        model,
        options.images,
        config.map_paths(),
        ra=n.get("ra"),
        dec=n.get("dec"),
        redshift=n.get("redshift"),
        width_mpc=n.get("width"),
        fill_nan="fill-nan" in options.switches,
        guide=None if s.guide.field is None else s.guide,
    )
    how = {"samples": s.samples, "sampler": s.sampler, "steps": s.steps, "seed": config.run.seed, "init": s.init, "churn": s.churn}
    how |= {"r500_mpc": n.get("r500"), "r200_mpc": n.get("r200")}
    asked = settings_of(model, observed, **how)
    work = f"{asked['samples']} maps by {asked['sampler']}, {asked['nfe']} network evaluations each"
    if "dry-run" in options.switches:
        yield config.to_yaml("run", "sample").rstrip()
        yield from (f"# {line}" for line in (*_about(observed), work, f"writes {options.out}"))
        return
    if "overwrite" not in options.switches and _finished(options.out, asked):
        yield f"hpcdiff sample: {options.out} is already finished"
        return
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.precision = "bf16" if model.device.type == "cuda" and model.config["train"]["precision"] == "bf16" else "fp32"
    yield from (f"hpcdiff sample: {line}" for line in (*_about(observed), f"{work}, on {model.device}"))
    posterior = infer(model, observed, batch_size=s.batch_size, **how)
    write(posterior, options.out, str(model.device), model.precision)
    yield from (f"hpcdiff sample: {line}" for line in (*_masses(posterior.masses), f"done, {options.out}"))


def _finished(out: Path, asked: dict) -> bool:
    """Does the folder hold just this posterior?

    Raises:
        UserError: it holds another one.
    """
    if not (out / "masses.json").exists():
        return False
    try:
        old = dict(json.loads((out / "masses.json").read_text())["settings"])
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError("masses.json is damaged", out, "say --overwrite, or name another folder in --out") from None
    if found := difference(old, asked):
        key, a, b = found
        raise UserError(f"{key} was {a!r} and is now {b!r}", out, "say --overwrite, or name another folder in --out")
    return True


def _about(observed) -> Iterator[str]:
    """What was read, and of what the user is to be warned."""
    grid, sources = observed.grid, observed.sources
    side = f"{grid.npix} x {grid.npix} pixels of {grid.pixel_mpc:g} Mpc"
    if grid.celestial:
        side += f" = {np.degrees(grid.pixel_mpc / grid.distance_mpc) * 60:.3g} arcmin at redshift {observed.redshift:g}"
    read = ", ".join(f"{field} from {source['file']}" for field, source in sources.items())
    yield f"{read}; about {grid.centre[0]:.6g}, {grid.centre[1]:.6g}; {side}"
    yield from (f"note: {note}" for note in observed.notes)
    if observed.unlike is None:
        yield "note: the model does not say what its training maps were like, so the inputs are not compared with them"
    yield from (f"warning: {line}" for line in observed.unlike or ())
    if observed.unlike:
        yield "warning: inputs outside the range of the training maps: the model extrapolates, and its intervals are not to be trusted"


def _masses(masses: dict) -> Iterator[str]:
    for name in ("R500c", "R200c"):
        part = masses[name]
        for field, m in part["mass_msun"].items():
            if m["p50"] is None:
                continue
            band = "" if m["p16"] is None else f" ({m['p16']:.4g} to {m['p84']:.4g})"
            yield f"mass of {field} in the cylinder within {name} = {part['radius_mpc']['p50']:.3g} Mpc: {m['p50']:.4g}{band} Msun"
        if part["reason"]:
            yield f"note: {name}: {part['reason']}"
