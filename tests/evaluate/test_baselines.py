"""The baselines find what they are made to find."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from fake_run import smooth, write_run

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.evaluate.baselines import NAMES, Baselines
from hpcdiff.evaluate.baselines.training import chosen
from hpcdiff.maps import MapFile
from hpcdiff.measures import pixel_rings
from hpcdiff.world import World


class Maps:
    """A map file in memory."""

    def __init__(self, fields, n_train, views=1, **catalog):
        self.fields, self.npix = fields, fields["sz"].shape[-1]
        n = len(fields["sz"])
        self.catalog = {"halo_id": np.arange(n) // views, "width_mpc": np.full(n, 12.8), "depth_mpc": np.full(n, 12.8)}
        self.catalog |= {"redshift": np.zeros(n), "mass_200m": np.full(n, 3e14), **catalog}
        self.attributes = {"Om0": 0.3, "Ob0": 0.045, "h": 0.7}
        self.train = np.arange(n_train)

    def rows(self, part):
        return self.train

    def read(self, field, rows):
        return self.fields[field][rows].astype(np.float32)


def relative(x, y):
    return np.sqrt(((x - y) ** 2).mean() / (y - y.mean()).std() ** 2)


def predicted(fitted, name, row):
    """The first output's map of one baseline for one row."""
    x = np.stack([fitted.maps.fields[f][row] for f in fitted.inputs])
    return fitted.predict(x, row)[name][0]


@pytest.mark.parametrize("npix", [16, 17])
def test_wiener_recovers_a_linear_relation(npix):
    rng = np.random.default_rng(0)
    n = 40
    sz, xray = smooth(rng, n, npix, 0.8) + rng.lognormal(0, 1, (n, 1, 1)), 1e-6 * smooth(rng, n, npix, 0.5)
    f = np.fft.fftfreq(npix, 1 / npix)
    ring = np.hypot(f[:, None], f[None, :]).astype(int)
    offset = pixel_rings(npix, whole=True).spread(np.linspace(9, 1, pixel_rings(npix, whole=True).n))

    def filtered(x, w):
        return np.fft.ifft2(np.fft.fft2(x) * w).real

    dm = offset + filtered(sz, np.exp(-ring / 4)) + 1e6 * filtered(xray, 1 / (1.0 + ring))
    maps = Maps({"sz": sz, "xray": xray, "dm": dm}, 30)
    fitted = Baselines(World(), maps, ["sz", "xray"], ["dm"])
    for row in range(30, n):
        assert relative(predicted(fitted, "wiener", row), dm[row]) < 0.025  # the mean of 30 maps is not quite round
    # and not without the second input: the test would see a filter that ignores it
    one = Baselines(World(), maps, ["sz"], ["dm"])
    assert np.mean([relative(predicted(one, "wiener", row), dm[row]) for row in range(30, n)]) > 0.1


def test_wiener_shrinks_with_noise():
    """Input = truth + white noise of the same power: the filter is 1/2 and half of the variance is left."""
    rng = np.random.default_rng(1)
    n, npix = 400, 16
    truth = rng.standard_normal((n, npix, npix))
    seen = truth + rng.standard_normal((n, npix, npix))
    fitted = Baselines(World(), Maps({"sz": seen, "gas": truth}, 300), ["sz"], ["gas"])
    error = np.mean([((predicted(fitted, "wiener", r) - truth[r]) ** 2).mean() for r in range(300, n)])
    assert error == pytest.approx(0.5, rel=0.03)


def test_stacked_profile_follows_the_signal_with_a_power_law():
    rng = np.random.default_rng(2)
    npix, y = 16, rng.lognormal(0, 1.5, 60)
    rings = pixel_rings(npix, whole=True)
    shape = rings.spread(1 / (1 + rings.radius))
    sz = y[:, None, None] * shape
    gas = y[:, None, None] ** 0.6 * shape**0.5
    fitted = Baselines(World(), Maps({"sz": sz, "gas": gas}, 40), ["sz"], ["gas"])
    assert fitted.models["stacked_profile"].alpha == pytest.approx([0.6], rel=1e-5)
    for row in range(40, 60):
        assert relative(predicted(fitted, "stacked_profile", row), gas[row]) < 1e-3


def test_a_map_of_noise_alone_does_not_tilt_the_fits():
    """One training view whose signal is below zero: the slopes are those of the others, near enough."""
    rng = np.random.default_rng(9)
    y = rng.lognormal(0, 1, (60, 1, 1))
    y[3] = y.min()
    shape = np.exp(-np.hypot(*np.mgrid[-7.5:8, -7.5:8]) / 3)
    sz, gas = y * shape, y**0.6 * shape
    sz[3] = -0.01 * shape
    fitted = Baselines(World(), Maps({"sz": sz, "gas": gas}, 60, mass_200m=1e14 * y[:, 0, 0] ** 0.6), ["sz"], ["gas"])
    assert fitted.models["stacked_profile"].alpha == pytest.approx([0.6], abs=0.02)
    assert fitted.models["nfw"].slope == pytest.approx(0.6, abs=0.02)


def test_round_baselines_know_no_shape():
    rng = np.random.default_rng(3)
    sz = np.abs(smooth(rng, 20, 16, 1)) + 1
    fitted = Baselines(World(), Maps({"sz": sz, "gas": sz}, 20), ["sz"], ["gas"])
    for name in ("stacked_profile", "nfw"):
        made = predicted(fitted, name, 0)
        assert np.array_equal(made, made.T) and np.array_equal(made, made[::-1])


@pytest.mark.parametrize("z", [0.0, 0.5])
def test_nfw_is_the_halo_of_the_signals_mass(z):
    """SZ follows a power of the mass; dm is colossus' own projected NFW halo of that mass and its median concentration."""
    from colossus.cosmology import cosmology
    from colossus.halo import concentration, profile_nfw

    rng = np.random.default_rng(4)
    npix, width, depth, n, b = 32, 12.8, 600.0, 40, Background()
    mass = 10 ** rng.uniform(14.1, 15.2, n)
    numbers = {"H0": 70.0, "Om0": 0.3, "Ob0": 0.045, "sigma8": 0.8, "ns": 0.96, "Tcmb0": 2.7255}
    cosmology.setCosmology("test", {"flat": True, "relspecies": False, "persistence": "", **numbers})
    fine = 6
    x = ((np.arange(npix * fine) + 0.5) / fine - npix / 2) * width / npix
    at = np.geomspace(0.01, 10, 200)  # Mpc
    columns = []
    for m in mass:
        c = float(concentration.concentration(m * b.h, "200m", z, model="diemer19"))
        halo = profile_nfw.NFWProfile(M=m * b.h, c=c, z=z, mdef="200m")
        sigma = halo.surfaceDensity(at * 1e3 * b.h) * b.h * 1e6  # Msun h / kpc^2 -> Msun / Mpc^2
        fine_map = np.interp(np.hypot(x[:, None], x[None, :]), at, sigma).reshape(npix, fine, npix, fine).mean((1, 3))
        columns.append(fine_map / (b.rho_mean(z) * depth))
    dm = np.array(columns)
    rings = pixel_rings(npix, whole=True)
    shape = rings.spread(1 / (1 + rings.radius))
    sz = 1e-3 * (mass / 1e14)[:, None, None] ** 1.6 * shape * rng.lognormal(0, 0.01, (n, 1, 1))
    maps = Maps({"sz": sz, "dm": dm, "gas": 0.8 * dm + 3.0}, 30, mass_200m=mass, redshift=np.full(n, z), depth_mpc=np.full(n, depth))
    fitted = Baselines(World(), maps, ["sz"], ["dm", "gas"])
    nfw = fitted.models["nfw"]
    assert nfw.slope == pytest.approx(1 / 1.6, rel=0.01)
    assert nfw.amplitude[:, 0] == pytest.approx([1.0, 0.8], rel=0.01)
    assert nfw.amplitude[1, 1] - nfw.amplitude[0, 1] * 0.8 == pytest.approx(3.0, rel=0.01)
    ring = pixel_rings(npix)
    for row in range(30, n):
        made = fitted.predict(sz[row][None], row)["nfw"]
        assert ring.mean(made[0]) == pytest.approx(ring.mean(dm[row]), rel=0.04)


def test_nfw_needs_densities_and_masses():
    rng = np.random.default_rng(5)
    sz = np.abs(smooth(rng, 12, 16, 1)) + 1
    fitted = Baselines(World(), Maps({"sz": sz, "temperature": sz}, 12), ["sz"], ["temperature"])
    assert "nfw" not in fitted.names and "temperature" in fitted.reasons["nfw"]
    fitted = Baselines(World(), Maps({"sz": sz, "gas": sz}, 12, mass_200m=np.full(12, np.nan)), ["sz"], ["gas"])
    assert "nfw" not in fitted.names and "masses" in fitted.reasons["nfw"] and "wiener" in fitted.names


def test_nearest_finds_the_twin_of_another_halo():
    rng = np.random.default_rng(6)
    size = rng.lognormal(0, 1, (40, 1, 1))
    sz, xray = (np.exp(0.5 * smooth(rng, 40, 16, 2)) * size**p for p in (1.0, 2.0))
    dm = rng.standard_normal((40, 16, 16))
    for twin, of in ((32, 5), (33, 17), (34, 2)):  # rows 30 and on are no training views
        sz[twin], xray[twin] = sz[of] * 1.01, xray[of] * 0.99
    xray[35], sz[35] = xray[9], sz[9] * 1.3  # both inputs count
    maps = Maps({"sz": sz, "xray": xray, "dm": dm}, 30, views=2)
    fitted = Baselines(World(), maps, ["sz", "xray"], ["dm"])
    for row, of in ((32, 5), (33, 17), (34, 2), (35, 9)):
        assert np.array_equal(predicted(fitted, "nearest", row), dm[of].astype(np.float32))
    # a training view is its own twin, and may be asked for too: it and its halo's other view are passed over
    sz[20], xray[20], sz[21], xray[21] = sz[4] * 1.001, xray[4], sz[4], xray[4]
    fitted = Baselines(World(), maps, ["sz", "xray"], ["dm"])
    assert np.array_equal(predicted(fitted, "nearest", 21), dm[4].astype(np.float32))
    assert np.array_equal(predicted(fitted, "nearest", 4), dm[21].astype(np.float32))


def test_training_views_are_bounded_and_dealt_over_the_halos():
    rng = np.random.default_rng(7)
    views = rng.integers(1, 30, 50)
    halo = np.repeat(rng.permutation(1000)[:50], views)
    rows = np.arange(len(halo)) * 3
    few = chosen(halo, rows, 120)
    assert len(few) == 120 and (np.diff(few) > 0).all() and np.isin(few, rows).all()
    counts = [np.isin(rows[halo == h], few).sum() for h in np.unique(halo)]
    level = max(counts)
    have = np.array([(halo == h).sum() for h in np.unique(halo)])
    assert all(c >= min(level - 1, n) for c, n in zip(counts, have, strict=True))
    shuffled = rng.permutation(len(rows))
    assert np.array_equal(chosen(halo[shuffled], rows[shuffled], 120), few)
    assert np.array_equal(chosen(halo[shuffled], rows[shuffled], 10**6), rows)


class Ranks:
    """Worlds of several ranks in threads."""

    def __init__(self, size):
        self.barrier, self.slots, self.size = threading.Barrier(size), [None] * size, size

    def world(self, rank):
        def allgather(value):
            self.slots[rank] = value
            self.barrier.wait()
            got = list(self.slots)
            self.barrier.wait()
            return got

        bar = nullcontext(SimpleNamespace(update=lambda n: None))
        return SimpleNamespace(
            rank=rank, size=self.size, main=rank == 0, allgather=allgather, stop_agreed=lambda: False,
            together=nullcontext, progress=lambda *a: bar,
        )  # fmt: skip


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_fits_the_same_bits(size):
    rng = np.random.default_rng(8)
    sz, xray, dm = (np.exp(smooth(rng, 50, 16, 2)) for _ in range(3))
    maps = Maps({"sz": sz, "xray": xray, "dm": dm}, 45, mass_200m=rng.lognormal(33, 0.5, 50))

    def maps_of(world):
        fitted = Baselines(world, maps, ["sz", "xray"], ["dm"])
        return [fitted.predict(np.stack([sz[row], xray[row]]), row) for row in (46, 49)]

    alone, ranks, made = maps_of(World()), Ranks(size), {}
    threads = [threading.Thread(target=lambda r=r: made.update({r: maps_of(ranks.world(r))})) for r in range(size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == size and set(alone[0]) == set(NAMES[:-1])
    for theirs in made.values():
        for a, b in zip(alone, theirs, strict=True):
            assert all(np.array_equal(a[name], b[name]) for name in a)


def settings(regression):
    return SimpleNamespace(evaluate=SimpleNamespace(regression=str(regression)), cosmology=SimpleNamespace())


def test_regression_gives_the_maps_of_its_file(tmp_path):
    write_run(tmp_path, samples=1)
    maps, path = MapFile(tmp_path / "maps.h5"), tmp_path / "samples.h5"
    fitted = Baselines(World(), maps, ["sz", "xray"], ["dm", "gas"], settings(path), maps.rows("test"))
    assert fitted.names == NAMES and not fitted.reasons
    row = maps.rows("test")[5]
    x = np.stack([maps.read(f, [row])[0] for f in ("sz", "xray")]).astype(float)
    made = fitted.predict(x, row, ("regression",))
    assert list(made) == ["regression"]
    with h5py.File(path) as f:
        assert np.array_equal(made["regression"], np.stack([f["samples/dm"][5, 0], f["samples/gas"][5, 0]]))


def test_a_regression_that_lacks_views_is_left_out_with_a_reason(tmp_path):
    write_run(tmp_path, samples=1)
    maps = MapFile(tmp_path / "maps.h5")
    wanted = np.append(maps.rows("test"), maps.rows("val")[:2])
    fitted = Baselines(World(), maps, ["sz", "xray"], ["dm"], settings(tmp_path / "samples.h5"), wanted)
    assert "regression" not in fitted.names and "2 views have no maps" in fitted.reasons["regression"]
    assert fitted.names == NAMES[:-1]


def test_regression_refuses_what_is_none(tmp_path):
    write_run(tmp_path / "a", samples=1, seed=1)
    write_run(tmp_path / "b", samples=1, seed=2)
    write_run(tmp_path / "c", samples=4, seed=1)
    write_run(tmp_path / "d", samples=1, seed=1, control="shuffled inputs")
    maps = MapFile(tmp_path / "a/maps.h5")

    def refused(path, outputs, *words):
        with pytest.raises(UserError) as error:
            Baselines(World(), maps, ["sz", "xray"], outputs, settings(path))
        for word in words:
            assert word in str(error.value)

    refused(tmp_path / "b/samples.h5", ["dm"], "another map file", "b/samples.h5")
    refused(tmp_path / "c/samples.h5", ["dm"], "4 samples a view", "task.method=regression")
    refused(tmp_path / "d/samples.h5", ["dm"], "a control (shuffled inputs)")
    refused(tmp_path / "none.h5", ["dm"], "none.h5")
    refused(tmp_path / "a/maps.h5", ["dm"], "not a samples file")
    refused(tmp_path / "a/samples.h5", ["dm", "total"], "total", "dm, gas")


def test_too_few_halos_have_a_reason():
    sz = np.ones((5, 8, 8))
    fitted = Baselines(World(), Maps({"sz": sz, "gas": sz}, 2), ["sz"], ["gas"])
    assert fitted.names == () and "2 halos" in fitted.reason and fitted.predict(sz[:1], 4) == {}
    assert set(fitted.reasons) == set(NAMES[:-1])
