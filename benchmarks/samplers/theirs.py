"""score_models' sampling: its own `ScoreModel.sample` on the paper's network.

python -m samplers.theirs '{"channels": 32, "npix": 128, "samples": 10, "threads": 2}'      # with score_models on PYTHONPATH
"""

from __future__ import annotations

import json
import sys

import torch
from training.control import answers
from training.theirs import paper_model

from samplers.clock import serve


def main() -> None:
    """Build the paper's network and draw clusters until nobody asks for more."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    model, device, parameters = paper_model(setup["channels"])
    shape = [setup["samples"], 2, setup["npix"], setup["npix"]]
    condition = torch.rand(1, *shape[1:], device=device).expand(shape)
    draw = lambda steps: model.sample(shape, steps, condition=[condition]).cpu()  # noqa: E731
    serve(draw, device, channel, {"parameters": parameters})


if __name__ == "__main__":
    main()
