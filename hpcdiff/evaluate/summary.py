"""`python -m hpcdiff.evaluate.summary RUN_DIR [CONTROL_DIR]`: the metrics of a run in a screenful, beside the baselines and a control."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hpcdiff.errors import UserError
from hpcdiff.evaluate.look import part
from hpcdiff.evaluate.tables import COLUMNS, PAPER_BINS, PAPER_TABLE1, rival_name, rivals


def read(folder: str) -> dict:
    """`metrics.json` of a run.

    Raises:
        UserError: it is not there or not readable.
    """
    path = Path(folder) / "metrics.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"the metrics cannot be read ({error})", path, "run evaluate first") from None


def lines(metrics: dict, control: dict | None) -> list[str]:
    """Table 1, squared errors, total mass errors; all test views unless a bin is named."""
    out = ["Table 1, medians of the mean map      b small  b large  r small  r large"]
    same_bins = metrics["config"]["evaluate"]["mass_bins"] == PAPER_BINS
    for name, fields in metrics["table1"].items():
        for field, entry in (fields or {}).items():
            n = next((e["n_halos"] for e in entry.values() if e), 0)
            out.append(f"  {name:5s} {field:5s} ({n:3d} halos)" + " " * 14 + _row([entry[q] and entry[q]["median"] for q in COLUMNS]))
            if same_bins and (name, field) in PAPER_TABLE1:
                out.append(f"  {'the paper, 128x128':33s}" + _row(PAPER_TABLE1[name, field]))
    out.append("Squared error of the mean map (map units^2), mean over the test views")
    everything = metrics["squared_error"]["all"] or {}
    for field, error in everything.items():
        cells = [f"model {error['mean']:.4g}"]
        for name in rivals(metrics):
            base = part(metrics, "baseline", "all", field, name, "squared_error")
            cells.append(f"{rival_name(name)} {base['mean']:.4g}" if base else f"{rival_name(name)} -")
        if control:
            cells.append(f"shuffled inputs {control['squared_error']['all'][field]['mean']:.4g}")
        out.append(f"  {field:5s} " + "   ".join(cells))
    out.append("Total mass error, median (16 ... 84 % of the test views)")
    for field, error in (metrics["total_mass_error"]["all"] or {}).items():
        text = f"  {field:5s} {error['median']:+.4f} ({error['p16']:+.4f} ... {error['p84']:+.4f})"
        if control:
            other = control["total_mass_error"]["all"][field]
            text += f"   shuffled inputs {other['median']:+.4f} ({other['p16']:+.4f} ... {other['p84']:+.4f})"
        out.append(text)
    return out


def _row(values) -> str:
    return "".join(f"{v:9.3f}" if v is not None else "        -" for v in values)


def main(argv: list[str] | None = None) -> int:
    """Print the summary; returns 0, or 2 if a file is missing."""
    folders = sys.argv[1:] if argv is None else argv
    try:
        if len(folders) not in (1, 2):
            raise UserError(
                "give one or two run folders", "command line", "usage: python -m hpcdiff.evaluate.summary RUN_DIR [CONTROL_DIR]"
            )
        metrics = [read(folder) for folder in folders]
    except UserError as error:
        print(f"hpcdiff evaluate: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(metrics[0], metrics[1] if len(metrics) == 2 else None)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
