"""`task.method: regression`: the conditional mean of a linear Gaussian toy by its closed form, restarts, ranks, and what is left out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import ROOT, make_maps, run

import hpcdiff
from hpcdiff.config import read_config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.diffusion import denoising_loss
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.network import NCSNpp
from hpcdiff.regression import RegressionDenoiser
from hpcdiff.sections import Train
from hpcdiff.train.agreement import finished
from hpcdiff.train.data import Batch
from hpcdiff.train.engines import build_engine

NOISE = 0.25
"""Standard deviation of the toy's targets about their conditional mean."""
SIGMA = [(0.5**2 + NOISE**2) ** 0.5, (0.3**2 * 7 / 8 + NOISE**2) ** 0.5]
"""Of the toy's targets about their climatological mean: one column of eight has no neighbour to depend on."""
CONFIG = """
run: {{dir: {dir}, maps: {maps}}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1, dropout: {dropout}}}
diffusion: {{precondition: edm}}
task: {{transform: asinh, method: regression}}
train: {{batch_size: 6, images: 120, precision: fp32, lr: 1.0e-3, ema: 0.99, checkpoint_every: 60, validate_every: 60, log_every: 30}}
"""


def conditional_mean(c):
    """E[x | c] (B, 2, 8, 8) of conditions (B, 1, 8, 8): 1 + c / 2, and -0.3 of the left neighbour."""
    left = torch.nn.functional.pad(c, (1, 0))[..., :-1]
    return torch.cat([1 + 0.5 * c, -0.3 * left], 1)


def toy(n, seed):
    g = torch.Generator().manual_seed(seed)
    c, noise, z = (torch.randn(n, k, 8, 8, generator=g) for k in (1, 2, 2))
    return Batch(conditional_mean(c) + NOISE * noise, 3 + 2 * c, torch.rand(n, generator=g), z)


def denoiser():
    torch.manual_seed(0)
    network = NCSNpp(2, 2, 1, channels=8, multipliers=(1,), blocks=1, attention=[])
    mean = torch.tensor([1.0, 0.0])[:, None, None]
    return RegressionDenoiser(network, SIGMA, mean, torch.tensor([3.0])[:, None, None], torch.tensor([2.0]))


def test_it_learns_the_conditional_mean_and_its_loss_is_the_noise_s_part_of_the_variance():
    engine = build_engine(Train(precision="fp32"), denoiser(), SimpleNamespace(rank=0, size=1, device=torch.device("cpu")))
    held = toy(256, 10**6)
    with engine.averaged() as untrained, torch.no_grad():
        assert engine.losses(untrained, held).mean() == pytest.approx(1, abs=0.03)  # the climatological mean
    for k in range(200):
        engine.step(toy(16, k), 1e-2 * (1 - k / 200), 0.9)
    least = np.mean([NOISE**2 / s**2 for s in SIGMA])  # 0.32
    with engine.averaged() as trained, torch.no_grad():
        assert engine.losses(trained, held).mean() == pytest.approx(least, abs=0.015)
        error = (trained(held.target, held.u, held.condition) - conditional_mean((held.condition - 3) / 2)) ** 2
    assert (error.mean((0, 2, 3)) / torch.tensor(SIGMA) ** 2 < 0.015).all()


def test_it_looks_at_the_condition_alone():
    d, batch = denoiser().eval(), toy(3, 1)
    for p in d.network.pyramid_out.parameters():  # the last convolution starts near 0
        torch.nn.init.normal_(p)
    answers = [d(x, sigma, batch.condition) for x, sigma in ((batch.target, batch.u), (100 * batch.z, 7 + batch.u))]
    assert torch.equal(*answers) and answers[0].std() > 0.1
    assert not torch.equal(d(batch.target, batch.u, batch.condition.flip(0)), answers[0])


def test_it_sees_the_condition_standardised():
    d, c = denoiser().eval(), torch.randn(3, 1, 8, 8)
    for p in d.network.pyramid_out.parameters():
        torch.nn.init.normal_(p)
    plain = RegressionDenoiser(d.network, SIGMA, d.mean)
    x, sigma = torch.zeros(3, 2, 8, 8), torch.zeros(3)
    torch.testing.assert_close(d(x, sigma, 3 + 2 * c), plain(x, sigma, c), rtol=1e-4, atol=1e-5)
    assert (plain(x, sigma, 3 + 2 * c) - plain(x, sigma, c)).abs().max() > 0.1


def test_its_loss_is_the_squared_error_over_the_variance():
    d, batch = denoiser(), toy(4, 2)
    sigma = d.noise_levels(batch.u)
    loss = denoising_loss(d, batch.target, batch.condition, sigma, batch.z, d.weight(sigma))
    error = (d(batch.target, sigma, batch.condition) - batch.target) ** 2 / torch.tensor(SIGMA)[:, None, None] ** 2
    torch.testing.assert_close(loss, error.mean((1, 2, 3)))


def test_it_has_the_score_network_s_parameters():
    config = read_config_of("diffusion").resolved()
    counts = []
    for method in ("diffusion", "regression"):
        config["task"]["method"] = method
        counts.append({k: p.shape for k, p in build_denoiser(config).named_parameters()})
    assert counts[0] == counts[1]


def read_config_of(method):
    return read_config(ROOT / "configs" / "quickstart.yaml", [f"task.method={method}"])


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "maps.h5"
    make_maps(path, halos=30, npix=16)
    return path


def config_in(folder, maps, dropout=0.0):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text(CONFIG.format(dir=folder, maps=maps, dropout=dropout))
    return folder / "c.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, maps):
    """An undisturbed run, with dropout, whose draws must come back too."""
    folder = tmp_path_factory.mktemp("whole")
    done = run("train", config_in(folder, maps, 0.1))
    assert done.returncode == 0, done.stderr
    assert "regression" in done.stdout and "noise" not in done.stdout
    return folder


def weights(folder):
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def test_a_restart_gives_the_same_bytes(tmp_path, maps, whole):
    config = config_in(tmp_path, maps, 0.1)
    assert run("train", config, "train.images=60").returncode == 0
    done = run("train", config)
    assert done.returncode == 0 and "from image 60 to 120" in done.stdout, done.stderr
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_two_ranks_agree(tmp_path, maps):
    one, two = (config_in(tmp_path / name, maps) for name in ("one", "two"))
    for config, ranks in ((one, 1), (two, 2)):
        done = run("train", config, "train.lr=1e-4", "train.images=60", ranks=ranks)
        assert done.returncode == 0, done.stderr
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4


def test_what_means_nothing_is_left_out(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = [json.loads(line) for line in (whole / "stats.jsonl").read_text().splitlines()]
    assert not any(key.startswith("loss_") for line in lines for key in line)
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert validation[-1] < validation[0] < 1.5
    tags = EventAccumulator(str(whole / "tensorboard")).Reload().Tags()
    assert not any("noise" in tag for tag in tags["scalars"]) and len(tags["images"]) == 2
    card = (whole / "model" / "README.md").read_text()
    assert "regression" in card and "posterior is" not in card and "preconditioning" not in card
    assert "asinh" in card and "mean of the transformed" in card
    info = json.loads((whole / "model" / "config.json").read_text())["info"]
    assert "noise_range" not in info and set(info["seen"]) == {"sz", "xray"}


def test_the_model_gives_one_map_and_knows_its_training_maps(whole, maps):
    model, source = hpcdiff.load(whole / "model"), MapFile(maps)
    rows = source.rows("train")
    inputs = {f: source.read(f, rows) for f in ("sz", "xray")}
    out = model.sample(inputs)
    assert out["dm"].shape == (len(rows), 1, 16, 16) and np.isfinite(out["dm"]).all()
    with torch.no_grad():
        x = torch.zeros(len(rows), 2, 16, 16)
        mean = model.denoiser(x, x[:, 0, 0, 0], model.condition(inputs))[:, 1]
    np.testing.assert_allclose(out["dm"][:, 0], model.transforms["dm"].inverse(mean.numpy()), rtol=1e-3, atol=1e-3)
    assert model.unlike(inputs) == [] and model.unlike({"sz": 10 * inputs["sz"]})


def test_its_diffusion_section_may_change_and_its_method_may_not(whole):
    assert "already trained" in finished(read_config(whole / "c.yaml", ["diffusion.precondition=ve", "diffusion.sigma_max=7"]))
    with pytest.raises(UserError, match="task.method was 'regression' and is now 'diffusion'"):
        finished(read_config(whole / "c.yaml", ["task.method=diffusion"]))


def test_a_dry_run_says_what_it_is(tmp_path, maps):
    done = run("train", config_in(tmp_path, maps), "--dry-run")
    assert done.returncode == 0 and "mean-square regression" in done.stdout
