"""The engine: the weights' average by its closed form, skipped steps, and state that comes back in place."""

import pytest
import torch

from hpcdiff.diffusion import VEDenoiser
from hpcdiff.errors import UserError
from hpcdiff.train.data import Batch
from hpcdiff.train.engine import DDPEngine


class Alone:
    size, device = 1, torch.device("cpu")


class Net(torch.nn.Module):
    """One convolution, whose channels-last memory differs from its contiguous one."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x, t, condition):
        return self.conv(torch.cat([x, condition], 1))


def engine():
    torch.manual_seed(0)
    return DDPEngine(VEDenoiser(Net(), 0.01, 1.0), Alone(), 1e-2, "fp32")


def batch(seed, value=1.0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda c: torch.randn(4, c, 8, 8, generator=g)  # noqa: E731
    return Batch(draw(2) * value, draw(1), torch.rand(4, generator=g), draw(2))


def weights(e):
    return {n: p.detach().clone() for n, p in e.named.items()}


def test_the_average_follows_its_recursion_with_warm_up():
    e = engine()
    expected = weights(e)
    for n in range(12):
        e.step(batch(n), 1e-2, 0.4)
        decay = min(0.4, (1 + n) / (10 + n))
        expected = {k: decay * v + (1 - decay) * e.named[k].detach() for k, v in expected.items()}
    for k, v in expected.items():
        torch.testing.assert_close(e.ema[k], v, rtol=1e-5, atol=1e-7)
        assert (v - e.named[k]).abs().max() > 1e-3
    raw = weights(e)
    averaged = dict(e.averaged().named_parameters())
    assert all(torch.equal(averaged[k], e.ema[k]) for k in raw)
    e.restore()
    assert all(torch.equal(e.named[k], raw[k]) for k in raw)


def test_a_step_that_is_not_finite_changes_nothing():
    e = engine()
    e.step(batch(0), 1e-2, 0.9)
    before, ema, updates = weights(e), {k: v.clone() for k, v in e.ema.items()}, e.updates
    _, norm = e.step(batch(1, float("nan")), 1e-2, 0.9)
    assert not norm < float("inf") and e.updates == updates
    assert all(torch.equal(e.named[k], before[k]) and torch.equal(e.ema[k], ema[k]) for k in before)
    e.step(batch(2), 1e-2, 0.9)
    assert e.updates == updates + 1 and all(v.isfinite().all() for v in weights(e).values())


def test_a_resumed_engine_goes_on_bit_for_bit():
    one, two = engine(), engine()
    for n in range(3):
        one.step(batch(n), 1e-2, 0.9)
    two.load({k: v.contiguous().clone() for k, v in one.tensors().items()}, one.updates)
    for n in range(3, 6):
        one.step(batch(n), 1e-2, 0.9)
        two.step(batch(n), 1e-2, 0.9)
    for k, v in one.tensors().items():
        assert torch.equal(v, two.tensors()[k]), k


def test_tensors_of_another_network_are_refused():
    with pytest.raises(UserError, match="another network"):
        engine().load({"weights/x": torch.zeros(1)}, 0)
