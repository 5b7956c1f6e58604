"""`figures/*.png` and `report.html`: one file that holds its pictures and needs no network."""

from __future__ import annotations

import base64
import html
import json
import os
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from hpcdiff import files
from hpcdiff.evaluate import figures, pictures, tables
from hpcdiff.evaluate.inputs import Samples
from hpcdiff.evaluate.look import FIELD_NAME, STYLE, plt
from hpcdiff.maps import MapFile

CAPTIONS = {
    "gallery": "Test clusters from heavy to light; each pair of rows is one cluster, linear above logarithmic. Inputs, then truth, mean of the "
    "posterior samples and one sample of each output. The colour scale of a field is that of the truth; numbers in a panel are its ends. "
    "Densities over the mean density of the Universe, SZ in µK, X-ray in erg/s/cm². (As figure 5 of the paper.)",
    "posterior": "One cluster: truth, mean, two samples, the spread of the samples, and the error of the mean in units of that spread.",
    "profiles": "Radial profiles of truth and mean map, median and 16-84 % over views; below, their fractional error. "
    "Grey: range of R200m. (As figure 6.)",
    "pixels": "Fractional error of the mean map's pixels inside (solid) and outside (dashed) R200m; the outermost bins hold all beyond. "
    "(As figure 7.)",
    "bias": "b(k) = sqrt(P_gen/P_sim), median and 16-84 % over views. The mean of the samples must fall below 1 where the inputs don't tell: "
    "each sample must not. Dotted: split between large and small scales. (As figure 8.)",
    "correlation": "r(k) with the truth of the mean map, of each input by itself, and of the two fitted baselines. (As figure 9.)",
    "convergence": "Variance of the mean of N samples, mean over pixels and views; dotted: one e-fold below that of two samples. (As figure 4.)",
    "calibration": "Left: rank of the truth among the samples, flat if calibrated. Right: coverage of the intervals between order statistics, "
    "on the diagonal if calibrated. Above: total of the map; below: pixels.",
    "masses": "Halos and views against mass, and views of each part of the split. (As figure 1.)",
    "maps": "All maps of the most massive evaluated cluster. (As figure 2.)",
}
ORDER = ("gallery", "posterior", "profiles", "pixels", "bias", "correlation", "convergence", "calibration", "masses", "maps")
PAPER = "Hsu et al. (2025)"


def write_figures_and_report(config, maps: MapFile, samples: Samples, metrics: dict) -> None:
    """Draw into `figures.partial`, rename it to `figures`, and write `report.html`."""
    target = config.dir / "figures"
    partial = config.dir / "figures.partial"
    files.remove(partial)
    partial.mkdir()
    names = _draw(partial, maps, samples, metrics)
    files.remove(target)
    os.replace(partial, target)
    files.write_atomic(config.dir / "report.html", report(config, maps, samples, metrics, {n: target / f"{n}.png" for n in names}))


def _draw(folder: Path, maps: MapFile, samples: Samples, metrics: dict) -> list[str]:
    rows = np.sort(samples.views)
    chosen = _three(rows, maps.catalog["mass_200m"][rows])
    where = {int(view): n for n, view in enumerate(samples.views)}
    drawn = {f: np.concatenate([samples.read(f, np.array([where[row]])) for row in chosen]) for f in samples.fields}
    middle = len(chosen) // 2
    inputs, outputs = metrics["config"]["task"]["inputs"], samples.fields
    heaviest = int(rows[np.argmax(maps.catalog["mass_200m"][rows])])
    made = []
    with plt.rc_context(STYLE):
        makers = {
            "gallery": lambda: pictures.gallery(maps, chosen, inputs, outputs, drawn),
            "posterior": lambda: pictures.posterior(maps, chosen[middle], outputs, {f: d[middle : middle + 1] for f, d in drawn.items()}),
            "profiles": lambda: figures.profiles(metrics, maps, rows),
            "pixels": lambda: figures.pixels(metrics),
            "bias": lambda: figures.bias(metrics),
            "correlation": lambda: figures.correlation(metrics),
            "convergence": lambda: figures.convergence(metrics),
            "calibration": lambda: figures.calibration(metrics),
            "masses": lambda: figures.masses(maps),
            "maps": lambda: pictures.cluster(maps, heaviest, [*outputs, *inputs]),
        }
        for name in ORDER:
            figure = makers[name]()
            if figure is not None:
                # no version, no date: the same metrics give the same pictures
                figure.savefig(folder / f"{name}.png", metadata={"Software": None})
                plt.close(figure)
                made.append(name)
    return made


def _three(rows: np.ndarray, mass: np.ndarray) -> list[int]:
    """Three views, heavy to light, spread over the masses; fewer where there are fewer masses."""
    order = np.argsort(mass, kind="stable")[::-1]
    kinds = rows[order][np.unique(mass[order], return_index=True)[1]][::-1]
    picks = sorted({round(q * (len(kinds) - 1)) for q in (0.1, 0.5, 0.9)})
    return [int(kinds[p]) for p in picks]


def report(config, maps: MapFile, samples: Samples, metrics: dict, drawn: dict[str, Path]) -> str:
    """The HTML."""

    def picture(name: str) -> str:
        if name not in drawn:
            return ""
        data = base64.b64encode(drawn[name].read_bytes()).decode()
        return (
            f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>'
        )

    n_halos = len(np.unique(maps.catalog["halo_id"][samples.views]))
    says = json.loads(maps.attributes.get("provenance") or "{}")
    engine = next((str(says[k]) for k in ("engine", "simulation_engine", "simulation") if says.get(k)), "not recorded in the map file")
    outputs = ", ".join(FIELD_NAME[f] for f in metrics["config"]["task"]["outputs"])
    inputs = ", ".join(FIELD_NAME[f] for f in metrics["config"]["task"]["inputs"])
    facts = (
        f"{outputs} from {inputs} · {len(samples.views)} views of {n_halos} halos ({metrics['parts']} split) · {samples.count} samples a view, "
        f"{metrics['sampler']}, {metrics['nfe']} network evaluations a sample · simulation: {engine}"
    )
    banner = ""
    if samples.control:
        banner = (
            f'<div class="banner">CONTROL: {html.escape(str(samples.control))}. These samples must have no skill; they are no result.</div>'
        )
    body = [
        picture("posterior"),
        "<h2>Against the baselines</h2>",
        tables.skill(metrics),
        f"<h2>Table 1, beside {PAPER}</h2>",
        tables.table1(metrics),
        "<h2>Total mass</h2>",
        tables.masses(metrics),
        "<h2>Profiles and pixels</h2>",
        picture("profiles") + picture("pixels"),
        "<h2>Scales</h2>",
        picture("bias") + picture("correlation"),
        "<h2>Is the posterior as wide as its errors?</h2>",
        tables.calibration(metrics) + picture("calibration") + picture("convergence"),
        "<h2>Data</h2>",
        picture("masses") + picture("maps"),
        "<h2>What was run on what</h2>",
        tables.facts(_run(config, maps, samples, metrics, engine)),
        tables.reasons(metrics),
    ]
    template = Template(resources.files("hpcdiff.evaluate").joinpath("report.html").read_text())
    return template.substitute(
        title="Posterior mass maps of galaxy clusters" + (" (control)" if samples.control else ""),
        facts=html.escape(facts),
        banner=banner,
        gallery=picture("gallery"),
        notes=_comparable(maps, metrics, engine, n_halos),
        body="\n".join(body),
    )


def _comparable(maps: MapFile, metrics: dict, engine: str, n_halos: int) -> str:
    """How this run differs from the paper's, so that nobody reads its numbers as the paper's."""
    width = float(np.median(maps.catalog["width_mpc"]))
    differences = [
        (maps.npix != 128 or abs(width - 12.8) > 0.01, f"maps of {maps.npix} pixels over {width:.3g} Mpc (the paper: 128 over 12.8)"),
        ("hyper" not in engine.lower(), f"the simulation is {engine} (the paper: HYPER, 6233 halos)"),
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


def _run(config, maps: MapFile, samples: Samples, metrics: dict, engine: str) -> dict[str, str]:
    out = {
        "simulation": engine,
        "maps": f"{maps.path}: {maps.n_views} views of {len(np.unique(maps.catalog['halo_id']))} halos, {maps.npix} pixels a side, "
        f"fields {', '.join(maps.fields)}; fingerprint {metrics['inputs']['maps']}",
        "provenance of the maps": maps.attributes.get("provenance") or "not recorded",
        "samples": f"{samples.path}: {len(samples.views)} views, {samples.count} samples each; SHA-256 {metrics['inputs']['samples']}",
        "sampler": f"{metrics['sampler']}, {metrics['steps']} steps, {metrics['nfe']} network evaluations a sample, seed {metrics['seed']}",
        "weights": f"SHA-256 {metrics['model']}",
    }
    model = config.model_path() / "config.json"
    try:
        described = json.loads(model.read_text())["config"]
        out |= {section: json.dumps(described[section], sort_keys=True) for section in ("network", "diffusion", "train")}
    except (OSError, ValueError, KeyError, TypeError):
        out["network"] = f"{model} cannot be read"
    out["provenance of the samples"] = samples.attributes.get("provenance") or "not recorded"
    out["evaluation"] = json.dumps(metrics["config"], sort_keys=True)
    out["power spectra"] = (
        "bins by int(|n|), 1 to npix/2 - 1; each entry of table 1 is an unweighted mean over the bins of its band, for each view"
    )
    out["errors"] = "standard deviation of the mean over bootstrap draws of whole halos"
    return out
