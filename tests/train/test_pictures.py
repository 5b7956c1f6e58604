"""Pictures of validation samples: what they show, in which units, and curves by closed form."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import LogNorm

from hpcdiff import measures
from hpcdiff.train import pictures
from hpcdiff.transform import Transform

UNITS = {"sz": "uK", "xray": "erg/s/cm^2", "gas": "dimensionless", "temperature": "keV"}
MODEL = SimpleNamespace(
    inputs=["sz", "xray"],
    outputs=["gas", "temperature"],
    transforms={
        "sz": Transform("linear", -1.0, 30.0),
        "xray": Transform("log10", -9.0, -4.0, 1e-9),
        "gas": Transform("asinh", 0.0, 5.0, 3.0),
        "temperature": Transform("linear", 0.5, 9.0),
    },
    info={"units": UNITS},
)


def fields(n=5, npix=32, seed=0):
    """Positive maps with structure on all scales, in the fields' units."""
    rng = np.random.default_rng(seed)
    smooth = np.exp(-np.add.outer((np.arange(npix) - npix / 2) ** 2, (np.arange(npix) - npix / 3) ** 2) / (npix / 4) ** 2)
    made = {f: smooth * rng.uniform(0.5, 1.5, (n, npix, npix)) for f in UNITS}
    made["xray"] *= 1e-5
    return made


def network_numbers(made, names):
    return np.stack([MODEL.transforms[f].forward(made[f]) for f in names], 1)


def draw(made, samples, **options):
    """The figures, for samples (fields' units, {output: (n, S, npix, npix)})."""
    drawn = np.stack([MODEL.transforms[f].forward(samples[f]) for f in MODEL.outputs], 2)
    return pictures.sample_pictures(
        MODEL, network_numbers(made, MODEL.inputs), network_numbers(made, MODEL.outputs), drawn, **options
    )  # fmt: skip


def panels(figure):
    return [axis for axis in figure.axes if axis.get_title() or axis.images]


def test_maps_are_in_field_units_and_upright_and_a_sample_has_the_truth_s_colours():
    made = fields()
    figure = draw(made, {f: made[f][:, None] * [[[1.0]], [[9.0]]] * 0.25 for f in MODEL.outputs}, width_mpc=12.8)["validation/maps"]
    grid = [axis for axis in figure.axes if axis.images]
    assert len(grid) == 3 * 6  # of five views three are shown
    titles = [axis.get_title() for axis in grid[:6]]
    assert titles == ["SZ\ninput", "X-ray\ninput", "gas\ntruth", "gas\nsample", "temperature\ntruth", "temperature\nsample"]
    for r in range(3):
        for c, (field, factor) in enumerate([("sz", 1), ("xray", 1), ("gas", 1), ("gas", 0.25), ("temperature", 1), ("temperature", 0.25)]):
            shown = grid[6 * r + c].images[0]
            np.testing.assert_allclose(shown.get_array(), factor * made[field][r].T, rtol=2e-4, atol=1e-4 * made[field].max())
            assert shown.origin == "lower" and shown.get_extent() == [-6.4, 6.4, -6.4, 6.4]
            # one scale a field, from the truth of the views that are shown
            assert isinstance(shown.norm, LogNorm) and shown.norm.vmax == pytest.approx(made[field][:3].max(), rel=1e-4)
    assert grid[0].get_ylabel() == "Mpc" and grid[12].get_xlabel() == "Mpc"
    bars = [axis.get_xlabel() for axis in figure.axes if axis.get_label() == "<colorbar>"]
    assert bars == [r"SZ ($\mu$K)", r"X-ray (erg s$^{-1}$ cm$^{-2}$)", r"gas ($\Sigma/\bar\Sigma$)", "temperature (keV)"]


def lines(axis):
    return {line.get_label(): line.get_ydata() for line in axis.lines if not line.get_label().startswith("_")}


def test_b_and_r_of_samples_that_are_the_truth_times_a_number():
    made = fields()
    samples = {f: made[f][:, None] * np.array([1.7, 0.5]).reshape(1, 2, 1, 1) for f in MODEL.outputs}
    figure = draw(made, samples, width_mpc=12.8, h=0.7)["validation/b(k) and r(k)"]
    b, r = figure.axes[:2], figure.axes[2:4]
    k = measures.wavenumbers(measures.mode_rings(32), 12.8, 0.7)
    for top, bottom, field in zip(b, r, MODEL.outputs, strict=True):
        assert field in top.get_title() and "5 validation views" in top.get_title()
        np.testing.assert_allclose(lines(top)["one sample"], 1.7, rtol=1e-3)
        np.testing.assert_allclose(lines(bottom)["one sample"], 1.0, rtol=1e-3)
        np.testing.assert_allclose(lines(bottom)["mean of 2 samples"], 1.0, rtol=1e-3)
        assert bottom.get_xlabel() == r"$k$ ($h$/Mpc)"
        np.testing.assert_allclose(top.lines[0].get_xdata(), k)
        assert {"SZ itself", "X-ray itself"} <= set(lines(bottom))
    assert [axis.get_ylabel()[:6] for axis in (b[0], r[0])] == ["$b(k) ", "$r(k)$"]


def test_r_of_the_inputs_and_of_samples_that_know_nothing():
    made, other = fields(), fields(seed=9)
    made["sz"] = 3 * made["gas"]
    samples = {f: other[f][:, None] for f in MODEL.outputs}
    r = draw(made, samples)["validation/b(k) and r(k)"].axes[2]
    np.testing.assert_allclose(lines(r)["SZ itself"], 1.0, rtol=1e-3)
    assert np.abs(lines(r)["one sample"][8:]).mean() < 0.3 and "mean of 1 samples" not in lines(r)
    np.testing.assert_allclose(lines(r)["X-ray itself"][8:], 0, atol=0.5)


def test_lengths_where_maps_have_no_common_width_or_h():
    made = fields()
    samples = {f: made[f][:, None] for f in MODEL.outputs}
    figures = draw(made, samples)
    assert figures["validation/maps"].axes[0].get_ylabel() == "pixels"
    spectra = figures["validation/b(k) and r(k)"].axes
    assert spectra[2].get_xlabel() == "modes across the map"
    np.testing.assert_allclose(spectra[0].lines[0].get_xdata(), measures.mode_rings(32).radius)
    with_width = draw(made, samples, width_mpc=10.0)["validation/b(k) and r(k)"].axes[2]
    assert with_width.get_xlabel() == "$k$ (1/Mpc)"
    np.testing.assert_allclose(with_width.lines[0].get_xdata(), measures.mode_rings(32).radius * 2 * np.pi / 10)


@pytest.mark.filterwarnings("error")
def test_one_view_and_samples_of_a_network_that_failed():
    made = fields(1, 8)
    made["gas"][:] = 0.0  # an empty map
    samples = {f: np.full((1, 1, 8, 8), np.nan) for f in MODEL.outputs}
    samples["temperature"][:] = 1e38
    before = dict(matplotlib.rcParams)
    figures = draw(made, samples, width_mpc=1.0, h=0.7)
    for figure in figures.values():
        figure.canvas.draw()
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert not pyplot.get_fignums()  # figures of their own: nothing is left behind


def test_a_regression_s_mean_is_called_so():
    made = fields()
    figures = draw(made, {f: made[f][:, None] for f in MODEL.outputs}, word="mean")
    assert [axis.get_title() for axis in figures["validation/maps"].axes if axis.images][3] == "gas\nmean"
    spectra = figures["validation/b(k) and r(k)"]
    labels = {text.get_text() for axis in spectra.axes if axis.get_legend() for text in axis.get_legend().get_texts()}
    assert "posterior mean" in labels and not any("sample" in label for label in labels)
    assert "mean" in spectra.axes[0].get_ylabel() and "sample" not in spectra.axes[0].get_ylabel()
