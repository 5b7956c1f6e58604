"""Bins, bootstrap and the one view of each halo, against plain loops."""

import numpy as np
import pytest

from hpcdiff.evaluate.bins import SIGNAL, Bin, bootstrap, curve, independent_units, mass_bins, one_view_per_halo, signal_bins


def test_mass_bins_are_closed_at_the_top():
    got = mass_bins({"low": [2.0, 6.0], "high": [6.0, 10.0]}, np.array([1.0, 2, 5.9, 6, 10, 10.1]))
    assert got["low"].tolist() == [0, 1, 1, 0, 0, 0] and got["high"].tolist() == [0, 0, 0, 1, 1, 0] and got["all"].all()


def test_signal_bins_are_thirds():
    signal = np.random.default_rng(0).lognormal(size=99)
    bins, edges = signal_bins(signal)
    assert [bins[name].sum() for name in SIGNAL] == [33, 33, 33]
    assert max(signal[bins["signal_low"]]) < min(signal[bins["signal_middle"]])
    assert max(signal[bins["signal_middle"]]) < min(signal[bins["signal_high"]])
    assert edges[0] == signal.min() and edges[3] == signal.max() and edges[1] < edges[2]
    bins, _ = signal_bins(np.ones(5))
    assert sum(b.astype(int) for b in bins.values()).tolist() == [1] * 5


def test_one_view_of_each_halo_whatever_else_is_evaluated():
    rng = np.random.default_rng(1)
    halos, sightlines, axes = (a.ravel() for a in np.meshgrid(np.arange(300), np.arange(2), np.arange(3), indexing="ij"))
    chosen = one_view_per_halo(halos, sightlines, axes)
    assert np.bincount(halos[chosen]).tolist() == [1] * 300
    named = set(zip(halos[chosen], sightlines[chosen], axes[chosen], strict=True))
    order = rng.permutation(len(halos))
    again = one_view_per_halo(halos[order], sightlines[order], axes[order])
    assert set(zip(halos[order][again], sightlines[order][again], axes[order][again], strict=True)) == named
    part = halos % 2 == 0  # another selection of halos
    few = one_view_per_halo(halos[part], sightlines[part], axes[part])
    assert set(zip(halos[part][few], sightlines[part][few], axes[part][few], strict=True)) == {n for n in named if n[0] % 2 == 0}
    assert np.bincount(axes[chosen]) == pytest.approx(100, abs=40)  # no axis is favoured


def test_bootstrap_draws_halos_with_replacement():
    w = bootstrap(40, 3000)
    assert (w.sum(1) == 40).all()
    assert w.mean(0) == pytest.approx(np.ones(40), abs=0.1) and w.var(0).mean() == pytest.approx(1 - 1 / 40, rel=0.05)


def test_more_views_of_the_same_halos_are_not_more_evidence():
    """Ten copies of each view: the error of the mean must stay as it is."""
    values = np.random.default_rng(0).standard_normal(40)
    one = Bin(np.arange(40), 2000).summary(values)
    ten = Bin(np.repeat(np.arange(40), 10), 2000).summary(np.repeat(values, 10))
    assert one["error_of_mean"] == pytest.approx(values.std() / np.sqrt(40), rel=0.1)
    assert ten["error_of_mean"] == pytest.approx(one["error_of_mean"], rel=1e-9)
    assert ten["n_views"] == 400 and ten["n_halos"] == 40


def test_more_halos_of_the_same_group_are_not_more_evidence():
    values = np.random.default_rng(0).standard_normal(40)
    one = Bin(np.arange(40), 2000).summary(values)
    ten = Bin(np.arange(400), 2000, np.repeat(np.arange(40) + 7, 10)).summary(np.repeat(values, 10))
    assert ten["error_of_mean"] == pytest.approx(one["error_of_mean"], rel=1e-9) and ten["n_halos"] == 400
    gain = Bin(np.repeat(np.arange(400), 2), 2000, np.repeat(np.arange(40), 20)).gain(np.repeat(np.exp(values), 20), np.ones(800))
    assert gain["error_of_mean"] == pytest.approx(Bin(np.arange(40), 2000).gain(np.exp(values), np.ones(40))["error_of_mean"], rel=1e-9)
    assert independent_units(np.arange(4), np.arange(4))[0] == independent_units(np.arange(4), np.zeros(4))[0] == "halo"
    assert independent_units(np.arange(4), np.array([0, 0, 1, 1]))[0] == "group"


def test_gain_is_paired_by_halo():
    gain = Bin(np.array([7, 7, 3]), 10).gain(np.array([1.0, 2.0, 5.0]), np.array([2.0, 4.0, 4.0]))
    assert gain["mean"] == pytest.approx((0.5 - 0.25) / 2) and gain["wins"] == 0.5 and gain["n_halos"] == 2


def test_curves_leave_out_what_is_not_a_number():
    values = np.random.default_rng(2).standard_normal((9, 4))
    assert curve(values)["p16"] == pytest.approx(np.percentile(values, 16, axis=0))
    values[2, 1], values[:, 3] = np.nan, np.nan
    got = curve(values)
    assert got["median"][1] == pytest.approx(np.nanmedian(values[:, 1])) and got["median"][3] is None
    assert got["p84"][0] == pytest.approx(np.percentile(values[:, 0], 84))
