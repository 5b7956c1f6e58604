"""score_models' sampling: its own `ScoreModel.sample` on the paper's network.

python -m samplers.theirs '{"channels": 32, "npix": 128, "samples": 10, "threads": 2}'      # with score_models on PYTHONPATH
"""

from __future__ import annotations

import json
import sys

import torch
from training.control import answers

from samplers.clock import serve


def main() -> None:
    """Build the paper's network and draw clusters until nobody asks for more."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    torch.manual_seed(0)
    import score_models

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")  # as score_models chooses
    network = score_models.NCSNpp(
        channels=2, nf=setup["channels"], ch_mult=(2, 2, 2, 2), num_res_blocks=2, condition=["input"], condition_input_channels=2
    )
    model = score_models.ScoreModel(network, sigma_min=0.001, sigma_max=1.0, device=device)
    shape = [setup["samples"], 2, setup["npix"], setup["npix"]]
    condition = torch.rand(1, *shape[1:], device=device).expand(shape)
    hello = {"parameters": sum(p.numel() for p in network.parameters() if p.requires_grad)}
    serve(lambda steps: model.sample(shape, steps, condition=[condition]).cpu(), device, channel, hello)


if __name__ == "__main__":
    main()
