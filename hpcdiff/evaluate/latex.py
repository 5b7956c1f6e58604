"""Table 1 for a paper: LaTeX that compiles with booktabs and without, and the same numbers as a sheet."""

from __future__ import annotations

from hpcdiff.evaluate.export import Sheet
from hpcdiff.evaluate.look import bin_title, bins, field_name, part
from hpcdiff.evaluate.tables import COLUMNS, paper_row, rival_name, rivals

HEAD = r"""% made by hpcdiff evaluate; \input{table1} inside a table environment. Rules are those of booktabs where it is loaded.
\providecommand{\toprule}{\hline}
\providecommand{\midrule}{\hline}
\providecommand{\bottomrule}{\hline}
\begin{tabular}{llcccc}
\toprule
field & prediction & $b$, $k \geq SPLIT$ & $b$, $k < SPLIT$ & $r$, $k \geq SPLIT$ & $r$, $k < SPLIT$ \\
"""
SPECIAL = {c: "\\" + c for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(SPECIAL.get(c, c) for c in text)


def _number(summary: dict | None) -> str:
    """Median with the distances to 16 and 84 % of the views."""
    if not summary:
        return "--"
    m, low, high = (summary[q] for q in ("median", "p16", "p84"))
    return f"${m:.3f}_{{-{m - low:.3f}}}^{{+{high - m:.3f}}}$"


def _plain(value: float | None) -> str:
    return "--" if value is None else f"${value:.3f}$"


def table1(metrics: dict) -> tuple[str, Sheet]:
    """The LaTeX (a tabular), and a sheet of medians and 16-84 %."""
    sheet = Sheet("bin", "field", "prediction", "quantity", "median", "p16", "p84")
    text = HEAD.replace("SPLIT", f"{metrics['config']['evaluate']['k_split']:g}")
    names = [*bins(metrics, "table1"), "all"]
    for name in dict.fromkeys(names):
        words = bin_title(metrics, name)
        text += f"\\midrule\n\\multicolumn{{6}}{{l}}{{{words if '$' in words else escape(words)}}} \\\\\n"
        for field, entry in (part(metrics, "table1", name) or {}).items():
            rows = [
                ("mean of the samples", "samples_mean", entry),
                ("each sample", "each_sample", metrics["table1_per_sample"][name][field]),
            ]
            base = part(metrics, "baseline", name, field) or {}
            rows += [(rival_name(n), n, base[n]) for n in rivals(metrics) if base.get(n)]
            for first, (words, key, of) in enumerate(rows):
                text += " & ".join([escape(field_name(field)) if not first else "", escape(words), *(_number(of.get(q)) for q in COLUMNS)])
                text += " \\\\\n"
                for q in COLUMNS:
                    summary = of.get(q) or {}
                    sheet.add(name, field, key, q, *(summary.get(s) for s in ("median", "p16", "p84")))
            if paper := paper_row(metrics, name, field):
                text += " & ".join(["", r"Hsu et al.\ (2025)", *map(_plain, paper)]) + " \\\\\n"
                for q, value in zip(COLUMNS, paper, strict=True):
                    sheet.add(name, field, "hsu2025", q, value, None, None)
    return text + "\\bottomrule\n\\end{tabular}\n", sheet
