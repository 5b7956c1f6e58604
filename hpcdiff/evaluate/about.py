"""What a report says of its run in words: what went in, on what it was run, how it differs from the paper's."""

from __future__ import annotations

import html
import json

import numpy as np

from hpcdiff.evaluate.inputs import Samples, engine_of
from hpcdiff.evaluate.look import field_name, part
from hpcdiff.evaluate.tables import number
from hpcdiff.maps import MapFile

PAPER = "Hsu et al. (2025)"


CLAIMS = {
    "halo_model": "Made on the embedded halo model (docs/simulation.md): shows that the chain works and how methods compare on the same maps, "
    "not how well real clusters are inferred.",
    "nbody": "Made on the embedded N-body simulation (docs/simulation.md): the dark matter is evolved, the gas a polytrope in its potential. Shows how "
    "methods compare on the same maps, not how well real clusters are inferred.",
    None: "The map file does not say which simulation it was made from: methods can be compared on the same maps, no more.",
}
"""What results may be taken for, by the simulation's engine."""


def engine(maps: MapFile) -> str:
    """The simulation's engine in words."""
    return engine_of(maps) or "not recorded in the map file"


def claim(name: str | None) -> str:
    """One line: what may be claimed with results on this engine's maps."""
    engine, _, gates = (name or "").partition(" (")
    if engine in CLAIMS and gates:
        return f"{CLAIMS[engine]} {gates[:1].upper()}{gates[1:-1]}."
    return CLAIMS.get(name) or f"Made on the simulation {name}: holds for clusters as that simulation makes them."


def facts(maps: MapFile, samples: Samples, metrics: dict) -> str:
    """One line below the title."""
    n_halos = len(np.unique(maps.catalog["halo_id"][samples.views]))
    outputs, inputs = (", ".join(field_name(f) for f in metrics["config"]["task"][k]) for k in ("outputs", "inputs"))
    return (
        f"{outputs} from {inputs} · {len(samples.views)} views of {n_halos} halos ({metrics['parts']} split) · {samples.count} samples a view, "
        f"{metrics['sampler']}, {metrics['nfe']} network evaluations a sample · simulation: {engine(maps)}"
    )


def key_numbers(metrics: dict) -> str:
    """The few numbers that one looks for first, as HTML."""
    items = []
    for field in metrics["config"]["task"]["outputs"]:
        name = field_name(field)
        if mass := part(metrics, "total_mass_error", "all", field):
            items.append((f"{100 * mass['median']:+.1f} %".replace("-", "−"), f"{name}: median total mass error"))
        if r := part(metrics, "table1", "all", field, "r_small"):
            items.append((number(r["median"]), f"{name}: r on small scales"))
        cover = part(metrics, "calibration", "all", field, "total", "coverage")
        if cover:
            low, high = (cover[0].get(k) for k in ("low", "high"))
            expected = f"{100 * cover[0]['nominal']:.0f} %"
            expected += "" if None in (low, high) else f", by chance {100 * low:.0f} to {100 * high:.0f} %"
            items.append((f"{100 * cover[0]['mean']:.0f} %", f"{name}: true masses inside the samples' range (expected {expected})"))
    return '<ul class="key">' + "".join(f"<li><b>{html.escape(v)}</b><span>{html.escape(w)}</span></li>" for v, w in items) + "</ul>"


def comparable(maps: MapFile, samples: Samples, metrics: dict) -> str:
    """How this run differs from the paper's, so that nobody reads its numbers as the paper's."""
    width, simulation = float(np.median(maps.catalog["width_mpc"])), engine(maps)
    n_halos = len(np.unique(maps.catalog["halo_id"][samples.views]))
    differences = [
        (maps.npix != 128 or abs(width - 12.8) > 0.01, f"maps of {maps.npix} pixels over {width:.3g} Mpc (the paper: 128 over 12.8)"),
        ("hyper" not in simulation.lower(), f"the simulation is {simulation} (the paper: HYPER, 6233 halos)"),
        (maps.n_views < 30000, f"{maps.n_views} views in all (the paper: 34714)"),
        (n_halos < 300, f"{n_halos} halos evaluated (the paper: about 600)"),
        (metrics["samples"] != 10, f"{metrics['samples']} samples a view (the paper: 10)"),
    ]
    said = [text for differs, text in differences if differs]
    if not said:
        return ""
    return (
        f'<div class="note"><b>Not comparable with {PAPER} number by number</b>: {html.escape("; ".join(said))}. '
        "Compare with the baselines, which see the same maps.</div>"
    )


def model_config(folder) -> dict | None:
    """The training config that a model folder holds; None where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return config if isinstance(config, dict) else None


def run(config, maps: MapFile, samples: Samples, metrics: dict) -> dict[str, str]:
    """What was run on what: a name and a text each."""
    out = {
        "simulation": engine(maps),
        "maps": f"{maps.path}: {maps.n_views} views of {len(np.unique(maps.catalog['halo_id']))} halos, {maps.npix} pixels a side, "
        f"fields {', '.join(maps.fields)}; fingerprint {metrics['inputs']['maps']}",
        "provenance of the maps": maps.attributes.get("provenance") or "not recorded",
        "samples": f"{samples.path}: {len(samples.views)} views, {samples.count} samples each; SHA-256 {metrics['inputs']['samples']}",
        "sampler": f"{metrics['sampler']}, {metrics['steps']} steps, {metrics['nfe']} network evaluations a sample, seed {metrics['seed']}",
        "weights": f"SHA-256 {metrics['model']}",
    }
    described = model_config(config.model_path())
    if described is None:
        out["network"] = f"{config.model_path() / 'config.json'} cannot be read"
    else:
        out |= {section: json.dumps(values, sort_keys=True) for section, values in sorted(described.items()) if section != "run"}
    out["provenance of the samples"] = samples.attributes.get("provenance") or "not recorded"
    out["evaluation"] = json.dumps(metrics["config"], sort_keys=True)
    out["power spectra"] = (
        "bins by int(|n|), 1 to npix/2 - 1; each entry of table 1 is an unweighted mean over the bins of its band, for each view"
    )
    out["errors"] = f"standard deviation of the mean over bootstrap draws of whole {metrics.get('bootstrap_over', 'halo')}s"
    return out
