"""Tables of the report, as HTML, from the metrics alone."""

from __future__ import annotations

import html

from hpcdiff.evaluate.figures import PREDICTION
from hpcdiff.evaluate.look import SIGNAL, bins, field_name, part, signal_name

PAPER_TABLE1 = {
    ("high", "gas"): (0.974, 0.988, 0.970, 0.994),
    ("high", "dm"): (0.828, 0.987, 0.791, 0.982),
    ("low", "gas"): (0.982, 0.989, 0.975, 0.995),
    ("low", "dm"): (0.860, 0.972, 0.831, 0.986),
}
"""Medians of Hsu et al. (2025), table 1: b and r on small, large scales, in the order of `COLUMNS`."""
PAPER_BINS = {"low": [2.0e14, 6.0e14], "high": [6.0e14, 1.0e15]}
PAPER_MASS = {"gas": "+0.0023 (+0.0010 −0.0018)", "dm": "−0.0079 (+0.0070 −0.0044)"}
RIVAL = {
    "stacked_profile": "a round cluster that follows the map's total signal",
    "wiener": "the best scale-dependent linear filter of the inputs",
    "nfw": "a round NFW halo whose mass follows the signal within an aperture",
    "nearest": "the training view whose inputs are most alike",
    "regression": "the same network trained to the smallest mean square",
}
COLUMNS = ("b_small", "b_large", "r_small", "r_large")


def table(head: list[str], rows: list[list[str]], paper: tuple[int, ...] = ()) -> str:
    """An HTML table; cells are escaped, columns in `paper` are marked as the paper's."""
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = ""
    for row in rows:
        body += "<tr>" + "".join(f"<td{' class=paper' if i in paper else ''}>{html.escape(c)}</td>" for i, c in enumerate(row)) + "</tr>\n"
    return f'<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or a dash."""
    return "–" if value is None else format(value, form).replace("-", "−")


def median(summary: dict | None, form: str = ".3f") -> str:
    """Median (16 ... 84 %)."""
    return (
        "–" if summary is None else f"{number(summary['median'], form)} ({number(summary['p16'], form)} … {number(summary['p84'], form)})"
    )


def mean(summary: dict | None, form: str = ".3f") -> str:
    """Mean ± its error."""
    if summary is None:
        return "–"
    error = "" if summary["error_of_mean"] is None else f" ± {number(summary['error_of_mean'], form.lstrip('+'))}"
    return number(summary["mean"], form) + error


def of(entry: dict | None, form: str = ".3f") -> str:
    """{"value", "error"}."""
    if entry is None:
        return "–"
    return number(entry["value"], form) + ("" if entry["error"] is None else f" ± {number(entry['error'], form)}")


def _bins(metrics: dict, quantity: str, signal: bool = False) -> list[str]:
    """Bins that hold views, from light to heavy, and `all`; `signal`: those of the SZ signal where there are such."""
    return [*(n for n in reversed(bins(metrics, quantity, signal)) if n != "all"), *(["all"] if part(metrics, quantity, "all") else [])]


def bin_words(metrics: dict, name: str) -> str:
    """The bin in plain words."""
    edges = metrics["config"]["evaluate"]["mass_bins"]
    if name in edges:
        return f"{name} ({edges[name][0]:.3g}–{edges[name][1]:.3g} Msun)".replace("e+", "e")
    return f"{SIGNAL[name]} {signal_name(metrics)}" if name in SIGNAL else name


def rivals(metrics: dict) -> list[str]:
    """Baselines that predict maps, in the order of `PREDICTION`."""
    inputs = metrics["config"]["task"]["inputs"]
    found = {n for of in (part(metrics, "baseline", "all") or {}).values() for n in of if n not in inputs}
    return [n for n in PREDICTION if n in found] + sorted(found - set(PREDICTION))


def rival_name(name: str) -> str:
    """A baseline in words."""
    return PREDICTION[name][2] if name in PREDICTION else name.replace("_", " ")


def skill(metrics: dict) -> str:
    """Squared errors of the mean map beside the baselines'."""
    rows = []
    for name in _bins(metrics, "squared_error", signal=True):
        for field, error in metrics["squared_error"][name].items():
            base = part(metrics, "baseline", name, field) or {}
            mass = metrics["total_mass_error"][name][field]
            scale = f"{bin_words(metrics, name)}, {field_name(field)}"
            rows.append([scale, "mean of the samples", mean(error, ".4g"), "", "", median(mass)])
            words = f"{error['n_views']} views of {error['n_halos']} halos"
            for key in rivals(metrics):
                cells = ["–"] * 4
                if part(base, key, "squared_error"):
                    gain = base[key].get("gain")
                    won = "–" if gain is None else f"{gain['wins']:.0%}"
                    cells = [mean(base[key]["squared_error"], ".4g"), median(gain), won, median(base[key].get("total_mass_error"))]
                rows.append([words, rival_name(key), *cells])
                words = ""
    head = [
        "bin, field",
        "prediction",
        "squared error (map units²)",
        "gain over it, by halo",
        "halos won",
        "total mass error",
    ]
    said = " ".join(f"<i>{html.escape(rival_name(n))}</i>: {RIVAL[n]}." for n in rivals(metrics) if n in RIVAL)
    text = (
        "<p>Squared error: mean over pixels of (prediction − truth)², mean over views ± bootstrap over halos. Gain: 1 − error of the mean map / "
        "error of the baseline, for each halo, median (16 … 84 %): above 0 the samples' mean is better. Baselines are fitted on the training "
        f"split; signal: {html.escape(signal_name(metrics))}. {said}</p>"
    )
    return text + table(head, rows)


def table1(metrics: dict) -> str:
    """Table 1: medians over views, and the paper's where the bins are the paper's."""
    rows = []
    for name in _bins(metrics, "table1"):
        for field, entry in metrics["table1"][name].items():
            single = metrics["table1_per_sample"][name][field]
            base = part(metrics, "baseline", name, field) or {}
            paper = paper_row(metrics, name, field)
            for column, q in enumerate(COLUMNS):
                scale = f"{q[0]}, {q[2:]} scales"
                title = [f"{bin_words(metrics, name)}, {field_name(field)}" if column == 0 else "", scale]
                printed = number(paper[column]) if paper else "–"
                others = [number(part(base, n, q, "median")) for n in rivals(metrics)]
                rows.append([*title, median(entry[q]), printed, median(single[q]), *others])
    head = ["bin, field", "", "mean of the samples", "paper", "each sample", *(rival_name(n) for n in rivals(metrics))]
    return f"<p>Median (16 … 84 %) over views. Split at {metrics['config']['evaluate']['k_split']:g} h/Mpc.</p>" + table(head, rows, (3,))


def paper_row(metrics: dict, name: str, field: str) -> tuple[float, ...] | None:
    """The paper's entries for a bin, if the bin is the paper's."""
    same = metrics["config"]["evaluate"]["mass_bins"].get(name) == PAPER_BINS.get(name, ())
    return PAPER_TABLE1.get((name, field)) if same else None


def masses(metrics: dict) -> str:
    """Total mass errors beside the paper's."""
    rows = []
    for name in _bins(metrics, "total_mass_error", signal=True):
        for field, error in metrics["total_mass_error"][name].items():
            printed = PAPER_MASS.get(field, "–") if name == "all" else "–"
            rows.append([f"{bin_words(metrics, name)}, {field_name(field)}", median(error, "+.4f"), mean(error, "+.4f"), printed])
    text = (
        "<p>(generated − simulated) / simulated, of the sum of the mean map: 0 within its error if unbiased. The paper's is its average over "
        "2e14–1e15 Msun.</p>"
    )
    return text + table(["bin, field", "median (16 … 84 %)", "mean ± error", "paper"], rows, (3,))


def calibration(metrics: dict) -> str:
    """Calibration numbers of every bin."""
    rows = []
    for name in _bins(metrics, "calibration", signal=True):
        for field, c in metrics["calibration"][name].items():
            if c is None:
                continue
            for what, key in (("total", "crps_skill_over_climatology"), ("pixel", "crps_skill_over_stacked_profile")):
                widest = c[what]["coverage"][0] if c[what]["coverage"] else None
                rows.append([
                    f"{bin_words(metrics, name)}, {field_name(field)}", "total mass" if what == "total" else "pixels",
                    "–" if widest is None else f"{widest['mean']:.3f} / {widest['nominal']:.3f}",
                    mean(c[what]["within_1"]) + f" / {c['expected_within_1']:.3f}", of(c[what]["spread_skill"]), of(c[what].get(key)),
                ])  # fmt: skip
    if not rows:
        return "<p>One sample a view: there is no spread to judge.</p>"
    head = ["bin, field", "", "coverage / nominal", "|error| < 1 std / expected", "spread over skill", "CRPS skill"]
    text = (
        "<p>One view of each halo. Coverage of the interval from the lowest to the highest sample: the nominal share of truths lies inside if "
        "calibrated. Spread over skill is 1 for a calibrated posterior, below 1 for one that is too narrow; among pixels the bright ones weigh "
        "most, in coverage all count alike. CRPS skill, over the training split's distribution (total mass) and over the stacked profile "
        "(pixels), is 1 for a perfect forecast and 0 for one that is worth no more. "
    )
    if not any(part(metrics, "calibration", name) for name in SIGNAL):
        text += "Binning in true mass biases even a perfect posterior a little (regression to the mean)."
    return text + "</p>" + table(head, rows)


QUANTITIES = {
    "m500c": "M500c (1e14 Msun)",
    "m200c": "M200c (1e14 Msun)",
    "concentration": "concentration",
    "ellipticity": "ellipticity",
    "offset_mpc": "offset (Mpc)",
}


def _in_units(summary: dict | None, unit: float) -> dict | None:
    return summary and {q: summary[q] / unit for q in ("median", "p16", "p84")}


def structure(metrics: dict) -> str:
    """Structure of truth and samples, and the share of the truths inside the samples' range."""
    rows = []
    for name in _bins(metrics, "structure", signal=True):
        for field, of_field in (part(metrics, "structure", name) or {}).items():
            title = f"{bin_words(metrics, name)}, {field_name(field)}"
            for q, words in QUANTITIES.items():
                entry = part(of_field, q)
                if not part(entry, "truth"):
                    continue
                mass = q.startswith("m")
                cover = entry.get("coverage")
                covered = f"{number(cover['mean'])} / {number(cover['nominal'])}" if cover else "–"
                truth, made = (_in_units(entry.get(k), 1e14 if mass else 1.0) for k in ("truth", "samples"))
                rows.append([title, words, median(truth), median(made), median(entry.get("error"), "+.3f"), covered])
                title = ""
    if not rows:
        return ""
    head = ["bin, field", "quantity", "truth", "mean over samples", "error", "coverage / nominal"]
    text = (
        "<p>Median (16 … 84 %) over views; errors of masses are relative. Coverage: share of the truths between the lowest and the highest sample. "
        "M500c of gas and stars is their own mass within their own radius.</p>"
    )
    return text + table(head, rows)


def consistency(metrics: dict) -> str:
    """Do the masses of one halo agree that are read from its three axes? A check that needs no truth."""
    rows = []
    for field, c in (metrics.get("consistency") or {}).items():
        if part(c, "chi2"):
            rows.append(
                [field_name(field), mean(c["chi2"]), number(c.get("expected")), number(c.get("p"), ".2g"), str(c.get("n_halos", "–"))]
            )
    if not rows:
        return ""
    text = (
        "<p>Posterior masses of one halo from its three axes must agree within their spread, a check without truth: χ² for each degree of "
        "freedom is then 1, or less where the axes share an error. Well above 1, with a small p, posteriors are too narrow.</p>"
    )
    return text + table(["field", "χ² ± error", "expected", "p", "halos"], rows)


def facts(of_run: dict[str, str]) -> str:
    """Two columns: what, and which."""
    rows = "".join(
        f'<tr><td>{html.escape(k)}</td><td class="text"><code>{html.escape(str(v))}</code></td></tr>\n' for k, v in of_run.items()
    )
    return f"<table>{rows}</table>"


def reasons(metrics: dict) -> str:
    """Why a number is missing."""
    if not metrics["reasons"]:
        return ""
    items = "".join(f"<li><code>{html.escape(k)}</code>: {html.escape(v)}</li>" for k, v in sorted(metrics["reasons"].items()))
    return f"<details><summary>Numbers that are missing, and why</summary><ul>{items}</ul></details>"
