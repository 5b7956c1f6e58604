"""The table of a sweep, by closed forms on made-up metrics."""

import csv
import json
import math

import pytest
from conftest import run

from hpcdiff.sweep.gather import combine, gather, lines, numbers_of, write_tables
from hpcdiff.sweep.members import expand, write_members
from hpcdiff.sweep.spec import read_sweep

SEEDS = (0, 1, 2)
T2 = 4.302652729911275
"""97.5th percentile of Student's t with two degrees of freedom."""


def summary(mean, error):
    return {"mean": mean, "median": 99.0, "p16": 99.0, "p84": 99.0, "error_of_mean": error, "n_views": 4, "n_halos": 2}


def finish(folder, value, error=0.1, loss=None):
    """A member that is done, with all quantities made of one number."""
    for stage in ("train", "sample", "evaluate"):
        (folder / f"{stage}.status.json").write_text('{"exit": 0, "reason": ""}')
    (folder / "model").mkdir()
    (folder / "samples.h5").touch()
    (folder / "stats.jsonl").write_text(
        f'{{"images": 8, "validation_loss": 9.0}}\n{{"images": 16, "validation_loss": {loss or value}}}\n{{"images": 17, "loss": 1}}\n{{"images": 2'
    )
    table = {q: summary(value + n, error) for n, q in enumerate(("b_small", "b_large", "r_small", "r_large"))}
    metrics = {
        "table1": {"low": {"gas": None}, "all": {"gas": table, "dm": table | {"b_small": None}}},
        "total_mass_error": {"all": {"gas": summary(-value, error)}},
        "squared_error": {"all": {"gas": summary(value**2, None) | {"relative": summary(value / 7, error)}}},
        "calibration": {
            "all": {
                "gas": {
                    "total": {"crps_skill_over_climatology": {"value": value / 2, "error": error}},
                    "pixel": {"crps_skill_over_stacked_profile": None},
                }
            }
        },
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def members(tmp_path):
    """Two settings of three seeds, started and not finished."""
    (tmp_path / "base.yaml").write_text(f"run: {{dir: {tmp_path}/base}}\n")
    (tmp_path / "sweep.yaml").write_text(
        f"base: {tmp_path}/base.yaml\ndir: {tmp_path}/s\nmaps: {tmp_path}/m.h5\nvary: {{train.subset: [0.5, 1.0], run.seed: [0, 1, 2]}}\n"
    )
    sweep = read_sweep(tmp_path / "sweep.yaml")
    found = expand(sweep)
    write_members(sweep, found)
    return found


def row(rows, subset, field, quantity):
    (found,) = [r for r in rows if (r.setting["train.subset"], r.field, r.quantity) == (subset, field, quantity)]
    return found


def test_mean_interval_and_halo_error_are_those_of_the_closed_form():
    mean, low, high, halo = combine([1.0, 2.0, 6.0], [0.3, None, 0.4])
    deviation = math.sqrt((4 + 1 + 9) / 2)
    assert (
        mean == 3.0 and high - mean == pytest.approx(T2 * deviation / math.sqrt(3), rel=1e-9) and mean - low == pytest.approx(high - mean)
    )
    assert halo == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert combine([5.0], [0.2]) == (5.0, None, None, pytest.approx(0.2))
    assert combine([5.0, 5.0], [None, None]) == (5.0, 5.0, 5.0, None)


def test_seeds_are_averaged_and_settings_are_not(members, tmp_path):
    values = [1.0, 2.0, 6.0, 10.0, 20.0, 60.0]
    for m, v in zip(members, values, strict=True):
        finish(m.folder, v, loss=v + 0.5)
    rows, missing, _ = gather(tmp_path / "s")
    assert missing == []
    for scale, subset in ((1, 0.5), (10, 1.0)):
        half = T2 * math.sqrt(7 / 3) * scale
        first = row(rows, subset, "gas", "b_small")
        assert (first.members, first.mean, first.halo_error) == (3, pytest.approx(3 * scale), pytest.approx(0.1))
        assert first.high == pytest.approx(3 * scale + half, rel=1e-9)
        assert row(rows, subset, "gas", "r_large").mean == pytest.approx(3 * scale + 3)
        assert row(rows, subset, "gas", "total_mass_error").mean == pytest.approx(-3 * scale)
        square = row(rows, subset, "gas", "squared_error")
        assert square.mean == pytest.approx(41 / 3 * scale**2) and square.halo_error is None
        assert row(rows, subset, "gas", "relative_squared_error").mean == pytest.approx(3 * scale / 7)
        assert row(rows, subset, "gas", "crps_skill_total").mean == pytest.approx(1.5 * scale)
        loss = row(rows, subset, "", "validation_loss")
        assert loss.mean == pytest.approx(3 * scale + 0.5) and loss.halo_error is None  # the last one, and the cut line is no hindrance
    assert not [r for r in rows if r.quantity == "crps_skill_pixel" or (r.field, r.quantity) == ("dm", "b_small")]  # null there


def test_what_failed_or_is_not_finished_is_listed_and_not_counted(members, tmp_path):
    for m in members[:5]:
        finish(m.folder, 1.0)
    (members[0].folder / "sample.status.json").write_text('{"exit": 2, "reason": "the disk is full"}')
    (members[1].folder / "train.status.json").write_text('{"exit": 75, "reason": "saved at image 8"}')
    (members[2].folder / "metrics.json").unlink()
    rows, missing, content = gather(tmp_path / "s")
    assert missing == [
        (members[0].name, "failed", "sample: the disk is full"),
        (members[1].name, "unfinished", "train stopped: saved at image 8"),
        (members[2].name, "unfinished", "evaluate ended, but metrics.json is gone"),
        (members[5].name, "not started", ""),
    ]
    assert {r.setting["train.subset"] for r in rows} == {1.0} and {r.members for r in rows} == {2}
    text = "\n".join(lines(rows, missing, 6))
    assert "2 of 6 members are done" in text and "the disk is full" in text and members[5].name in text


def test_files_hold_what_was_found(members, tmp_path):
    for m, v in zip(members, (1.0, 2.0, 6.0, 4.0, 4.0, 4.0), strict=True):
        finish(m.folder, v)
    rows, missing, _ = gather(tmp_path / "s")
    write_tables(tmp_path / "s", rows, missing)
    with open(tmp_path / "s" / "table.csv") as f:
        table = list(csv.DictReader(f))
    assert len(table) == len(rows)
    (line,) = [t for t in table if (t["train.subset"], t["field"], t["quantity"]) == ("0.5", "gas", "total_mass_error")]
    assert float(line["mean"]) == pytest.approx(-3.0) and float(line["high"]) - float(line["mean"]) == pytest.approx(T2 * math.sqrt(7 / 3))
    stored = json.loads((tmp_path / "s" / "table.json").read_text())
    assert [r["mean"] for r in stored["rows"]] == [r.mean for r in rows] and stored["missing"] == []


def test_the_command_prints_the_table_and_draws_it(members, tmp_path):
    for m, v in zip(members, (1.0, 2.0, 6.0, 4.0, 4.0, 4.0), strict=True):
        finish(m.folder, v)
    done = run("sweep", tmp_path / "sweep.yaml", "--gather")
    assert done.returncode == 0, done.stderr
    assert "6 of 6 members are done" in done.stdout and "3±6.6 [±0.1]" in done.stdout
    assert (tmp_path / "s" / "table.png").read_bytes()[:4] == b"\x89PNG"


def test_a_member_without_files_has_no_numbers(tmp_path):
    assert numbers_of(tmp_path) == {}
