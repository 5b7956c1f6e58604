"""Two runs to be compared: read, held against each other, and their differences view by view where the views are the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.evaluate.about import model_config
from hpcdiff.evaluate.bins import Bin
from hpcdiff.evaluate.contest import read_statistics
from hpcdiff.evaluate.look import field_name, part
from hpcdiff.evaluate.run import FORMAT, VERSION
from hpcdiff.versions import refuse_version

DRAWS = 1000
"""Bootstrap draws over halos of a paired difference."""
SCORES = {
    "squared_error": "squared error of the mean map (map units²)",
    "crps": "CRPS of the pixels (map units)",
    "relative_error": "rms error of the mean map over the rms of the truth",
    "total_error": "|total mass error|",
}
"""Columns of `views.csv` that are scores, the smaller the better; of `total_error` the size counts."""


class Run:
    """An evaluated run: `metrics.json`, and what lies beside it.

    Args:
        path: its folder, or its `metrics.json`.

    Attributes:
        name, folder, metrics, views ({column: list} of `figures/views.csv`; None where it is missing or of other metrics),
        settings, training ({dotted key: value} of evaluation and sampling, and of the model; the latter empty where it is not beside),
        statistics (lines of `stats.jsonl`).
    Raises:
        UserError: there are no metrics of ours.
    """

    def __init__(self, path: str) -> None:
        path = Path(path)
        file = path / "metrics.json" if path.is_dir() else path
        try:
            self.metrics = json.loads(file.read_text())
        except OSError as error:
            raise UserError(
                f"the metrics cannot be read ({error.strerror})", file, "name a run folder that was evaluated, or its metrics.json"
            ) from None
        except ValueError:
            raise UserError("not a metrics file of ours: it is no JSON", file, "run evaluate again") from None
        whole = isinstance(self.metrics, dict) and self.metrics.get("format") == FORMAT
        if whole:
            refuse_version("metrics file", self.metrics.get("version"), VERSION, file, "run evaluate again (--overwrite)")
        if not whole or not part(self.metrics, "config", "task", "outputs") or not part(self.metrics, "profile", "all"):
            raise UserError("not a metrics file of ours", file, "run evaluate again")
        self.folder = file.absolute().parent
        self.name = self.folder.name
        self.statistics = read_statistics(self.folder)
        self.views = self._views(self.folder / "figures" / "views.csv")
        self.settings, self.training = self._settings(), self._training()

    @property
    def outputs(self) -> list[str]:
        """The fields that it makes."""
        return self.metrics["config"]["task"]["outputs"]

    def _views(self, path: Path) -> dict[str, list] | None:
        try:
            with open(path, newline="") as f:
                rows = list(csv.DictReader(f))
            columns = {k: np.array([float(r[k]) if r[k] else np.nan for r in rows]) for k in rows[0] if k != "axis"}
            for field in self.outputs:  # an older evaluation's file may have stayed
                mean = self.metrics["squared_error"]["all"][field]["mean"]
                if not np.isclose(columns[f"{field}_squared_error"].mean(), mean, rtol=1e-6):
                    return None
            return columns
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None

    def _training(self) -> dict[str, object]:
        trained = {k: v for k, v in (model_config(self.folder / "model") or {}).items() if k != "run"}
        return {k: v for k, v in flatten(trained).items() if not k.startswith("task.")}

    def _settings(self) -> dict[str, object]:
        named = {k: self.metrics.get(k) for k in ("sampler", "steps", "nfe", "samples", "seed", "model", "parts", "control")}
        out = {f"samples: {k}": v for k, v in named.items()} | flatten(self.metrics["config"])
        out |= {"fingerprint of the maps": part(self.metrics, "inputs", "maps")}
        return out


def flatten(node: dict, before: str = "") -> dict[str, object]:
    """{dotted key: value} of nested dictionaries."""
    out = {}
    for key, value in node.items():
        out |= flatten(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return out


def refuse_unlike(a: Run, b: Run) -> None:
    """Raise a UserError if the two runs don't measure the same things."""
    if set(a.outputs) != set(b.outputs):
        raise UserError(
            f"the runs make other fields ({', '.join(a.outputs)}; {', '.join(b.outputs)})",
            f"{a.folder} and {b.folder}",
            "compare runs with the same task.outputs",
        )
    splits = [r.metrics["config"]["evaluate"]["k_split"] for r in (a, b)]
    if splits[0] != splits[1]:
        raise UserError(
            f"scales are split at {splits[0]:g} and {splits[1]:g} h/Mpc",
            f"{a.folder} and {b.folder}",
            "evaluate both with the same evaluate.k_split",
        )


def same_maps(a: Run, b: Run) -> bool:
    """Were both evaluated on the same map file?"""
    prints = [part(r.metrics, "inputs", "maps") for r in (a, b)]
    return prints[0] is not None and prints[0] == prints[1]


def differing(a: Run, b: Run) -> list[tuple[str, object, object]]:
    """(key, value in A, value in B) of all that differs, in the config and in what was sampled; of training, where both say it."""
    x, y = ({**r.settings, **(r.training if a.training and b.training else {})} for r in (a, b))
    return [(k, x.get(k), y.get(k)) for k in dict.fromkeys((*x, *y)) if x.get(k) != y.get(k)]


def common_bins(a: Run, b: Run) -> list[str]:
    """Bins that mean the same in both: of mass with the same edges, of the signal on the same maps, and `all`."""
    edges = [r.metrics["config"]["evaluate"]["mass_bins"] for r in (a, b)]
    return [*(n for n in edges[0] if edges[0][n] == edges[1].get(n)), "all"]


def paired(a: Run, b: Run) -> tuple[list[dict], str]:
    """Scores of the views that both runs have, B - A by halo; and a reason where there are none.

    Returns:
        ({"field", "score", "a", "b" (means), "difference", "error" (bootstrap over halos), "better" (share of the halos where B is),
        "n_views", "n_halos", "values": (A's, B's) by view}, ...), reason.
    """
    if not same_maps(a, b):
        return [], "the runs were evaluated on other maps"
    missing = [r.name for r in (a, b) if r.views is None]
    if missing:
        return [], f"figures/views.csv of {' and '.join(dict.fromkeys(missing))} is missing or of another evaluation"
    _, i, j = np.intersect1d(a.views["view"], b.views["view"], return_indices=True)
    if not len(i):
        return [], "the runs have no view in common"
    halos, out = a.views["halo_id"][i].astype(np.int64), []
    of = Bin(halos, DRAWS)
    for field in a.outputs:
        for score in SCORES:
            x, y = (np.abs(r.views[f"{field}_{score}"][rows]) for r, rows in ((a, i), (b, j)))
            summary = of.summary(y - x)
            if summary is None or not np.isfinite(x + y).all():
                continue
            mine, other = of.per_halo(x), of.per_halo(y)
            out.append({
                "field": field, "score": score, "a": float(x.mean()), "b": float(y.mean()), "difference": summary["mean"],
                "error": summary["error_of_mean"], "better": float((other < mine).mean()), "n_views": len(i), "n_halos": of.n, "values": (x, y),
            })  # fmt: skip
    return out, ""


def label(score: str, field: str) -> str:
    """A score in words."""
    return f"{field_name(field)}, {SCORES[score]}"
