"""score_models' training: its own `ScoreModel.fit`, stopped and started at its data loader.

python -m training.theirs '{"channels": 128, "batch": 1, "npix": 128, "threads": 2}'      # with score_models on PYTHONPATH
"""

from __future__ import annotations

import json
import sys

import torch
from torch.utils.data import Dataset

from training.control import Control, answers


class Gate(Dataset):
    """Random maps, on the device already; the clock is asked before the first image of each batch."""

    def __init__(self, batch: int, npix: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(1)
        self.maps = torch.rand(8 * batch, 4, npix, npix, generator=generator).to(device)
        self.batch, self.control = batch, None

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        if n % self.batch == 0:
            self.control.boundary()
        return self.maps[n, :2], self.maps[n, 2:]


def paper_model(channels: int):
    """score_models' `ScoreModel` of the paper's network (here `channels` wide, random weights), its device and its number of parameters."""
    torch.manual_seed(0)
    import score_models

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")  # as score_models chooses
    network = score_models.NCSNpp(
        channels=2, nf=channels, ch_mult=(2, 2, 2, 2), num_res_blocks=2, condition=["input"], condition_input_channels=2
    )
    model = score_models.ScoreModel(network, sigma_min=0.001, sigma_max=1.0, device=device)
    return model, device, sum(p.numel() for p in network.parameters() if p.requires_grad)


def main() -> None:
    """Build the paper's network and train it until nobody asks for more steps."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    model, device, parameters = paper_model(setup["channels"])
    data = Gate(setup["batch"], setup["npix"], device)
    data.control = Control(device, channel, {"parameters": parameters})
    model.fit(data, epochs=1, n_iterations_in_epoch=10**9, batch_size=setup["batch"], learning_rate=1e-4, ema_decay=0.9999)


if __name__ == "__main__":
    main()
