"""Maps from elsewhere: what comes in stands in the file, in the contract's order and units; killed, the same command goes on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import yaml
from conftest import ROOT, environment
from exported import COSMOLOGY, export, write_csv, write_import

from hpcdiff.cosmology import Background
from hpcdiff.maps import CATALOG, MapFile
from hpcdiff.maps.__main__ import main
from hpcdiff.maps.check import check
from hpcdiff.maps.imports import read_spec
from hpcdiff.maps.imports.table import COLUMNS

BACKGROUND = Background(**COSMOLOGY)


def imported(folder, *overrides: str) -> MapFile:
    assert main(["import", str(folder / "import.yaml"), *overrides]) == 0
    return MapFile(folder / "imported" / "maps.h5")


def test_a_round_trip_gives_the_same_file(tmp_path, capsys):
    """Exported in another order and imported: the same maps bit for bit, the same catalogue and split, row by row."""
    maps, _ = export(tmp_path)
    new = imported(tmp_path)
    assert "40 views of 20 halos" in capsys.readouterr().out
    for name in CATALOG:
        if name == "frame":
            assert np.isnan(new.catalog["frame"]).all()  # nobody said how the images lie in the box
        else:
            assert np.array_equal(new.catalog[name], maps.catalog[name]), name
    rows = np.arange(40)
    for field in maps.fields:
        assert new.read(field, rows).tobytes() == maps.read(field, rows).tobytes()
    assert new.fingerprint == maps.fingerprint and new.units == maps.units
    assert np.array_equal(new.catalog["richness"], rows * 1.5) and "label" not in new.catalog
    assert new.attributes["pixel_mpc"] == 0.8 and new.attributes["h"] == 0.7
    found = check(new.path)
    assert not found.wrong and not len(found.damaged) and found.imported
    assert "nothing to do" in say("import", tmp_path / "import.yaml", capsys=capsys)


def say(*words: object, capsys) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_rows_are_ordered_by_halo_then_sightline_then_axis(tmp_path):
    """Images that hold their own number come to the row that the contract gives them."""
    views = [(halo, line, axis) for halo in (-5, 3, 10**15) for line in (0, 1, 11) for axis in (0, 1, 2)]
    number = np.random.default_rng(1).permutation(len(views))
    np.save(tmp_path / "sz.npy", np.ones((len(views), 4, 4)) * (1 + number)[:, None, None])
    given = [views[k] for k in number]
    rows = [f"{k},{halo},{line},{axis},1e14" for k, (halo, line, axis) in enumerate(given)]  # with an index that has no name
    (tmp_path / "halos.csv").write_text("\n".join(["# three halos", ",halo_id,sightline_index,axis,mass_200m", *rows]))
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    write_import(tmp_path, fields={"sz": str(tmp_path / "sz.npy")}, units={"sz": "uK"}, split=split)
    new = imported(tmp_path)
    c = new.catalog
    assert list(zip(c["halo_id"].tolist(), c["sightline_index"].tolist(), c["axis"].tolist(), strict=True)) == views
    assert np.array_equal(new.read("sz", np.arange(27))[:, 0, 0], 1 + np.arange(27))


def test_the_split_can_be_the_tables_own(tmp_path):
    maps, order = export(tmp_path)
    part = maps.catalog["halo_id"] % 3
    text = (tmp_path / "halos.csv").read_text().splitlines()
    words = ["split", *(["train", "val", "test"][p] for p in part[order])]
    (tmp_path / "halos.csv").write_text("\n".join(f"{line},{word}" for line, word in zip(text, words, strict=True)) + "\n")
    write_import(tmp_path, split=None)
    new = imported(tmp_path)
    assert np.array_equal(new.catalog["split"], part) and not check(new.path).wrong


def test_units_are_turned_by_exact_factors(tmp_path):
    """Column densities over the mean one times the depth (Eq. 3), at each view's own redshift and depth; kelvin, watts, pixels."""
    maps, order = export(tmp_path, axes=1)
    z, depth = np.linspace(0, 1, 20), np.linspace(5, 20, 20)
    mean = {"gas": 0.045 * 2.77536627e11 * 0.49, "dm": 0.255 * 2.77536627e11 * 0.49}
    column = {name: mean[name] * (1 + z) ** 3 * depth for name in mean}  # Msun/Mpc^2
    rows = np.arange(20)
    maps_of = {name: maps.read(name, rows).astype(np.float64) for name in maps.fields}
    g_per_cm2 = 1.98840987e33 / 3.0856775814913673e24**2
    given = {
        "gas": maps_of["gas"] * (column["gas"] * g_per_cm2)[:, None, None],
        "dm": maps_of["dm"] * (column["dm"] * 0.8**2 * 0.7)[:, None, None],  # in Msun/h a pixel
        "sz": maps_of["sz"] * 1e-6,
        "xray": maps_of["xray"] * 1e-3,
    }
    for name, values in given.items():
        np.save(tmp_path / f"{name}.npy", values[order])
    radius = BACKGROUND.radius(maps.catalog["mass_200m"]) / (1 + z)
    columns = {"halo_id": maps.catalog["halo_id"], "mass_200m": maps.catalog["mass_200m"], "redshift": z, "depth_mpc": depth}
    write_csv(tmp_path / "halos.csv", {name: values[order] for name, values in columns.items()}, mark="  ")
    units = {"gas": "g/cm^2", "dm": "Msun/littleh/pix", "sz": "K", "xray": "W/m^2"}
    write_import(tmp_path, units=units, depth_mpc=None, redshift=None, width_mpc=None, pixel_mpc=0.8)
    new = imported(tmp_path)
    for name, values in maps_of.items():
        assert np.allclose(new.read(name, rows), values, rtol=3e-6, atol=0), name
    assert np.allclose(new.catalog["radius_200m"], radius, rtol=1e-12)  # the mass's own, at the view's redshift
    assert "redshift" not in new.attributes and not check(new.path).wrong


def test_columns_may_have_other_names_or_none(tmp_path):
    maps, order = export(tmp_path, axes=1)
    columns = {"id": maps.catalog["halo_id"][order], "M": maps.catalog["mass_200m"][order]}
    write_csv(tmp_path / "halos.csv", columns)
    write_import(tmp_path, columns={"halo_id": "id", "mass_200m": "M"})
    assert np.array_equal(imported(tmp_path).catalog["mass_200m"], maps.catalog["mass_200m"])
    text = (tmp_path / "halos.csv").read_text().split("\n", 1)[1].replace(",", "\t")
    (tmp_path / "halos.csv").write_text("# 1e3 numbers of a text file without names\n" + text)
    assert main(["import", str(tmp_path / "import.yaml"), "--overwrite"]) == 2
    write_import(tmp_path, columns=["halo_id", "mass_200m"])
    new = imported(tmp_path, "--overwrite")
    assert new.fingerprint == maps.fingerprint and np.isnan(new.catalog["position"]).all()


def test_a_camels_like_set(tmp_path, monkeypatch):
    """15 maps a simulation and a line of parameters a simulation, by the very commands of docs/maps.md."""
    rng = np.random.default_rng(2)
    gas = rng.lognormal(size=(60, 16, 16)).astype(np.float32) * 1e10
    for name, values in (("Mgas", gas), ("Mtot", 7 * gas), ("T", 1e6 * gas / 1e10)):
        np.save(tmp_path / f"Maps_{name}_IllustrisTNG_LH_z=0.00.npy", values)
    np.savetxt(tmp_path / "params_LH_IllustrisTNG.txt", rng.random((4, 6)))
    docs = (ROOT / "docs" / "maps.md").read_text()
    code, tree = (
        docs.split(f"```{kind}\n{first}", 1)[1].split("```")[0] for kind, first in (("python", "# views.csv"), ("yaml", "# camels"))
    )
    (tmp_path / "camels.yaml").write_text("#" + tree)
    monkeypatch.chdir(tmp_path)
    exec("#" + code, {})  # noqa: S102, our own page
    assert main(["import", "camels.yaml", "split={by: group, train: 0.5, val: 0.25, test: 0.25, seed: 0}"]) == 0
    new = MapFile(tmp_path / yaml.safe_load("#" + tree)["out"])
    assert new.n_views == 60 and len(np.unique(new.catalog["group"])) == 4
    for simulation in range(4):  # all maps of one simulation stay in one part
        assert len(np.unique(new.catalog["split"][new.catalog["group"] == simulation])) == 1
    h = 0.6711
    mean = 0.049 * 2.77536627e11 * h**2 * (5 / h)
    assert np.allclose(new.read("gas", np.arange(60)), gas * h / mean, rtol=1e-5)
    assert np.allclose(new.read("temperature", np.arange(60)), gas / 1e4 * 8.617333e-8, rtol=1e-5)
    assert np.allclose(new.catalog["mass_200m"], 7 * gas.sum(axis=(1, 2), dtype=float) * (25 / 16) ** 2 / h, rtol=1e-5)
    assert not check(new.path).wrong


def test_dry_run_touches_nothing(tmp_path, capsys):
    export(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    said = say("import", tmp_path / "import.yaml", "--dry-run", capsys=capsys)
    assert yaml.safe_load(said)["import"]["depth_mpc"] == 12.8 and "# sz: uK times 1 is uK" in said
    assert before == sorted(path.name for path in tmp_path.iterdir())


SLOWLY = """
import sys, time
import hpcdiff.maps.layout, hpcdiff.maps.imports.work as work
from hpcdiff.maps.__main__ import main
hpcdiff.maps.layout.BLOCK_BYTES = 1
quick = work.Sources.maps
work.Sources.maps = lambda *words: (time.sleep(0.02), quick(*words))[1]
sys.exit(main())
"""
"""An import that takes a while, a view at a time."""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
def test_killed_and_run_again_gives_the_same_bytes(tmp_path, capsys, number, status):
    """Ended once some views are in the file; the same command takes them over."""
    maps, _ = export(tmp_path, axes=3)
    command = [sys.executable, "-c", SLOWLY, "import", str(tmp_path / "import.yaml")]
    unlocked = environment(HDF5_USE_FILE_LOCKING="FALSE")  # so that the file can be looked at meanwhile
    process = subprocess.Popen(command, cwd=ROOT, env=unlocked, stderr=subprocess.DEVNULL)
    partial = tmp_path / "imported" / "maps.h5.partial"
    end, views = time.monotonic() + 60, 0
    while views < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
        with contextlib.suppress(OSError, KeyError), h5py.File(partial, "r") as f:
            views = int((f["catalog/checksum"][:] != 0).sum())
    process.send_signal(number)
    assert process.wait(30) == status
    assert partial.exists() and not (tmp_path / "imported" / "maps.h5").exists()
    new = imported(tmp_path)
    assert "of them from before" in capsys.readouterr().out
    assert new.fingerprint == maps.fingerprint and not len(new.verify(np.arange(60)))


def test_another_import_is_refused_and_overwrite_begins_afresh(tmp_path, capsys):
    export(tmp_path)
    imported(tmp_path)
    assert main(["import", str(tmp_path / "import.yaml"), "width_mpc=6.4"]) == 2
    assert "import.width_mpc was 12.8 and is now 6.4" in capsys.readouterr().err
    sz = np.load(tmp_path / "sz.npy")
    np.save(tmp_path / "sz.npy", 2 * sz)
    assert main(["import", str(tmp_path / "import.yaml")]) == 2
    assert "sz was" in capsys.readouterr().err
    assert imported(tmp_path, "--overwrite").read("sz", np.array([0])).max() > sz.max(axis=(1, 2)).min()
    assert main(["clear", str(tmp_path / "imported" / "maps.h5"), "--rows", "0"]) == 2
    assert "import them again with --overwrite" in capsys.readouterr().err


def test_train_accepts_imported_maps(tmp_path):
    """The plan counts their views, and a few images train a small network on them."""
    export(tmp_path)
    new = imported(tmp_path)
    network = {"channels": 8, "multipliers": [1, 2], "blocks": 1}
    tree = {"run": {"dir": str(tmp_path / "run"), "maps": str(new.path)}, "network": network, "diffusion": {"precondition": "edm"}}
    tree["train"] = {"batch_size": 4, "images": 8, "precision": "fp32", "checkpoint_every": 8, "validate_every": 8}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    for more in (["--dry-run"], []):
        command = [sys.executable, "-m", "hpcdiff.train", str(tmp_path / "train.yaml"), *more]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        if more:
            assert f"{len(new.rows('train'))} training and {len(new.rows('val'))} validation views of 16 x 16" in done.stdout
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_the_page_names_every_key_and_its_example_is_valid(tmp_path):
    docs = (ROOT / "docs" / "maps.md").read_text()
    for name in (*read_spec(write_import(tmp_path)).resolved(), *COLUMNS):
        assert f"`{name}`" in docs or f"{name}," in docs or f",{name}" in docs, name
    (tmp_path / "example.yaml").write_text(docs.split("```yaml\n", 1)[1].split("```")[0])
    spec = read_spec(tmp_path / "example.yaml")
    assert set(spec.fields) == {"sz", "gas", "dm"} and spec.pixel_mpc == 0.1
