"""The engines on 1, 2 and 3 ranks: one trajectory, one way of skipping, and pieces that each takes from each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import LAUNCHERS, ROOT, environment
from engine_worker import glue, make_denoiser
from safetensors.torch import load_file

from hpcdiff.errors import UserError
from hpcdiff.sections import Train
from hpcdiff.train.engines import build_engine

ENGINES = [("ddp", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3)]
HALF = 3
LONG = {f"{engine} {stage}": 30 if stage == 3 else 100 for engine, stage in ENGINES}
"""Steps of the long runs; stage 3 is slow on CPUs."""
CROSSED = {  # on so many ranks: which engine takes whose pieces, which 2 ranks wrote
    1: [("ddp 0", "deepspeed 2"), ("deepspeed 0", "deepspeed 3"), ("deepspeed 1", "ddp 0"), ("deepspeed 3", "deepspeed 1")],
    3: [("ddp 0", "deepspeed 1"), ("deepspeed 1", "deepspeed 3"), ("deepspeed 2", "ddp 0"), ("deepspeed 3", "deepspeed 2")],
}


def launch(folder: Path, name: str, ranks: int, jobs: list[dict]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(jobs))
    command = [*LAUNCHERS["torchrun" if ranks > 1 else "alone"](ranks), str(Path(__file__).parent / "engine_worker.py"), str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Everything that the tests look at: three launches, of 2, 1 and 3 ranks."""
    folder = tmp_path_factory.mktemp("engines")
    jobs = []
    for engine, stage in ENGINES:
        at, job = f"{folder}/{engine} {stage}", {"engine": engine, "stage": stage}
        rest = list(range(5, LONG[f"{engine} {stage}"]))
        jobs += [
            {**job, "phases": [[list(range(HALF)), f"{at} half"], [[3, 4], f"{at} five"], [rest, f"{at} long"]]},
            {**job, "phases": [[[0, 1, 2, None], f"{at} skipped"], [[3, 4], f"{at} skipped five"]]},
            {**job, "seed": 1, "take": f"{at} half", "taken": [HALF, 0], "phases": [[[], f"{at} taken"], [[3, 4], f"{at} resumed"]]},
        ]
    printed = launch(folder, "two", 2, jobs)
    for ranks, pairs in CROSSED.items():
        jobs = []
        for engine, source in pairs:
            at, (kind, stage) = f"{folder}/{engine} at {ranks}", engine.split()
            job = {"engine": kind, "stage": int(stage), "seed": 1, "take": f"{folder}/{source} half", "taken": [HALF, 5]}
            jobs.append({**job, "phases": [[[], f"{at} taken"], [[3, 4], f"{at} resumed"]]})
        if ranks == 1:
            phases = [[list(range(30)), f"{folder}/alone 30"], [list(range(30, 100)), f"{folder}/alone 100"]]
            jobs.append({"engine": "ddp", "stage": 0, "phases": phases})
            bf16 = {"precision": "bf16", "phases": [[[0, 1], f"{folder}/ddp bf16"]]}
            jobs += [{"engine": "ddp", "stage": 0, **bf16}]
            jobs += [{"engine": "deepspeed", "stage": 1, **bf16, "phases": [[[0, 1], f"{folder}/deepspeed bf16"]]}]
        printed += launch(folder, f"on {ranks}", ranks, jobs)
    (folder / "printed").write_text(printed)
    return folder


def largest(a: dict, b: dict, kind: str) -> float:
    """Largest difference of the tensors of one kind."""
    assert set(a) == set(b)
    return max((a[k] - b[k]).abs().max().item() for k in a if k.startswith(kind))


def counters(folder: Path) -> dict:
    return json.loads((folder / "counters").read_text())


def same(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("engine", [f"{e} {s}" for e, s in ENGINES])
def test_engines_and_world_sizes_agree(runs, engine):
    n = LONG[engine]
    alone, other = glue(runs / f"alone {n}"), glue(runs / f"{engine} long")
    start = {f"weights/{k}": v for k, v in make_denoiser().named_parameters()}
    assert max((alone[k] - v).abs().max() for k, v in start.items()) > 0.5e-4 * n  # half of lr * steps
    worst = {kind: largest(alone, other, kind) for kind in ("weights", "ema", "exp_avg")}
    print(engine, f"on 2 ranks against ddp on 1, after {n} steps:", worst)
    assert worst["weights"] < 2e-5 and worst["ema"] < 2e-5 and worst["exp_avg"] < 1e-4
    for name in ("loss", "gradient_norm"):
        assert counters(runs / f"{engine} long")[name] == pytest.approx(counters(runs / f"alone {n}")[name], rel=1e-4)
    assert counters(runs / f"{engine} long")["updates"] == n


@pytest.mark.parametrize("engine", [f"{e} {s}" for e, s in ENGINES])
def test_a_bad_batch_of_one_rank_is_skipped_by_all(runs, engine):
    assert same(glue(runs / f"{engine} half"), glue(runs / f"{engine} skipped"))
    said = counters(runs / f"{engine} skipped")
    assert (said["updates"], said["skipped"], said["skipped_in_a_row"], said["poll"]) == (HALF, 1, 1, 1)
    assert not said["gradient_norm"] < float("inf")
    assert same(glue(runs / f"{engine} five"), glue(runs / f"{engine} skipped five"))
    said = counters(runs / f"{engine} skipped five")
    assert (said["updates"], said["skipped"], said["skipped_in_a_row"], said["poll"]) == (5, 1, 0, 0)


@pytest.mark.parametrize("engine", [f"{e} {s}" for e, s in ENGINES])
def test_an_engine_resumes_bit_for_bit_from_its_own_pieces(runs, engine):
    assert same(glue(runs / f"{engine} half"), glue(runs / f"{engine} taken"))
    assert same(glue(runs / f"{engine} five"), glue(runs / f"{engine} resumed"))


@pytest.mark.parametrize(("ranks", "engine", "source"), [(n, *pair) for n, pairs in CROSSED.items() for pair in pairs])
def test_each_engine_takes_the_pieces_of_each_at_another_world_size(runs, ranks, engine, source):
    assert same(glue(runs / f"{source} half"), glue(runs / f"{engine} at {ranks} taken"))
    resumed, five = glue(runs / f"{engine} at {ranks} resumed"), glue(runs / f"{source} five")
    assert largest(resumed, five, "weights") < 1e-6 and largest(resumed, five, "ema") < 1e-6
    said = counters(runs / f"{engine} at {ranks} resumed")
    assert (said["updates"], said["skipped"]) == (5, 5)


@pytest.mark.parametrize("name", ["alone 100", *(f"{e} {s} long" for e, s in ENGINES)])
def test_the_averaged_denoiser_holds_the_average(runs, name):
    whole, averaged = glue(runs / name), load_file(runs / name / "averaged")
    expected = {k.split("/", 1)[1]: v for k, v in whole.items() if k.startswith(("ema/", "buffers/"))}
    assert same(expected, averaged) and set(averaged) == set(make_denoiser().state_dict())
    assert largest(whole, {**whole, **{k.replace("ema/", "weights/"): v for k, v in whole.items() if k.startswith("ema/")}}, "weights") > 0


def test_the_ranks_share_optimiser_and_average_out(runs):
    for engine, stage in ENGINES:
        sizes = [sum(x.numel() for x in load_file(p).values()) for p in (runs / f"{engine} {stage} half").glob("*.safetensors")]
        assert len(sizes) == 2 and max(sizes) < 0.55 * sum(sizes)


def test_bf16_is_that_of_ddp(runs):
    ddp, other = glue(runs / "ddp bf16"), glue(runs / "deepspeed bf16")
    assert largest(ddp, other, "weights") < 1e-6
    exact = glue(runs / "ddp 0 half")
    assert largest({k: v for k, v in ddp.items() if "exp_avg/" in k}, {k: v for k, v in exact.items() if "exp_avg/" in k}, "exp_avg") > 1e-5


def test_deepspeed_is_silent(runs):
    lines = [line for line in (runs / "printed").read_text().splitlines() if line.strip()]
    assert not lines, "\n".join(lines[:20])


def test_a_missing_deepspeed_and_a_compiled_stage_3_are_refused(monkeypatch):
    class Alone:
        rank, size, device = 0, 1, torch.device("cpu")

    with pytest.raises(UserError, match="train.compile"):
        build_engine(Train(engine="deepspeed", zero_stage=3, compile=True), make_denoiser(), Alone())
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"hpcdiff\[deepspeed\]"):
        build_engine(Train(engine="deepspeed"), make_denoiser(), Alone())
