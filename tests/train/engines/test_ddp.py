"""One rank of `ddp`: the average by its closed form, skipped steps, no host sync, state that comes back, and the compiled network."""

import pytest
import torch
from engine_worker import fill, make_batch, make_denoiser
from torch.utils._python_dispatch import TorchDispatchMode

from hpcdiff.diffusion import VEDenoiser
from hpcdiff.sections import Train
from hpcdiff.train.engines import build_engine


class Alone:
    rank, size, device = 0, 1, torch.device("cpu")


def engine(seed=0, denoiser=None, compiled=False, precision="fp32"):
    return build_engine(Train(precision=precision, compile=compiled), denoiser or make_denoiser(seed), Alone())


def kept(e):
    return {k: p.data.clone() for k, p in e.pieces().items()}


def test_the_average_follows_its_recursion_with_warm_up():
    e = engine()
    expected = {k: p.detach().clone() for k, p in e.denoiser.named_parameters()}
    for n in range(12):
        e.step(make_batch(n), 1e-2, 0.4)
        decay = min(0.4, (1 + n) / (10 + n))
        expected = {k: decay * v + (1 - decay) * e.named[k].detach() for k, v in expected.items()}
    with e.averaged() as denoiser:
        averaged = dict(denoiser.named_parameters())
        assert list(averaged) == list(expected) and not denoiser.training
        for k, v in expected.items():
            torch.testing.assert_close(averaged[k], v, rtol=1e-5, atol=1e-6)
        assert max((v - e.named[k]).abs().max() for k, v in expected.items()) > 1e-3
        assert (denoiser.mean == e.denoiser.mean).all()


def test_a_step_is_adams():
    e = engine()
    reference = make_denoiser()
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3)
    for n in range(3):
        loss = e.step(make_batch(n), 1e-3, 0.9)
        adam.zero_grad()
        expected = e._losses(reference, make_batch(n))
        expected.mean().backward()
        adam.step()
        torch.testing.assert_close(loss, expected.detach())
    for p, q in zip(e.denoiser.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert e.counters()["updates"] == 3


def test_a_step_that_is_not_finite_changes_nothing():
    e, plain = engine(), engine()
    for x in (e, plain):
        x.step(make_batch(0), 1e-2, 0.9)
    before = kept(e)
    for k in range(2):
        e.step(make_batch(1, scale=float("nan") if k else float("inf")), 1e-2, 0.9)
        assert e.poll() == k + 1
    assert all(torch.equal(v, before[k]) for k, v in kept(e).items())
    counters = e.counters()
    assert (counters["updates"], counters["skipped"], counters["skipped_in_a_row"]) == (1, 2, 2)
    assert not counters["gradient_norm"] < float("inf")
    for x in (e, plain):
        x.step(make_batch(2), 1e-2, 0.9)
    after = kept(plain)
    assert all(torch.equal(v, after[k]) for k, v in kept(e).items())
    assert e.poll() == 0 and e.counters()["updates"] == 2 and e.counters()["skipped"] == 2


class NoSync(TorchDispatchMode):
    """Raises where a value of a tensor goes to the host."""

    SYNCS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not func.__name__.startswith(self.SYNCS), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scale", [1.0, float("nan")])
def test_a_step_does_not_wait_for_the_device(scale):
    e = engine()
    batches = [make_batch(n, scale=scale) for n in range(2)]
    with NoSync():
        for batch in batches:
            e.step(batch, 1e-3, 0.9)
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        float(e.norm)


def test_a_resumed_engine_goes_on_bit_for_bit():
    one, two = engine(), engine(seed=1)
    for n in range(3):
        one.step(make_batch(n), 1e-2, 0.9)
    one.step(make_batch(3, scale=float("nan")), 1e-2, 0.9)
    for _ in range(2):
        two.step(make_batch(9, scale=float("nan")), 1e-2, 0.9)
    fill(two, {k: p.data.view(p.shape) for k, p in one.pieces().items()}, 3, 1)
    counters = one.counters()
    for n in range(4, 7):
        one.step(make_batch(n), 1e-2, 0.9)
        two.step(make_batch(n), 1e-2, 0.9)
    assert counters["skipped"] == 1 and two.counters() == one.counters()
    expected = kept(one)
    for k, v in kept(two).items():
        assert torch.equal(v, expected[k]), k


def test_pieces_are_copies():
    e = engine()
    before = e.pieces()
    values = {k: p.data.clone() for k, p in before.items()}
    e.step(make_batch(0), 1e-2, 0.9)
    assert all(torch.equal(p.data, values[k]) for k, p in before.items())
    assert not all(torch.equal(v, values[k]) for k, v in kept(e).items())


def test_bf16_is_used_in_training_and_validation():
    exact, rounded = engine(), engine(precision="bf16")
    a, b = (x.step(make_batch(0), 0.0, 0.9) for x in (exact, rounded))
    assert 1e-5 < ((a - b) / a).abs().max() < 0.02
    with exact.averaged() as f, rounded.averaged() as g:
        c, d = exact.losses(f, make_batch(0)), rounded.losses(g, make_batch(0))
    torch.testing.assert_close(c, a)
    torch.testing.assert_close(d, b)
    assert all(p.dtype == torch.float32 for p in rounded.denoiser.parameters())


class Net(torch.nn.Module):
    """Two convolutions: enough to compile."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x, t, condition):
        return self.second(torch.nn.functional.silu(self.first(torch.cat([x, condition], 1))) + t[:, None, None, None])


def test_the_compiled_network_trains_as_the_eager_one():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        e = engine(denoiser=VEDenoiser(Net(), 0.01, 1.0), compiled=compiled)
        names = list(e.named)
        for n in range(3):
            e.step(make_batch(n), 1e-3, 0.9)
        ends.append(kept(e))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs == compiled
        with e.averaged() as denoiser, torch.no_grad():
            e.losses(denoiser, make_batch(0, 0, 3))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # another batch size is not compiled anew
        assert names == ["network.first.weight", "network.first.bias", "network.second.weight", "network.second.bias"]
    for k, v in ends[0].items():
        torch.testing.assert_close(ends[1][k], v, rtol=1e-4, atol=1e-6)


def test_where_no_compiler_is_the_network_runs_as_it_is(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    e, plain = engine(compiled=True), engine()
    assert "/nowhere/g++" in e.uncompiled and plain.uncompiled is None
    assert torch.equal(e.step(make_batch(0), 1e-3, 0.9), plain.step(make_batch(0), 1e-3, 0.9))
