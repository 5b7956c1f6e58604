"""A halo finder's own catalogue gives the maps of the same halos written as ours."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from tiny_box import BOX, H, particles, write_config, write_halos, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.project.__main__ import main

CENTRES = np.random.default_rng(6).uniform(0, BOX, (4, 3))
MASS = np.array([1.6, 1.8, 2.0, 2.2]) * 1e14


def test_subfind_chunks_and_a_native_file(tmp_path, capsys):
    data = particles(centres=CENTRES, n=800)
    del data[1]["SmoothingLength"]
    write_snapshot(tmp_path / "s.hdf5", data)
    radius = Background(Om0=0.3, h=H).radius(MASS)
    (tmp_path / "groups").mkdir()
    for k in range(2):
        part = slice(2 * k, 2 * k + 2)
        with h5py.File(tmp_path / "groups" / f"fof_subhalo_tab_000.{k}.hdf5", "w") as f:
            header = {"BoxSize": BOX * 1e3 * H, "Redshift": 0.0, "NumFiles": 2, "Ngroups_Total": 4, "HubbleParam": H, "Omega0": 0.3}
            f.create_group("Header").attrs.update(header)
            columns = {"GroupPos": CENTRES * 1e3 * H, "Group_M_Mean200": MASS * H / 1e10, "Group_R_Mean200": radius * 1e3 * H}
            for name, values in columns.items():
                f[f"Group/{name}"] = values[part]
    write_halos(tmp_path / "native.hdf5", CENTRES, mass_200m=MASS)
    maps = []
    for name, more in (("groups", {"catalog": "subfind"}), ("native.hdf5", {})):
        split = {"train": 1.0, "val": 0.0, "test": 0.0}
        run = tmp_path / f"run_{name}"
        config = write_config(
            tmp_path / "c.yaml",
            run,
            tmp_path / "s.hdf5",
            tmp_path / name,
            fields=["gas", "dm"],
            split=split,
            mass_range=[1.7e14, 1e15],
            **more,
        )
        assert main([str(config), "--dry-run"]) == 0
        assert "1 of the catalogue's halos lie outside project.mass_range" in capsys.readouterr().out
        assert main([str(config)]) == 0
        with h5py.File(run / "maps.h5") as f:
            assert f["catalog/halo_id"][:].tolist() == np.repeat([1, 2, 3], 3).tolist()
            maps.append({field: f["fields"][field][:] for field in ("gas", "dm")})
    for field, values in maps[0].items():
        assert values == pytest.approx(maps[1][field], rel=1e-3, abs=1e-4 * float(values.max())) and values.max() > 10
    assert main([str(config), "--overwrite"]) == 0  # what it computes for itself is computed again
    assert (run / "smoothing.dm.h5").exists()
