"""NCSN++: its size, its work, its shapes and its resampling."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hpcdiff.denoiser import build_denoiser, memory_layout
from hpcdiff.errors import UserError
from hpcdiff.network import NCSNpp
from hpcdiff.network.blocks import Attention, ResidualBlock
from hpcdiff.network.layers import conv1x1
from hpcdiff.network.resample import downsample, upsample

torch.set_num_threads(1)


def small(**changes) -> NCSNpp:
    torch.manual_seed(1)
    settings = {"channels": 16, "multipliers": (1, 2, 2, 4), "blocks": 1} | changes
    return NCSNpp(2, 3, 1, **settings)


def inputs(npix: int = 16, batch: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 2, npix, npix, generator=generator)
    return x, torch.rand(batch, generator=generator), torch.randn(batch, 1, npix, npix, generator=generator)


def test_default_network_is_that_of_the_paper():
    with torch.device("meta"):
        network = NCSNpp(2, 2, 2)
        x = torch.empty(1, 2, 128, 128)
        with FlopCounterMode(display=False) as counter:
            out = network(x, torch.empty(1), x)
    assert out.shape == x.shape
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 45_835_912
    # 400.9 counts score_models' resampling, whose 4 x 4 filter runs at the fine resolution: four times our work.
    # At each of three changes of resolution it acts on two tensors of 256 channels and on the pyramid, down and up.
    filters = 2 * 16 * (64**2 + 32**2 + 16**2) * ((2 * 256 + 4) + (2 * 256 + 2))
    flops = counter.get_total_flops() + 3 * filters
    assert flops / 1e9 == pytest.approx(400.9, abs=0.05)


@pytest.mark.parametrize("npix", [16, 64])
def test_small_network_keeps_the_map_size(npix):
    x, t, condition = inputs(npix)
    out = small()(x, t, condition)
    assert out.shape == (3, 3, npix, npix)
    assert out.isfinite().all()


def test_every_parameter_has_a_gradient_and_every_input_matters():
    network = small()
    x, t, condition = (v.requires_grad_() for v in inputs())
    (network(x, t, condition) ** 2).sum().backward()
    for name, parameter in [*network.named_parameters(), ("x", x), ("t", t), ("condition", condition)]:
        assert parameter.grad.abs().max() > 0, name
    assert not network.time.frequencies.requires_grad


def test_images_of_a_batch_do_not_mix():
    network, (x, t, condition) = small(), inputs()
    one = network(x[1:2], t[1:2], condition[1:2])
    torch.testing.assert_close(network(x, t, condition)[1:2], one, rtol=0, atol=1e-5)


def test_channels_last_gives_the_same_output_and_stays():
    network, (x, t, condition) = small(), inputs(32)
    expected = network(x, t, condition)
    network.to(memory_format=torch.channels_last)
    seen = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: seen.append(o.is_contiguous(memory_format=torch.channels_last)))
    out = network(x.to(memory_format=torch.channels_last), t, condition.to(memory_format=torch.channels_last))
    assert all(seen)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_bfloat16_autocast_is_near_float32():
    network, (x, t, condition) = small(), inputs()
    expected = network(x, t, condition)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x, t, condition)
    assert (out - expected).std() < 0.03 * expected.std()


def test_network_cast_to_bfloat16_takes_float32_maps():
    network, (x, t, condition) = small(), inputs()
    expected, frequencies = network(x, t, condition), network.time.frequencies.clone()
    network.bfloat16()
    assert (network(x, t, condition) - expected).std() < 0.03 * expected.std()
    assert torch.equal(network.time.frequencies.float(), frequencies)


def test_output_starts_small():
    assert small()(*inputs()).std() < 0.2  # an identity denoiser: the score network starts near 0


def test_dropout_acts_in_training_alone():
    network, arguments = small(dropout=0.5), inputs()
    assert not torch.equal(network(*arguments), network(*arguments))
    network.eval()
    assert torch.equal(network(*arguments), network(*arguments))


def test_resampling_keeps_the_mean_and_a_ramp():
    ramp = torch.arange(16.0).expand(1, 3, 16, 16).contiguous()
    inner = slice(2, -2)
    # Pixel centres: coarse pixel i lies at 2 i + 1/2 of the fine grid.
    coarse = (2 * torch.arange(8.0) + 0.5).expand(1, 3, 8, 8)
    torch.testing.assert_close(downsample(ramp)[..., inner, inner], coarse[..., inner, inner])
    fine = ((torch.arange(32.0) - 0.5) / 2).expand(1, 3, 32, 32)
    torch.testing.assert_close(upsample(ramp)[..., inner, inner], fine[..., inner, inner])


def test_upsampling_is_four_times_the_adjoint_of_downsampling():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 12, generator=generator)
    y = torch.randn(2, 3, 8, 6, generator=generator)
    torch.testing.assert_close(4 * (downsample(x) * y).sum(), (x * upsample(y)).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_residual_block_is_that_of_song_et_al(resample):
    torch.manual_seed(0)
    block = ResidualBlock(8, 16, 5, resample, scale=1.0)
    x, embedding = torch.randn(2, 8, 8, 8), torch.randn(2, 5)
    change = {None: lambda v: v, "down": downsample, "up": upsample}[resample]
    # 8 channels in 2 groups, then 16 in 4
    h = change(F.silu(F.group_norm(x, 2, eps=1e-6)))
    h = F.conv2d(h, block.conv0.weight, padding=1) + (embedding @ block.time.weight.T)[..., None, None]
    h = F.conv2d(F.silu(F.group_norm(h, 4, eps=1e-6)), block.conv1.weight, padding=1)
    expected = (F.conv2d(change(x), block.skip.weight) + h) / 2**0.5
    torch.testing.assert_close(block(x, embedding), expected, rtol=1e-4, atol=1e-5)


def test_attention_is_softmax_of_scaled_products():
    attention = Attention(8)
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    q, k, v = attention.query_key_value(x).flatten(2).chunk(3, dim=1)  # (B, C, pixels)
    weights = torch.softmax(torch.einsum("bcp,bcq->bpq", q, k) / 8**0.5, dim=-1)
    h = torch.einsum("bpq,bcq->bcp", weights, v).reshape(x.shape)
    expected = x + F.conv2d(h, attention.out.weight, attention.out.bias)
    torch.testing.assert_close(attention(x), expected)


def test_attention_does_not_know_where_a_pixel_is():
    attention = Attention(8, scale=1.0)
    x = torch.randn(2, 8, 4, 6, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    moved = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(attention(moved), attention(x).flatten(2)[..., order].view_as(x))
    assert (attention(x) - x).abs().max() > 0.01


@pytest.mark.parametrize(("attention", "levels"), [("coarsest", []), ([8], [3]), ([4, 8], [2, 3]), ([1], [0]), ([], [])])
def test_attention_stands_where_it_is_asked_for(attention, levels):
    """After each of the 2 blocks down and 3 up of these levels, and in the middle with the coarsest: 4 C (C + 1) weights each."""
    network, widths = small(attention=attention, blocks=2), [16, 32, 32, 64]
    middle = attention == "coarsest" or 8 in attention
    without = sum(p.numel() for p in small(attention=(), blocks=2).parameters())
    expected = sum(5 * 4 * widths[n] * (widths[n] + 1) for n in levels) + middle * 4 * 64 * 65
    assert sum(p.numel() for p in network.parameters()) - without == expected
    (network(*inputs()) ** 2).sum().backward()
    assert all(
        p.grad.abs().max() > 0
        for name, p in network.named_parameters()
        if "attention" in name and not name.endswith("query_key_value.bias")
    )


def test_attention_acts_after_each_block_of_its_level():
    seen, network = [], small(attention=[4])
    for name, module in network.named_modules():
        if isinstance(module, (ResidualBlock, Attention)):
            module.register_forward_hook(lambda m, i, o, name=name: seen.append((name, o.shape[-1])))
    network(*inputs())
    names = [name for name, _ in seen]
    at = [k for k, name in enumerate(names) if name.startswith("attention")]
    assert [names[k - 1] for k in at] == ["down.2.0", "up.1.0", "up.1.1"]
    assert all(seen[k][1] == 16 // 4 for k in at)


def test_default_network_has_the_names_that_it_always_had():
    """So that model folders and checkpoints from before attention by resolution load."""
    names = [name for name in small().state_dict() if "attention" in name]
    assert names == [f"attention.{layer}.{kind}" for layer in ("query_key_value", "out") for kind in ("weight", "bias")]


def test_config_without_the_key_has_the_attention_of_the_paper():
    network = {"name": "ncsnpp", "channels": 16, "multipliers": [1, 2], "blocks": 1, "dropout": 0.0}
    config = {
        "task": {"method": "diffusion", "inputs": ["sz"], "outputs": ["gas"]},
        "network": network,
        "diffusion": {"precondition": "ve", "sigma_min": 0.01, "sigma_max": 1.0},
    }
    old = build_denoiser(config).state_dict()
    assert set(old) == set(build_denoiser(config | {"network": network | {"attention": "coarsest"}}).state_dict())
    new = build_denoiser(config | {"network": network | {"attention": [2]}}).state_dict()
    assert {name.split(".")[1] for name in set(new) - set(old)} == {"attention_down", "attention_up"}
    with pytest.raises(UserError, match="a list of 1, 2, the factors"):
        build_denoiser(config | {"network": network | {"attention": [4]}})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_lie_channels_last_but_in_bfloat16_on_a_cpu(device, precision):
    last = memory_layout(torch.device(device), precision) == torch.channels_last
    assert last == ((device, precision) != ("cpu", "bf16"))


def test_1x1_convolution_is_the_same_in_both_layouts():
    layer, x = conv1x1(5, 7), torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(layer.bias)  # it starts at 0
    expected = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], x) + layer.bias[:, None, None]
    for layout in (torch.contiguous_format, torch.channels_last):
        out = layer(x.contiguous(memory_format=layout))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        assert out.is_contiguous(memory_format=layout)


def test_bad_shapes_are_named():
    network, (x, t, condition) = small(), inputs()
    with pytest.raises(ValueError, match="20 x 20 pixels does not divide by 8"):
        network(torch.zeros(1, 2, 20, 20), t[:1], torch.zeros(1, 1, 20, 20))
    with pytest.raises(ValueError, match="2 channels and 1 of condition, not 2 and 0"):
        network(x, t)
    with pytest.raises(ValueError, match="not 3 and 1"):
        network(torch.zeros(3, 3, 16, 16), t, condition)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 18}, "multiple of 4"),
        ({"channels": 24, "multipliers": (1, 2, 4)}, "144 channels does not divide into 32"),
        ({"multipliers": ()}, "at least 1"),
        ({"blocks": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention": [3]}, "a list of 1, 2, 4, 8, the factors of this network, not \\[3\\]"),
        ({"attention": [16]}, "not \\[16\\]"),
        ({"attention": "finest"}, "'coarsest' or a list .* not 'finest'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
