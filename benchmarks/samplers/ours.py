"""hpcdiff's sampling: `Model.sample`, as a user calls it, on the paper's network.

python -m samplers.ours '{"channels": 32, "npix": 128, "samples": 10, "threads": 2, "precision": "fp32", "compile": false, ...}'
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from training.control import answers

from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.model import Model
from hpcdiff.transform import Transform
from samplers.clock import serve


def random_model(channels: int, npix: int) -> Model:
    """The paper's model with random weights, for maps in [0, 1]."""
    config = Config()
    config.network.channels = channels
    resolved, k, c = config.resolved(), len(config.task.inputs), len(config.task.outputs)
    statistics = {"mean": torch.full((c, npix, npix), 0.1), "std": torch.full((c, npix, npix), 0.1), "sigma_data": torch.full((c,), 0.1)}
    statistics |= {"condition_mean": torch.full((k, npix, npix), 0.1), "condition_std": torch.full((k,), 0.1)}
    transforms = {field: Transform("linear", 0.0, 1.0) for field in (*config.task.inputs, *config.task.outputs)}
    return Model(resolved, {"npix": npix}, transforms, build_denoiser(resolved, statistics).eval(), statistics)


def main() -> None:
    """Build the model and draw clusters until nobody asks for more."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    torch.manual_seed(0)
    model = random_model(setup["channels"], setup["npix"]).to(setup["device"])
    model.precision, model.compiled = setup["precision"], setup["compile"]
    rng = np.random.default_rng(0)
    inputs = {field: rng.random((setup["npix"], setup["npix"]), np.float32) for field in model.inputs}

    def cluster(steps: int) -> dict:
        return model.sample(inputs, setup["samples"], setup["sampler"], steps, init=setup["init"], batch_size=setup["samples"])

    serve(cluster, model.device, channel, {"parameters": sum(p.numel() for p in model.denoiser.parameters())})


if __name__ == "__main__":
    main()
