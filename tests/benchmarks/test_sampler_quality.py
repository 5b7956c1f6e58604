"""The sampler benchmark's own statistics: scores by closed form, paired differences, the rule for `auto`, pieces that are not drawn twice."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from samplers import contest, speed, tables, width
from samplers.draw import PIECE, Setting, Views
from samplers.scores import NAMES, nominal, score, score_views

from hpcdiff import diffusion
from hpcdiff.diffusion import VESDE

S, NPIX, WIDTH, H = 10, 32, 12.8, 0.7


def posterior(views: int, spread: float, centre: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples (views, 1, S, npix, npix) and truths (views, 1, npix, npix): white noise of deviation 1 about 10, the samples' `spread`, `centre`."""
    rng = np.random.default_rng(seed)
    mean = 10 + 3 * rng.standard_normal((views, 1, 1, NPIX, NPIX))
    truth = (mean + rng.standard_normal(mean.shape))[:, :, 0]
    return mean + centre + spread * rng.standard_normal((views, 1, S, NPIX, NPIX)), truth


def scored(views: int, spread: float, centre: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    x, y = posterior(views, spread, centre, seed)
    return score_views(x, y, np.full(views, WIDTH), H)


def test_scores_of_samples_that_are_the_truth_times_a_factor():
    truth = 1 + np.random.default_rng(1).random((NPIX, NPIX))
    found = score(np.repeat(1.2 * truth[None], S, 0), truth, WIDTH, H)
    assert set(found) == set(NAMES)
    expected = {f"{p}{q}_{band}": x for p in ("", "sample_") for q, x in (("b", 1.2), ("r", 1.0)) for band in ("small", "large")}
    expected |= {"profile_error": 0.2, "total_crps": 0.2, "pixel_crps": 0.2, "total_square": 0.04}
    expected |= dict.fromkeys(("pixel_coverage", "total_coverage", "pixel_variance"), 0.0)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_a_perfect_posterior_has_the_nominal_coverage_spread_and_crps():
    scores = scored(100, 1.0)
    found = contest.summarise(scores, contest.resamples(100), S)
    assert found["pixel_coverage"][0] == pytest.approx(nominal(S), abs=0.004)
    assert found["total_coverage"][0] == pytest.approx(nominal(S), abs=0.12)
    assert found["pixel_spread_skill"][0] == pytest.approx(1.0, abs=0.01)
    assert found["total_spread_skill"][0] == pytest.approx(1.0, abs=0.2)
    assert found["pixel_crps"][0] == pytest.approx(1 / math.sqrt(math.pi) / 10, rel=0.01)
    assert found["total_crps"][0] == pytest.approx(1 / math.sqrt(math.pi) / 10 / NPIX, rel=0.2)
    assert found["sample_b_small"][0] == pytest.approx(1.0, abs=0.01)
    assert found["sample_r_small"][0] == pytest.approx(0.9, abs=0.01)


def test_the_bootstrap_gives_the_error_of_a_mean():
    values = np.random.default_rng(2).standard_normal((200, 1))
    scores = {name: values**2 for name in NAMES}
    found = contest.summarise(scores, contest.resamples(200), S)["pixel_crps"]
    assert found[0] == pytest.approx((values**2).mean())
    assert found[1:].std() == pytest.approx((values**2).std() / math.sqrt(200), rel=0.1)


def test_samples_too_narrow_too_wide_or_beside_the_truth_are_worse_and_a_second_draw_is_not():
    rows = contest.resamples(60)

    def against(spread: float, centre: float, seed: int) -> list[str]:
        mine, reference = scored(60, spread, centre, seed), scored(60, 1.0)
        return contest.worse(contest.against(*(contest.summarise(x, rows, S) for x in (mine, reference)), S))

    assert against(1.0, 0.0, 0) == []
    assert {"pixel_crps 0", "pixel_coverage 0"} <= set(against(0.5, 0.0, 0))
    assert {"pixel_crps 0", "pixel_coverage 0"} <= set(against(2.0, 0.0, 0))
    assert {"total_crps 0", "total_coverage 0"} <= set(against(1.0, 0.2, 0))


def found_with(lost: float, error: float, name: str = "pixel_crps") -> dict:
    fine = {"loss": [0.0, 0.0], "loss_error": [0.01, 0.01]}
    return {q: fine for q in (*contest.CRPS, *contest.COVERAGE)} | {name: {"loss": [0.0, lost], "loss_error": [0.0, error]}}


def test_differences_are_paired_so_that_a_small_loss_shows_through_the_scatter_of_halos():
    rng = np.random.default_rng(3)
    values = np.exp(rng.standard_normal((40, 1)))
    reference = {name: values for name in NAMES}
    rows = contest.resamples(40)
    alone = contest.summarise(reference, rows, S)["pixel_crps"]
    assert alone[1:].std() / alone[0] > 0.1
    for factor, expected in ((1.02, True), (1.0, False)):
        mine = {name: factor * values * (1 + 0.01 * rng.standard_normal(values.shape)) for name in NAMES}
        found = contest.against(contest.summarise(mine, rows, S), contest.summarise(reference, rows, S), S)
        assert found["pixel_crps"]["loss"][0] == pytest.approx(factor - 1, abs=0.006)
        assert found["pixel_crps"]["loss_error"][0] < 0.005
        assert ("pixel_crps 0" in contest.worse(found)) is expected


@pytest.mark.parametrize(
    ("lost", "error", "bad"), [(0.019, 0.01, False), (0.021, 0.01, True), (0.099, 0.5, False), (0.101, 0.5, True), (-0.5, 0.01, False)]
)
@pytest.mark.parametrize("name", ["total_crps", "total_coverage"])
def test_worse_is_what_loses_more_than_two_errors_or_more_than_the_margin(name, lost, error, bad):
    assert contest.worse(found_with(lost, error, name)) == ([f"{name} 1"] if bad else [])


def test_coverage_is_worse_on_either_side_of_the_nominal_one():
    for mine, reference, lost in ((0.7, 0.8, 0.1), (0.9, 0.8, nominal(S) * -2 + 1.7), (0.8, 0.7, -0.1)):
        assert contest.loss("pixel_coverage", np.array(mine), np.array(reference), S) == pytest.approx(lost)


def setting(sampler: str, nfe: int, lost: float, init: str = "matched", gaussian: float = -0.005, halos: int = 34) -> dict:
    return {
        "sampler": sampler,
        "curve": sampler,
        "steps": nfe,
        "nfe": nfe,
        "init": init,
        "gaussian": gaussian,
        "halos": halos,
        "against": found_with(lost, 0.01),
    }


def test_auto_is_the_cheapest_that_is_not_worse_and_of_equals_the_better():
    rows = [setting("a", 10, 0.1), setting("b", 20, 0.015), setting("c", 20, 0.005), setting("d", 40, -0.1)]
    assert contest.choose(rows)["sampler"] == "c"
    assert contest.choose(rows[:1]) is None
    lucky = setting("e", 5, 0.0, gaussian=-0.05)
    assert contest.choose([*rows, lucky])["sampler"] == "c"
    assert contest.choose([*rows, lucky], math.inf)["sampler"] == "e"
    assert contest.choose([*rows, setting("f", 5, 0.0, halos=16)])["sampler"] == "c"  # drawn for a part of the halos


def test_a_setting_of_fewer_halos_is_held_against_the_reference_on_these():
    values = np.exp(np.random.default_rng(4).standard_normal((12, 1)))
    scores = {"reference": values, "few": 1.02 * values[:5], "more": np.concatenate([1.01 * values, values[:2]])}
    found = contest.compared({name: dict.fromkeys(NAMES, x) for name, x in scores.items()}, "reference", S)
    assert {name: halos for name, (halos, _) in found.items()} == {"reference": 12, "few": 5, "more": 12}
    for name, lost in (("few", 0.02), ("more", 0.01), ("reference", 0.0)):
        halos, of = found[name]
        assert of["pixel_crps"]["loss"] == pytest.approx([lost]) and of["pixel_crps"]["loss_error"] == pytest.approx([0], abs=1e-9)
        assert of["pixel_crps"]["reference"] == pytest.approx([values[:halos].mean()])


def test_the_table_of_the_documentation_is_the_measured_one():
    root = Path(__file__).resolve().parents[2]
    content = json.loads((root / "benchmarks" / "results" / "sampler_quality.json").read_text())
    assert tables.markdown(content) in (root / "docs" / "samplers.md").read_text()


def test_settings_of_few_halos_are_not_in_the_table():
    content = json.loads((Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "sampler_quality.json").read_text())
    rows, most = content["rows"], content["halos"]
    enough = math.ceil(tables.SHOWN * most)
    rows[0]["halos"], rows[1]["halos"] = enough, enough - 1
    lines = tables.markdown(content | {"rows": rows[:2]}).splitlines()
    assert len(lines) == 3 and f"`{rows[0]['sampler']}` | {rows[0]['init']} | {rows[0]['steps']} |" in lines[2]


def test_what_a_sampler_needs_is_not_a_lucky_coarse_setting():
    rows = [setting("a", 5, 0.0), setting("a", 10, 0.1), setting("a", 20, 0.0), setting("a", 40, 0.0), setting("a", 8, 0.0, "prior")]
    assert contest.needed(rows, "a", "matched") == 20
    assert contest.needed(rows, "b", "matched") is None
    assert contest.needed([setting("a", 5, 0.0), setting("a", 10, 0.1)], "a", "matched") is None


class Counting:
    """A model whose samples say which view they are of; it counts its calls."""

    def __init__(self) -> None:
        self.views = []

    def sample(self, inputs, samples, sampler, steps, seed, view, init, churn, batch_size):
        self.churn = churn
        assert len(inputs["sz"]) == len(view)
        self.views += view.tolist()
        return {"gas": np.broadcast_to(view[:, None, None, None], (len(view), samples, 4, 4)).astype(np.float32)}


def test_pieces_are_drawn_once_and_samples_end_before_a_missing_one(tmp_path):
    rows, model = np.arange(100, 100 + 2 * PIECE + 1), Counting()
    views = SimpleNamespace(model=model, rows=rows, inputs={"sz": np.zeros((len(rows), 4, 4))}, fields=["gas"], samples=3, seed=0, npix=4)
    views.name, views._draw_piece = "x", lambda *piece: Views._draw_piece(views, *piece)
    one = Setting("dpmpp_2m", 6)
    assert Views.draw(views, one, tmp_path, 0).shape == (0, 1, 3, 4, 4)
    assert len(Views.draw(views, one, tmp_path, PIECE)) == PIECE == len(model.views)
    first = Views.draw(views, one, tmp_path)
    assert first[:, 0, 0, 0, 0].tolist() == rows.tolist() == model.views
    (tmp_path / "x" / one.name / f"{PIECE:04d}.npy").unlink()
    assert len(Views.draw(views, one, tmp_path, 0)) == PIECE
    assert np.array_equal(Views.draw(views, one, tmp_path), first)
    assert model.views[len(rows) :] == rows[PIECE : 2 * PIECE].tolist()
    assert model.churn == 0
    stirred = Setting("heun", 6, churn=2.5)
    assert len(Views.draw(views, stirred, tmp_path)) == len(rows) and model.churn == 2.5
    assert stirred.name != Setting("heun", 6).name and stirred.curve != Setting("heun", 6).curve


def test_time_of_a_cluster_in_proportion_and_whether_it_may_be():
    assert speed.cluster([1.0, 2.0], (10, 20), 1000) == pytest.approx(100.0)
    assert speed.linearity([1.0, 2.0], (10, 20)) == pytest.approx(1.0)
    assert speed.linearity([2.0, 2.2], (10, 20)) == pytest.approx(0.55)
    assert speed.spread([3.0, 1.0, 2.0]) == [2.0, 1.0, 3.0]


class Coherent:
    """A model whose maps are 10 everywhere plus one number for all pixels, a mode of deviation `MODE`, with the exact denoiser."""

    MODE, PIXEL = 2.0, 0.01

    def __init__(self, precondition="edm"):
        self.config = {"diffusion": {"sigma_min": 0.01, "sigma_max": 0.7, "precondition": precondition}}

    def sample(self, inputs, samples, sampler, steps, seed, view, init, batch_size):
        sigma_max = self.config["diffusion"]["sigma_max"]

        def denoise(x, sigma):
            sigma, flat = sigma[:, None, None, None], x - 10
            mode = flat.mean((2, 3), keepdim=True)
            wide, thin = (v**2 / (v**2 + sigma**2) for v in (self.MODE, self.PIXEL))
            return 10 + wide * mode + thin * (flat - mode)

        shape = (len(view) * samples, 1, NPIX, NPIX)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * math.sqrt((self.MODE / NPIX) ** 2 + sigma_max**2) + 10
        x = diffusion.sample(denoise, shape, VESDE(0.01, sigma_max), sampler, steps, seed, start)
        return {"gas": x.reshape(len(view), samples, NPIX, NPIX).numpy()}


def coherent_views(n, **model):
    truth = 10 + Coherent.MODE / NPIX * np.random.default_rng(3).standard_normal((n, 1, 1, 1)) + np.zeros((1, 1, NPIX, NPIX))
    about = {"fields": ["gas"], "width_mpc": np.full(n, WIDTH), "h": H, "samples": S, "seed": 0, "rows": np.arange(n), "inputs": {}}
    return SimpleNamespace(model=Coherent(**model), truth=truth.astype(np.float32), **about)


def test_noise_below_the_width_of_a_mode_makes_its_posterior_too_narrow_above_all_by_an_ode(capsys):
    """The closed form of the ODE: the start's deviation times sqrt((s^2 + sigma_min^2) / (s^2 + sigma_max^2))."""
    views = coherent_views(150)
    rows = width.compare(views, [0.7, 8.0])
    found = {(row["sampler"], row["sigma_max"]): row["total_spread_skill"]["value"][0] for row in rows}
    narrow = math.sqrt((0.7**2 + (2 / NPIX) ** 2) / (2**2 + 0.7**2))
    assert found["dpmpp_2m", 0.7] == pytest.approx(narrow, rel=0.15) and found["dpmpp_2m", 8.0] == pytest.approx(1, abs=0.12)
    assert found["dpmpp_2m", 0.7] < 0.5 * found["dpmpp_2m", 8.0] and found["dpmpp_2m", 0.7] < found["dpmpp_2m_sde", 0.7]
    assert views.model.config["diffusion"]["sigma_max"] == 0.7
    assert len(width.markdown(rows).splitlines()) == 6 and "`dpmpp_2m_sde` | 8 |" in capsys.readouterr().out
    assert [row["nfe"] for row in rows[:2]] == [width.steps(0.7, 0.01), width.steps(8.0, 0.01)] == [14, 22]


def test_the_table_of_widths_in_the_documentation_is_the_measured_one():
    root = Path(__file__).resolve().parents[2]
    content = json.loads((root / "benchmarks" / "results" / "sampler_width.json").read_text())
    assert width.markdown(content["rows"]) in (root / "docs" / "samplers.md").read_text()


def test_a_model_that_knows_no_wider_noise_is_refused():
    with pytest.raises(SystemExit, match="precondition=ve"):
        width.compare(coherent_views(2, precondition="ve"), [1.0])
