"""The compiled network is the network: one graph, the same outputs and gradients; no wait for the device in a step."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hpcdiff.diffusion import EDMDenoiser, VEDenoiser, denoising_loss
from hpcdiff.network import NCSNpp, compiled
from hpcdiff.network.blocks import Attention, ResidualBlock
from hpcdiff.network.layers import NormSiLU, conv3x3
from hpcdiff.regression import RegressionDenoiser

torch.set_num_threads(1)
LAST = torch.channels_last


def denoiser(precondition: str, **changes) -> nn.Module:
    torch.manual_seed(1)
    network = NCSNpp(2, 2, 1, **({"channels": 16, "multipliers": (1, 1), "blocks": 1, "attention": [1, 2]} | changes))
    for layer in network.modules():  # the last convolutions start near 0, where their inputs would not be seen
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, -0.2, 0.2)
    measured = {"sigma_data": [0.2, 0.5], "condition_std": torch.tensor([2.0])}
    made = {
        "ve": lambda: VEDenoiser(network, 0.01, 1.0),
        "edm": lambda: EDMDenoiser(network, **measured),
        "regression": lambda: RegressionDenoiser(network, **measured),
    }[precondition]()
    return made.to(memory_format=LAST)


def images(channels: int, seed: int, npix: int = 16, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, npix, npix, generator=generator).to(device, memory_format=LAST)


def loss_of(module: nn.Module, plain: nn.Module, device: str = "cpu") -> Tensor:
    sigma = torch.linspace(0.1, 0.5, 2, device=device)
    z, target, condition = (images(c, k, device=device) for k, c in enumerate((2, 2, 1)))
    return denoising_loss(module, target, condition, sigma, z, plain.weight(sigma)).mean()


def gradients(output: Tensor, module: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(output, parameters), strict=True))


@pytest.mark.parametrize("precondition", ["ve", "edm", "regression"])
def test_denoiser_is_one_graph_and_its_gradients_are_those_of_eager(precondition):
    plain = denoiser(precondition)
    torch._dynamo.reset()
    one = loss_of(compiled(plain, backend="aot_eager"), plain)  # fullgraph: a graph break raises
    other = loss_of(plain, plain)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)
    found, expected = gradients(one, plain), gradients(other, plain)
    for name, g in expected.items():
        assert (found[name] - g).abs().max() <= 1e-4 * g.abs().max() + 1e-7, name


class Piece(nn.Module):
    """All kinds of layers, once each; 4 channels a group."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = conv3x3(16, 16)
        self.down, self.attention = ResidualBlock(16, 16, 8, "down", scale=1.0), Attention(16, scale=1.0)
        self.up = ResidualBlock(16, 16, 8, "up", scale=1.0)
        for p in self.parameters():
            if p.ndim == 1:
                nn.init.normal_(p, 0.5, 0.5)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.up(self.attention(self.down(self.first(x), embedding)), embedding)


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest deviation of each gradient over the largest value of the expected one."""
    return {name: float((found[name] - g).abs().max() / g.abs().max()) for name, g in expected.items()}


def test_kernels_of_the_compiler_have_the_gradients_of_eager():
    """In float32 tight; in bfloat16 they are as near to float32 as eager's own, for each parameter."""
    piece = Piece().to(memory_format=LAST)
    assert piece.down.norm0.num_channels // piece.down.norm0.num_groups == 4
    x, weights, embedding = images(16, 0), images(16, 1), torch.randn(2, 8, generator=torch.Generator().manual_seed(2))

    def run(module: nn.Module, bf16: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = module(x, embedding)
        return out.detach().float(), gradients((out.float() * weights).sum(), piece)

    torch._dynamo.reset()
    fast = compiled(piece)
    out, exact = run(piece, False)
    found, g = run(fast, False)
    torch.testing.assert_close(found, out, rtol=1e-5, atol=1e-5)
    assert max(error(g, exact).values()) < 1e-4
    eager_out, eager = run(piece, True)
    found, g = run(fast, True)
    assert (found - out).abs().max() < 1.5 * (eager_out - out).abs().max()
    mine, its = error(g, exact), error(eager, exact)
    for name in exact:
        assert mine[name] < max(2 * its[name], 0.02), name
    assert sum(mine.values()) < 1.2 * sum(its.values())


@pytest.mark.parametrize("path", ["eager on a CPU", "elsewhere"])
def test_every_layer_keeps_channels_last(path, monkeypatch):
    """Also through the elementary GroupNorm that GPUs and the compiler take, which gives the same."""
    network = denoiser("ve", multipliers=(1, 2, 2), attention=[2, 4]).network
    arguments = images(2, 0), torch.tensor([0.2, 0.7]), images(1, 1)
    expected = network(*arguments)
    if path == "elsewhere":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    seen = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}) if o.ndim == 4 else None)
    torch.testing.assert_close(network(*arguments), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) > 80
    for name, out in seen.items():
        assert out.is_contiguous(memory_format=LAST), name


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elementary_group_norm_is_group_norm(layout, dtype, monkeypatch):
    """In value and gradient, where the mean is many times the deviation and groups differ; the layout and type stay."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    norm = NormSiLU(24)  # 6 groups of 4
    torch.manual_seed(0)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = (torch.randn(3, 24, 8, 6) * torch.rand(24)[:, None, None] + torch.arange(24)[:, None, None] // 4 * 5.0).to(dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    out = norm(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    wide, reference = x.detach().double().requires_grad_(), copy.deepcopy(norm).double()
    groups = wide.reshape(3, 6, -1)
    y = ((groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-6).sqrt()).view_as(wide)
    y = y * reference.weight[:, None, None] + reference.bias[:, None, None]
    expected = y * torch.sigmoid(y)
    v = torch.randn(3, 24, 8, 6)
    mine = torch.autograd.grad((out.double() * v).sum(), [x, norm.weight, norm.bias])
    its = torch.autograd.grad((expected * v).sum(), [wide, reference.weight, reference.bias])
    tolerance = 2e-5 if dtype == torch.float32 else 1e-2
    for a, b in zip([out, *mine], [expected, *its], strict=True):
        assert (a.double() - b).abs().max() < tolerance * b.abs().max()


def test_weights_of_a_norm_have_gradients_where_its_input_has_none():
    norm, x = NormSiLU(16), images(16, 0)
    expected = torch.autograd.grad((norm(x.contiguous().requires_grad_()) * images(16, 1)).sum(), [norm.weight, norm.bias])
    found = torch.autograd.grad((norm(x) * images(16, 1)).sum(), [norm.weight, norm.bias])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class NoWait(TorchDispatchMode):
    """Raises where a value is read on the host, or a tensor made on the host goes to the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default or function is torch.ops.aten.nonzero.default:
            raise AssertionError(f"{function} waits for the device")
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1] if function is torch.ops.aten.copy_.default else args[0]
            target = args[0].device if function is torch.ops.aten.copy_.default else (kwargs or {}).get("device", source.device)
            assert source.device == torch.device(target), f"{function} copies from {source.device} to {target}"
        return function(*args, **(kwargs or {}))


class NoConstant(TorchFunctionMode):
    """Raises where a list becomes a tensor on the device: a copy that the host waits for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        assert not made, f"{args[0]} is copied to the device at every call"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precondition", ["ve", "edm", "regression"])
def test_a_step_never_waits_for_the_device(precondition):
    """On the meta device, which stands for a GPU: the same code, no values."""
    made = denoiser(precondition, multipliers=(1, 2), dropout=0.1).to("meta")
    u = torch.empty(2, device="meta")
    z, target, condition = (torch.empty(2, c, 16, 16, device="meta").to(memory_format=LAST) for c in (2, 2, 1))
    with NoConstant(), NoWait():
        sigma = made.noise_levels(u)
        loss = denoising_loss(made, target, condition, sigma, z, made.weight(sigma)).mean()
        loss.backward()
    assert all(p.grad is not None for p in made.parameters())
    with pytest.raises(AssertionError, match="copied to the device"), NoConstant(), NoWait():
        torch.tensor([1.0], device="meta")
    with pytest.raises(AssertionError, match="waits"), NoWait():
        torch.ones(1).item()
