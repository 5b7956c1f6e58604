"""The training benchmark's own arithmetic: what it counts, what it times, and to which kind of work it puts an operation."""

import json
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from training.breakdown import named, on_gpu, seconds_by_kind
from training.control import Control
from training.kinds import KINDS, MATRIX, OTHER, kernel_kind, kind_of, kind_within
from training.tally import Tally

from hpcdiff.network.layers import NormSiLU, conv1x1, conv3x3
from hpcdiff.network.resample import downsample, upsample

CPU = torch.device("cpu")
B, C, N = 2, 8, 16


def images(layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    return torch.randn(B, C, N, N, requires_grad=True).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_flops_of_a_step_are_three_times_those_forward(layout):
    layer, pointwise = (f(C, C).to(memory_format=layout) for f in (conv3x3, conv1x1))
    with Tally() as tally:
        pointwise(layer(images(layout))).sum().backward()
    assert tally.flops[MATRIX] == 3 * 2 * B * N * N * C * C * (9 + 1)
    assert sum(tally.flops.values()) == tally.flops[MATRIX]


def test_resampling_is_told_from_convolution_forward_and_backward():
    with Tally() as tally:
        upsample(downsample(images())).square().sum().backward()
    assert tally.flops["FIR resampling"] > 0
    assert tally.flops[MATRIX] == 0 == tally.bytes[MATRIX]


def test_an_operation_reads_and_writes_each_tensor_once():
    x, y = torch.ones(10), torch.ones(10)
    with Tally() as tally:
        z = x + y
        x.mul_(2.0)
        z.view(2, 5)
    assert tally.bytes[OTHER] == 3 * 40 + 2 * 40


def test_a_part_of_the_engine_counts_under_its_own_name():
    tally = Tally()
    with tally:
        tally.within(lambda x: torch.nn.functional.silu(x).mul_(2.0), "optimiser")(torch.ones(10))
        torch.ones(10).mul_(2.0)
    assert tally.bytes["optimiser"] == 4 * 40
    assert tally.bytes["norm and activation"] == 0


def test_the_profile_puts_a_small_network_under_the_right_kinds():
    network = nn.Sequential(conv3x3(C, C), NormSiLU(C), nn.Flatten(), nn.Linear(C * N * N, 1))
    adam = torch.optim.Adam(network.parameters())

    def step(x):
        network(downsample(upsample(x))).square().sum().backward()
        named(torch.no_grad()(lambda: torch._foreach_mul_(list(network.parameters()), 1.0)), "weights' average")()
        adam.step()

    step(images())  # loads code
    found = seconds_by_kind(lambda: torch.nn.functional.silu(images()), step, CPU, 2)
    took = {kind for kind, seconds in found["kinds"].items() if seconds > 0}
    assert took == set(KINDS) - {"attention", "communication"}
    assert sum(found["kinds"].values()) + found["idle"] == pytest.approx(found["step"])


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::copy_", "aten::mkldnn_convolution", "aten::conv2d"], MATRIX),
        (["aten::mm", "aten::_scaled_dot_product_attention_math"], "attention"),
        (["aten::mul", "autograd::engine::evaluate_function: NormSiLUBackward"], "norm and activation"),
        (["aten::silu", "benchmark: data and noise"], "data and noise"),
        (["gloo:all_reduce", "benchmark: optimiser"], "communication"),
        (["aten::mul"], None),
    ],
)
def test_the_innermost_name_that_says_something_decides(names, kind):
    assert kind_within([(name, None) for name in names]) == kind


def test_kinds_of_gpu_kernels_by_name():
    assert kernel_kind("triton_red_fused_convolution_silu_var_mean_12") == "norm and activation"
    assert kernel_kind("triton_poi_fused_cat_3") == OTHER
    assert kernel_kind("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc") == MATRIX
    assert kernel_kind("void conv_depthwise2d_forward_kernel<4, float, int>") == "FIR resampling"
    assert kernel_kind("ncclDevKernel_AllReduce_Sum_f32_RING_LL") == "communication"
    assert kind_of("aten::convolution", [[2, 8, 16, 16], [8, 1, 4, 4], []]) == "FIR resampling"
    assert kind_of("aten::convolution", [[2, 8, 16, 16], [8, 8, 4, 4], []]) == MATRIX


def test_time_of_gpu_kernels_goes_to_what_launched_them_or_to_their_names():
    """As the profiler gives it: kernels twice, as events of the device and beside the operation on the host that launched them."""

    def host(name, kernels=(), parent=None, shapes=None):
        kernels = [SimpleNamespace(name=n, duration=d) for n, d in kernels]
        return SimpleNamespace(name=name, device_type=DeviceType.CPU, kernels=kernels, cpu_parent=parent, input_shapes=shapes)

    def device(name, duration, annotation=False):
        return SimpleNamespace(name=name, device_type=DeviceType.CUDA, self_device_time_total=duration, is_user_annotation=annotation)

    average = host("benchmark: weights' average")
    norm = "triton_red_fused_silu_var_mean_7"
    events = [
        average,
        host("aten::_foreach_add_", [("multi_tensor_apply_kernel", 3.0)], average),
        host("aten::_fused_adam_", [("multi_tensor_apply_kernel", 5.0)]),
        host("Torch-Compiled Region", [(norm, 7.0)]),
        host("aten::convolution", [("nchw2nhwc", 1.0), ("sm90_xmma_fprop", 11.0)], shapes=[[1, 8, 4, 4], [8, 8, 3, 3]]),
        device("multi_tensor_apply_kernel", 3.0),
        device("multi_tensor_apply_kernel", 5.0),
        device(norm, 7.0),
        device("nchw2nhwc", 1.0),
        device("sm90_xmma_fprop", 11.0),
        device("benchmark: weights' average", 3.0, annotation=True),
        device("Memcpy HtoD", 2.0),  # launched by nothing that was seen
    ]
    assert {kind: t for kind, t in on_gpu(events).items() if t} == {
        "weights' average": 3.0,
        "optimiser": 5.0,
        "norm and activation": 7.0,
        MATRIX: 12.0,
        OTHER: 2.0,
    }


def test_the_clock_runs_for_the_steps_that_were_asked_for(monkeypatch):
    asked = [{"steps": 3, "warm": 2}, {"steps": 1, "warm": 0}]
    monkeypatch.setattr(sys, "stdin", StringIO("".join(json.dumps(a) + "\n" for a in asked)))
    ticks = iter(range(100))
    monkeypatch.setattr("training.control.time.perf_counter", lambda: float(done))
    done, channel = 0, StringIO()
    control = Control(CPU, channel, {"parameters": 1})
    with pytest.raises(SystemExit):
        while next(ticks) < 50:
            control.boundary()
            done += 1
    answers = [json.loads(line) for line in channel.getvalue().splitlines()]
    assert done == 2 + 3 + 1
    assert answers[0] == {"parameters": 1}
    assert [a["seconds"] for a in answers[1:]] == [1.0, 1.0]  # a step is one tick of this clock, warm ones are not in it
