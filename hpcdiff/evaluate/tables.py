"""Tables of the report, as HTML, from the metrics alone."""

from __future__ import annotations

import html

from hpcdiff.evaluate.look import FIELD_NAME

PAPER_TABLE1 = {
    ("high", "gas"): (0.974, 0.988, 0.970, 0.994),
    ("high", "dm"): (0.828, 0.987, 0.791, 0.982),
    ("low", "gas"): (0.982, 0.989, 0.975, 0.995),
    ("low", "dm"): (0.860, 0.972, 0.831, 0.986),
}
"""Medians of Hsu et al. (2025), table 1: b and r on small, large scales, in the order of `COLUMNS`."""
PAPER_BINS = {"low": [2.0e14, 6.0e14], "high": [6.0e14, 1.0e15]}
PAPER_MASS = {"gas": "+0.0023 (+0.0010 −0.0018)", "dm": "−0.0079 (+0.0070 −0.0044)"}
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


def _bins(metrics: dict, quantity: str) -> list[str]:
    edges = metrics["config"]["evaluate"]["mass_bins"]
    return [b for b in (*sorted(edges, key=lambda n: edges[n][0]), "all") if metrics[quantity].get(b)]


def _bin(metrics: dict, name: str) -> str:
    edges = metrics["config"]["evaluate"]["mass_bins"]
    return name if name not in edges else f"{name} ({edges[name][0]:.3g}–{edges[name][1]:.3g} Msun)".replace("e+", "e")


def skill(metrics: dict) -> str:
    """Squared errors of the mean map beside the baselines'."""
    rows = []
    for name in _bins(metrics, "squared_error"):
        for field, error in metrics["squared_error"][name].items():
            base = metrics["baseline"][name][field]
            mass = metrics["total_mass_error"][name][field]
            scale = f"{_bin(metrics, name)}, {FIELD_NAME.get(field, field)}"
            rows.append([scale, "mean of the samples", mean(error, ".4g"), "", "", median(mass)])
            counts = (f"{error['n_views']} views of {error['n_halos']} halos", "")
            for key, words in zip(("stacked_profile", "linear_map"), counts, strict=True):
                cells = ["–"] * 4
                if base[key]:
                    gain = base[key]["gain"]
                    won = "–" if gain is None else f"{gain['wins']:.0%}"
                    cells = [mean(base[key]["squared_error"], ".4g"), median(gain), won, median(base[key]["total_mass_error"])]
                rows.append([words, key.replace("_", " "), *cells])
    head = [
        "bin, field",
        "prediction",
        "squared error (map units²)",
        "gain over it, by halo",
        "halos won",
        "total mass error",
    ]
    text = (
        "<p>Squared error: mean over pixels of (prediction − truth)², mean over views ± bootstrap over halos. Gain: 1 − error of the mean map / "
        "error of the baseline, for each halo, median (16 … 84 %). <i>Stacked profile</i>: a round cluster that follows the total SZ signal; "
        "<i>linear map</i>: the best scale-dependent linear filter of the inputs. Both are fitted on the training split in map units.</p>"
    )
    return text + table(head, rows)


def table1(metrics: dict) -> str:
    """Table 1: medians over views, and the paper's where the bins are the paper's."""
    rows = []
    edges = metrics["config"]["evaluate"]["mass_bins"]
    for name in _bins(metrics, "table1"):
        for field, entry in metrics["table1"][name].items():
            single = metrics["table1_per_sample"][name][field]
            base = metrics["baseline"][name][field]
            paper = PAPER_TABLE1.get((name, field)) if edges.get(name) == PAPER_BINS.get(name) else None
            for column, q in enumerate(COLUMNS):
                scale = f"{q[0]}, {q[2:]} scales"
                title = [f"{_bin(metrics, name)}, {FIELD_NAME.get(field, field)}" if column == 0 else "", scale]
                printed = number(paper[column]) if paper else "–"
                others = [number(base[n][q]["median"]) if base[n] and base[n][q] else "–" for n in ("stacked_profile", "linear_map")]
                alone = median(single[q])
                rows.append([*title, median(entry[q]), printed, alone, *others])
    head = ["bin, field", "", "mean of the samples", "paper", "each sample", "stacked profile", "linear map"]
    return f"<p>Median (16 … 84 %) over views. Split at {metrics['config']['evaluate']['k_split']:g} h/Mpc.</p>" + table(head, rows, (3,))


def masses(metrics: dict) -> str:
    """Total mass errors beside the paper's."""
    rows = []
    for name in _bins(metrics, "total_mass_error"):
        for field, error in metrics["total_mass_error"][name].items():
            printed = PAPER_MASS.get(field, "–") if name == "all" else "–"
            rows.append([f"{_bin(metrics, name)}, {FIELD_NAME.get(field, field)}", median(error, "+.4f"), mean(error, "+.4f"), printed])
    text = "<p>(generated − simulated) / simulated, of the sum of the mean map. The paper's is its average over 2e14–1e15 Msun.</p>"
    return text + table(["bin, field", "median (16 … 84 %)", "mean ± error", "paper"], rows, (3,))


def calibration(metrics: dict) -> str:
    """Calibration numbers of every bin."""
    rows = []
    for name in _bins(metrics, "calibration"):
        for field, c in metrics["calibration"][name].items():
            if c is None:
                continue
            for what, key in (("total", "crps_skill_over_climatology"), ("pixel", "crps_skill_over_stacked_profile")):
                widest = c[what]["coverage"][0] if c[what]["coverage"] else None
                rows.append([
                    f"{_bin(metrics, name)}, {FIELD_NAME.get(field, field)}", "total mass" if what == "total" else "pixels",
                    "–" if widest is None else f"{widest['mean']:.3f} / {widest['nominal']:.3f}",
                    mean(c[what]["within_1"]) + f" / {c['expected_within_1']:.3f}", of(c[what]["spread_skill"]), of(c[what][key]),
                ])  # fmt: skip
    if not rows:
        return "<p>One sample a view: there is no spread to judge.</p>"
    head = ["bin, field", "", "coverage / nominal", "|error| < 1 std / expected", "spread over skill", "CRPS skill"]
    text = (
        "<p>Coverage of the interval from the lowest to the highest sample. Spread over skill is 1 for a calibrated posterior, below 1 for one "
        "that is too narrow. CRPS skill is over the training split's distribution (total mass) and over the stacked profile (pixels). "
        "Binning in true mass biases even a perfect posterior a little (regression to the mean).</p>"
    )
    return text + table(head, rows)


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
