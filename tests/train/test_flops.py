"""The arithmetic of a training step against closed forms, and the measured rate of a device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcdiff.diffusion import EDMDenoiser, VEDenoiser, denoising_loss
from hpcdiff.network import NCSNpp
from hpcdiff.train import flops


class Two(torch.nn.Module):
    """Two convolutions, the second with every other pixel left out."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Conv2d(5, 2, 3, padding=1, stride=2)

    def forward(self, x, t, condition):
        return self.two(self.one(torch.cat([x, condition], 1))).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_paper_s_network():
    denoiser = VEDenoiser(NCSNpp(2, 2, 2), 0.001, 1.0)
    # 400.9 counts a resampling whose 4 x 4 filter runs at the fine resolution: four times the work of ours. At each of three
    # changes of resolution it acts on two tensors of 256 channels and on the pyramid, down and up
    filters = 2 * 16 * (64**2 + 32**2 + 16**2) * ((2 * 256 + 4) + (2 * 256 + 2))
    counted = flops.forward_flops(denoiser, 2, 128, 2)
    assert (counted + 3 * filters) / 1e9 == pytest.approx(400.9, abs=0.05)
    assert counted / 1e9 == pytest.approx(400.9, rel=2e-3)


@pytest.mark.parametrize("npix", [8, 32])
def test_two_flop_a_multiply_add(npix):
    expected = 2 * 9 * (3 * 5 * npix**2 + 5 * 2 * (npix // 2) ** 2)
    assert flops.forward_flops(VEDenoiser(Two(), 0.01, 1.0), 2, npix, 1) == expected


def test_a_step_has_three_times_the_forward_pass():
    torch.manual_seed(0)
    denoiser = EDMDenoiser(NCSNpp(2, 2, 2, channels=16, multipliers=(2, 2), blocks=1), [0.5, 0.5])
    x = torch.randn(4, 2, 16, 16)
    with FlopCounterMode(display=False) as counter:
        denoising_loss(denoiser, x, x, torch.full((4,), 0.3), x).mean().backward()
    forward = flops.forward_flops(denoiser, 2, 16, 2)
    # nothing is propagated to the images themselves, which the first layers save
    assert counter.get_total_flops() / 4 == pytest.approx(flops.STEP * forward, rel=0.02)


def test_counting_does_no_work_compiles_nothing_and_leaves_the_network_as_it_was():
    denoiser = VEDenoiser(Two(), 0.01, 1.0).train()

    def never(graph, inputs):
        raise AssertionError("compiled")

    denoiser.network.compile(backend=never)
    before = {k: v.clone() for k, v in denoiser.state_dict().items()}
    calls = []
    denoiser.network.one.register_forward_hook(lambda module, inputs, out: calls.append(out.device.type))
    assert flops.forward_flops(denoiser, 2, 8, 1) > 0
    assert calls == ["meta"] and denoiser.training
    assert all(v.device.type == "cpu" and torch.equal(v, before[k]) for k, v in denoiser.state_dict().items())


def test_the_rate_is_flop_over_seconds(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(flops.time, "perf_counter", lambda: 0.5 * next(clock))  # each measurement takes half a second
    a = torch.ones(16, 16)
    assert flops._rate(a, a, torch.empty(16, 16), 3) == 3 * 2 * 16**3 / 0.5


def test_the_peak_is_the_best_of_what_was_seen(monkeypatch):
    seen = []

    def rate(a, b, out, repeats):
        assert torch.allclose(out.float(), a.float() @ b.float(), rtol=0.02, atol=0.5)
        seen.append(5e11 if len(seen) == 4 else 4e11)
        return seen[-1]

    monkeypatch.setattr(flops, "_rate", rate)
    assert flops.peak_flops(torch.device("cpu"), "bf16") == 5e11 and len(seen) > 5
