"""The training data of a run: bounds, statistics, stages, several files, bad input."""

import h5py
import numpy as np
import pytest
import torch
from conftest import make_maps

from hpcdiff import maps, seen
from hpcdiff.config import read_config
from hpcdiff.errors import UserError
from hpcdiff.observe import ObservedMaps
from hpcdiff.train.data import TrainingData
from hpcdiff.train.data.order import subset
from hpcdiff.train.data.statistics import noise_range
from hpcdiff.world import World

NAMES = ("target", "condition", "u", "z")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    make_maps(folder / "a.h5", halos=30, npix=16, axes=3)
    make_maps(folder / "b.h5", halos=14, npix=16, seed=1)
    return folder


def config_of(folder, *overrides, files=("a.h5",)):
    (folder / "c.yaml").write_text(f"run: {{dir: {folder}}}\n")
    return read_config(folder / "c.yaml", [f"run.maps=[{', '.join(str(folder / f) for f in files)}]", *overrides])


def data_of(folder, *overrides, files=("a.h5",)):
    return TrainingData(config_of(folder, *overrides, files=files), World())


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def test_bounds_come_from_the_training_split_and_batches_are_the_maps(files):
    data = data_of(files, "train.augment=false")
    source = maps.MapFile(files / "a.h5")
    train = source.read("gas", source.rows("train"))
    assert data.transforms["gas"].high == pytest.approx(train.max()) and data.transforms["gas"].low == pytest.approx(train.min())
    batch = data.batch(np.arange(data.n_train))
    for x in (batch.condition, batch.target):
        assert x.amin((0, 2, 3)).abs().max() < 1e-6 and (x.amax((0, 2, 3)) - 1).abs().max() < 1e-6
    shown = data.order.views(np.arange(data.n_train))
    np.testing.assert_allclose(data.transforms["gas"].inverse(batch.target[:, 0].numpy()), train[shown], rtol=1e-6, atol=1e-6 * train.max())
    assert data.n_validation == len(source.rows("val"))
    held = data.validation(np.arange(data.n_validation))
    np.testing.assert_array_equal(held.condition[:, 0], data.transforms["sz"].forward(source.read("sz", source.rows("val"))))


def test_batches_do_not_depend_on_how_images_are_dealt(files):
    data = data_of(files, "observe.sz={beam: 2.0, noise: 3.0}")
    whole = data.batch(np.arange(500, 512))
    for numbers in (np.arange(500, 504), np.arange(504, 512)):
        part, at = data.batch(numbers), slice(numbers[0] - 500, numbers[-1] - 499)
        for name in NAMES:
            torch.testing.assert_close(getattr(part, name), getattr(whole, name)[at], rtol=0, atol=0)
    held = data.validation(np.arange(6))
    torch.testing.assert_close(data.validation(np.array([4, 2])).condition, held.condition[[4, 2]])
    assert torch.equal(data.validation(np.array([4, 2])).z, held.z[[4, 2]])


def test_validation_sees_what_the_sample_stage_will_see(files):
    config = config_of(files, "observe.sz={beam: 2.0, noise: 3.0}", "observe.xray={exposure: 1.0e5}")
    data, source = TrainingData(config, World()), maps.MapFile(files / "a.h5")
    rows = source.rows("val")[[0, 3]]
    seen = ObservedMaps(source, config.resolved("observe")["observe"], ["sz", "xray"], config.run.seed)
    condition = data.validation(np.array([0, 3])).condition
    for k, name in enumerate(("sz", "xray")):
        wanted = torch.from_numpy(data.transforms[name].forward(seen.read(name, rows)))
        torch.testing.assert_close(condition[:, k], wanted, rtol=1e-6, atol=1e-6)


def test_inputs_and_outputs_turn_together(files):
    turned, plain = (data_of(files, f"train.augment={flag}").batch(np.arange(30)) for flag in ("true", "false"))
    assert not torch.equal(turned.target, plain.target)
    for k in range(30):
        found = [
            s
            for s in range(8)
            if all(
                torch.equal(torch.rot90(b[k].flip(2) if s >= 4 else b[k], s % 4, (1, 2)), a[k])
                for a, b in ((turned.target, plain.target), (turned.condition, plain.condition))
            )
        ]
        assert found


@pytest.mark.parametrize("observe", ["observe.sz={noise: null}", "observe.sz={noise: 3.0}"])
def test_where_maps_wait_changes_nothing(files, tmp_path, monkeypatch, observe):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    settings = ["task.transform={sz: log10, gas: asinh, dm: 4sigma}", "train.map_weights=[1, 2]", observe]
    made = {}
    for stage in ("none", "shared", "local", "auto"):
        data = data_of(files, *settings, f"train.stage={stage}", files=("a.h5", "b.h5"))
        made[stage] = [data.batch(np.arange(100, 140)), data.validation(np.arange(5)), data.statistics]
        data.close()
    for stage in ("shared", "local", "auto"):
        assert same(made[stage][0], made["none"][0]) and same(made[stage][1], made["none"][1])
        assert all(torch.equal(made[stage][2][k], v) for k, v in made["none"][2].items())


def test_local_copies_are_made_once_and_checked(files, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    data_of(files, "train.stage=local").close()
    (copy,) = tmp_path.iterdir()
    before = copy.stat().st_mtime_ns
    data = data_of(files, "train.stage=local")
    assert copy.stat().st_mtime_ns == before and str(tmp_path) in data.where
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-100])  # one that was cut short is made again
    data_of(files, "train.stage=local")
    assert copy.read_bytes() == whole
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: 10)
    copy.unlink()
    with pytest.raises(UserError, match="free"):
        data_of(files, "train.stage=local")


def test_room_decides(files, monkeypatch):
    size = 4 * 4 * 16**2 * len(data_of(files, "train.stage=none").views)
    for free, stage, words in ((2 * size, "auto", "in memory"), (2 * size - 1, "auto", "streamed"), (size, "shared", "in memory")):
        monkeypatch.setattr("hpcdiff.memory.free_bytes", lambda free=free: free)
        assert words in data_of(files, f"train.stage={stage}").where
    monkeypatch.setattr("hpcdiff.memory.free_bytes", lambda: size - 1)
    with pytest.raises(UserError, match="train.stage is shared"):
        data_of(files, "train.stage=shared")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="there is no GPU"):
            data_of(files, "train.stage=gpu")


def test_statistics_are_those_of_all_turned_views(files):
    data = data_of(files, files=("a.h5", "b.h5"))
    x = data.store.take(np.arange(data.n_train)).double()
    turned = torch.cat([torch.rot90(x.flip(3) if flip else x, turns, (2, 3)) for turns in range(4) for flip in (False, True)])
    std = turned.std(0, correction=0)
    for name, wanted in {
        "mean": turned.mean(0)[2:],
        "std": std[2:],
        "sigma_data": (std**2).mean((1, 2)).sqrt()[2:],
        "condition_mean": turned.mean(0)[:2],
        "condition_std": (std**2).mean((1, 2)).sqrt()[:2],
    }.items():
        torch.testing.assert_close(data.statistics[name].double(), wanted, rtol=1e-5, atol=1e-7)


def test_statistics_count_each_file_by_its_weight(files):
    data = data_of(files, "train.map_weights=[1, 3]", "train.augment=false", files=("a.h5", "b.h5"))
    first = data.views.sizes[0]
    a, b = (data.store.take(np.arange(*ends)).double() for ends in ((0, first), (first, data.n_train)))
    mean = (a.mean(0) + 3 * b.mean(0)) / 4
    std = (((a - mean) ** 2).mean(0) + 3 * ((b - mean) ** 2).mean(0)).div(4).sqrt()
    torch.testing.assert_close(data.statistics["mean"].double(), mean[2:], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(data.statistics["std"].double(), std[2:], rtol=1e-5, atol=1e-6)
    shown = data.order.views(np.arange(64 * 100))
    assert data.order.weights()[0] * len(shown) / data.n_train == pytest.approx((shown < first).sum() / first, rel=0.01)
    assert (data_of(files, files=("a.h5", "b.h5")).order.weights() == 1).all()


def test_what_the_training_maps_were_like_is_what_the_network_is_shown(files):
    source = maps.MapFile(files / "a.h5")
    x = source.read("sz", source.rows("train"))
    data = data_of(files, "train.stage=none", "task.transform=log10")
    assert data.seen["sz"] == seen.bounds([seen.describe(x)]) and set(data.seen) == {"sz", "xray"}
    noisy = data_of(files, "observe.sz={noise: 3.0}")
    shown = noisy.transforms["sz"].inverse(noisy._once(np.arange(noisy.n_train))[:, 0].numpy())
    for name, ends in seen.bounds([seen.describe(shown)]).items():
        assert noisy.seen["sz"][name] == pytest.approx(ends, rel=1e-4, abs=1e-4), name
    assert noisy.seen["xray"] == data.seen["xray"] and noisy.seen["sz"]["noise"][0] > 1 > data.seen["sz"]["noise"][0]


def test_inputs_are_standardised_as_they_are_observed(files):
    plain, noisy = data_of(files), data_of(files, "observe.sz={noise: 40.0}", "observe.xray={exposure: 1.0e5}")
    assert noisy.transforms == plain.transforms
    wide = 40.0 / (plain.transforms["sz"].high - plain.transforms["sz"].low)
    wanted = (plain.statistics["condition_std"][0] ** 2 + wide**2) ** 0.5
    assert noisy.statistics["condition_std"][0] == pytest.approx(float(wanted), rel=0.03)
    batch = noisy.batch(np.arange(noisy.n_train))
    centred = (batch.condition - noisy.statistics["condition_mean"]) / noisy.statistics["condition_std"][:, None, None]
    assert (centred.std((0, 2, 3)) - 1).abs().max() < 0.05
    counts = noisy.transforms["xray"].inverse(batch.condition[:, 1].numpy()).astype(np.float64) * 1e5
    assert np.abs(counts - counts.round()).max() < 0.01
    assert torch.equal(noisy.statistics["mean"], plain.statistics["mean"]) and same(noisy.batch(np.arange(9)), noisy.batch(np.arange(9)))
    n = noisy.n_train
    twice = noisy.batch(np.concatenate([np.arange(n), np.arange(n, 2 * n)])).condition[:, 0].flatten(1).std(1)
    assert len(set(twice.tolist())) == 2 * n  # noise is drawn anew each time


def test_several_files_are_drawn_by_weight(files):
    data = data_of(files, "train.map_weights=[1, 3]", "train.augment=false", files=("a.h5", "b.h5"))
    n = data.views.sizes
    assert data.n_train == sum(n) and len(data.fingerprints) == 2
    batch = data.batch(np.arange(640))
    second = maps.MapFile(files / "b.h5")
    known = {x.tobytes() for x in data.transforms["dm"].forward(second.read("dm", second.rows("train")))}
    found = sum(x.tobytes() in known for x in batch.target[:, 1].contiguous().numpy())
    assert found == 480


def test_a_subset_trains_on_fewer_halos_and_never_on_none(files):
    source = maps.MapFile(files / "a.h5")
    halo = source.catalog["halo_id"][source.rows("train")]
    sizes = [data_of(files, f"train.subset={f}").n_train for f in (1e-6, 0.3, 1.0)]
    assert sizes == [3, subset(halo, 0.3).sum(), len(halo)]


def test_noise_range_of_a_known_mode():
    """A mode of deviation 2 beside white pixels of deviation 0.01, about a mean of norm 6."""
    generator = torch.Generator().manual_seed(0)
    mode, mean = torch.zeros(256), torch.zeros(256)
    mode[:16], mean[100:136] = 0.25, 1.0
    x = mean + 2 * torch.randn(900, 1, generator=generator) * mode + 0.01 * torch.randn(900, 256, generator=generator)
    measured = {"mean": mean.reshape(1, 16, 16), "std": x.std(0).reshape(1, 16, 16)}
    low, high = noise_range(x.reshape(-1, 1, 16, 16), measured, matched=True)
    assert high == pytest.approx(5.0, rel=0.06) and low == pytest.approx(1e-3, rel=0.05)
    assert noise_range(x.reshape(-1, 1, 16, 16), measured, matched=False)[1] == pytest.approx(2.5 * 6, rel=0.04)
    s, sigma = high / 2.5, high  # what a start without the mode's own spread loses (physics of the reverse SDE)
    assert (1 - s**4 / (s**2 + sigma**2) ** 2) ** 0.5 > 0.99


def checksums_of(f):
    """Make the checksums of an open map file those of its maps."""
    stacks = {name: f["fields"][name][:] for name in f["fields"]}
    n = len(f["catalog/checksum"])
    f["catalog/checksum"][...] = np.array([maps.view_checksum({k: v[i] for k, v in stacks.items()}) for i in range(n)], np.uint32)


@pytest.mark.parametrize("transform", ["linear", "standard", "asinh 4sigma"])
def test_views_that_do_not_train_do_not_scale(tmp_path, transform):
    path, fitted = tmp_path / "a.h5", []
    make_maps(path, halos=20, npix=8)
    for factor in (1, 1000):
        with h5py.File(path, "r+") as f:
            for row in np.flatnonzero(f["catalog/split"][:] > 0):
                f["fields/gas"][row] *= factor
            checksums_of(f)
        fitted.append(data_of(tmp_path, f"task.transform={transform}").transforms)
    assert fitted[0] == fitted[1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("flipped", ["checksum", "a.h5", "clear"]),
        ("nan", ["finite", "a.h5", "dm"]),
        ("constant", ["constant", "dm"]),
        ("cut", ["a.h5"]),
        ("no training", ["train part", "empty", "a.h5"]),
        ("no validation", ["val part", "empty"]),
        ("partial", ["not finished", "a.h5.partial"]),
        ("missing", ["not there", "a.h5"]),
    ],
)
def test_bad_files_are_said_in_one_line(tmp_path, damage, words):
    path = tmp_path / "a.h5"
    make_maps(path, halos=20, npix=8)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif damage == "partial":
        path.rename(tmp_path / "a.h5.partial")
    elif damage == "missing":
        path.unlink()
    else:
        with h5py.File(path, "r+") as f:
            row = int(np.flatnonzero(f["catalog/split"][:] == 0)[0])
            if damage == "flipped":
                f["fields/gas"][row, 0, 0] *= 1.5
            elif damage.startswith("no "):
                split = f["catalog/split"][:]
                split[split == (damage == "no validation")] = 2
                f["catalog/split"][...] = split
                del f.attrs["crc32"]
            else:
                values = f["fields/dm"][:]
                values[row, 1, 1] = np.nan
                f["fields/dm"][...] = values if damage == "nan" else 1.0
                checksums_of(f)
    with pytest.raises(UserError) as raised:
        data_of(tmp_path)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value), raised.value


@pytest.mark.parametrize("what", ["npix", "pixel_mpc", "no pixel_mpc", "units", "field"])
def test_files_that_do_not_go_together(files, tmp_path, what):
    (tmp_path / "a.h5").symlink_to(files / "a.h5")
    make_maps(tmp_path / "b.h5", halos=14, npix=8 if what == "npix" else 16, seed=1)
    with h5py.File(tmp_path / "b.h5", "r+") as f:
        if what == "pixel_mpc":
            f.attrs["pixel_mpc"] *= 1 + 1e-5
        elif what == "no pixel_mpc":
            del f.attrs["pixel_mpc"]
        elif what == "units":
            f["fields/sz"].attrs["units"] = "K"
        elif what == "field":
            del f["fields/xray"]
    with pytest.raises(UserError) as raised:
        data_of(tmp_path, files=("a.h5", "b.h5"))
    words = {"units": ["units of sz", "uK", "K"], "field": ["xray"]}.get(what, [what.split()[-1]])
    for word in [*words, "b.h5", *["a.h5"] * (what != "field")]:
        assert word in str(raised.value), raised.value


def test_a_chunked_file_of_another_program_is_read_too(files, tmp_path):
    make_maps(tmp_path / "a.h5", halos=30, npix=16, axes=3)
    with h5py.File(tmp_path / "a.h5", "r+") as f:
        for name in list(f["fields"]):
            values, attributes = f["fields"][name][:], dict(f["fields"][name].attrs)
            del f["fields"][name]
            f["fields"].create_dataset(name, data=values.astype(">f4"), chunks=(7, 16, 16), compression=1).attrs.update(attributes)
    a, b = (data_of(folder, "train.stage=none") for folder in (files, tmp_path))
    assert same(a.batch(np.arange(40)), b.batch(np.arange(40)))


def test_more_ranks_than_views(files):
    class Many(World):
        size = 1000

        def any(self, flag):
            return bool(flag)

        def allgather(self, value):
            return [value] * 1000

    with pytest.raises(UserError, match="1000 ranks for"):
        TrainingData(config_of(files), Many())
