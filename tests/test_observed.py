"""Inputs seen through telescopes, from training over sampling to evaluation."""

import json

import h5py
import numpy as np
import pytest
from conftest import make_maps, refused, run

CONFIG = """
run: {{dir: {dir}}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1}}
diffusion: {{precondition: edm}}
task: {{transform: asinh}}
observe: {{sz: {{beam: 1.0, noise: 5.0}}, xray: {{exposure: 1.0e+6, background: 2.0}}}}
train: {{batch_size: 6, images: 60, precision: fp32, lr: 1.0e-3, ema: 0.9}}
sample: {{sampler: dpmpp_2m_sde, steps: 4, samples: 3, init: matched, batch_size: 6}}
evaluate: {{bootstrap: 20}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the three stages."""
    folder = tmp_path_factory.mktemp("observed")
    make_maps(folder / "maps.h5", halos=30, npix=16)
    (folder / "c.yaml").write_text(CONFIG.format(dir=folder))
    for stage in ("train", "sample", "evaluate"):
        done = run(stage, folder / "c.yaml")
        assert done.returncode == 0, done.stderr
    return folder


def test_samples_follow_what_was_observed_and_its_noise_is_named_by_the_seed(finished, tmp_path):
    def samples(*arguments):
        done = run(
            "sample", finished / "c.yaml", f"run.dir={tmp_path}", f"run.maps={finished}/maps.h5", f"run.model={finished}/model", *arguments
        )
        assert done.returncode == 0, done.stderr
        with h5py.File(tmp_path / "samples.h5") as f:
            return f["samples/gas"][:]

    with h5py.File(finished / "samples.h5") as f:
        first = f["samples/gas"][:]
    assert np.array_equal(samples(), first)
    assert not np.array_equal(samples("run.seed=1", "--overwrite"), first)


def test_evaluation_measures_the_observed_inputs(finished):
    r = json.loads((finished / "metrics.json").read_text())["table1"]
    assert np.isfinite(r["all"]["gas"]["r_large"]["median"])


def test_a_model_for_other_noise_is_refused(finished, tmp_path):
    arguments = (f"run.dir={tmp_path}", f"run.maps={finished}/maps.h5", f"run.model={finished}/model")
    refused(run("sample", finished / "c.yaml", *arguments, "observe.sz.noise=6"), "observe.sz.noise", "5.0", "6.0")
