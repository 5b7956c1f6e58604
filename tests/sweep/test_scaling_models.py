"""The formulas behind docs/scaling.md, held against closed forms."""

import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from batches.fit import fit, gpus, helping, noise_scale  # noqa: E402
from batches.network import Cluster, all_reduce_seconds, step_seconds  # noqa: E402


def test_the_critical_batch_is_found_again():
    batch = np.array([4, 8, 16, 32, 64, 128, 256])
    exact = fit([(b, 50 * (1 + 37 / b)) for b in batch])
    assert exact["critical"] == pytest.approx(37, rel=5e-3) and exact["steps"] == pytest.approx(50, rel=5e-3) and exact["scatter"] < 1e-2
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = fit([(b, 50 * (1 + 37 / b) * np.exp(0.1 * rng.normal())) for b in batch])
        inside += found["low"] <= 37 <= found["high"]
    assert 180 <= inside <= 199  # a 95 % interval


def test_the_noise_scale_of_gaussian_gradients():
    """Gradients of single images N(G, Sigma): tr(Sigma) / |G|^2 = 200 here, measured without bias though |G| is below the noise of a batch."""
    rng, dimension, small, groups, each = np.random.default_rng(1), 50, 8, 16, 64
    signal = np.full(dimension, 0.1)
    deviation = np.sqrt(200 * (signal**2).sum() / dimension)
    values = []
    for _ in range(60):
        micro = signal + deviation / np.sqrt(small) * rng.normal(size=(groups, each, dimension))
        found = noise_scale((micro**2).sum(2).reshape(-1), micro.mean(1), small, small * groups * each)
        values.append((found["value"], found["error"]))
    value, error = np.array(values).T
    assert abs(np.mean(value) - 200) < 4 * np.std(value) / np.sqrt(60) + 2
    assert 0.6 < np.mean(error) / np.std(value) < 1.7


def test_the_ring_moves_each_byte_almost_twice():
    size = 4 * 45_835_912
    one_node = Cluster(per_node=8, inside=50e9, latency=(0.0, 0.0))
    assert all_reduce_seconds(size, 8, one_node) == pytest.approx(2 * 7 / 8 * size / 50e9)
    flat = Cluster(per_node=1, between=12.5e9, latency=(0.0, 1e-5))
    assert all_reduce_seconds(size, 64, flat) == pytest.approx(2 * 63 / 64 * size / 12.5e9 + 126e-5)
    assert all_reduce_seconds(size, 1, flat) == 0
    rings = Cluster(per_node=8, inside=1e30, between=12.5e9, latency=(0.0, 0.0))  # eight rings side by side, each with an eighth
    assert all_reduce_seconds(size, 1024, rings) == pytest.approx(2 * 127 / 128 * size / 8 / 12.5e9)


def test_what_the_backward_pass_hides_costs_nothing_but_the_last_bucket():
    cluster = Cluster(per_node=1, flops=1e14, overhead=0.0, between=1e12, latency=(0.0, 0.0))
    alone, together = (step_seconds(8, n, 400.9e9, 45_835_912, cluster) for n in (1, 2))
    exchange = all_reduce_seconds(4 * 45_835_912, 2, cluster)
    assert alone == pytest.approx(3 * 8 * 400.9e9 / 1e14) and together - alone == pytest.approx(exchange * 25 * 2**20 / (4 * 45_835_912))
    assert step_seconds(8, 2, 400.9e9, 45_835_912, cluster, overlap=False) - alone == pytest.approx(exchange)
    slow = Cluster(per_node=1, flops=1e14, overhead=0.0, between=1e6, latency=(0.0, 0.0))
    exchange, backward = all_reduce_seconds(4 * 45_835_912, 2, slow), 2 * 8 * 400.9e9 / 1e14
    assert step_seconds(8, 2, 400.9e9, 45_835_912, slow) - alone == pytest.approx(exchange - backward, rel=1e-6)


def test_speed_up_ends_where_steps_no_longer_fall():
    """Without overhead and network, N GPUs of one map each take S (1 + B_crit / N) steps of equal length, so at most 1 + B_crit faster."""
    free = Cluster(overhead=0.0, inside=1e30, between=1e30, latency=(0.0, 0.0))
    table = {row["gpus"]: row for row in gpus(100.0, free)}
    for n, row in table.items():
        assert row["batch"] == n and row["speed_up"] == pytest.approx(101 / (1 + 100 / n)), n
    assert helping(list(table.values())) == 64  # half of the first's use at N = 99 + 2
