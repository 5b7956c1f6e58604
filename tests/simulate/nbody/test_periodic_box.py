"""The stage with `simulate.box`: one periodic box and its halos."""

import h5py
import numpy as np
import pytest
from small_boxes import config, contents

from hpcdiff.errors import Stopped
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.nbody.box import run_box


def test_one_periodic_box_has_its_halos(tmp_path, capsys):
    more = ["simulate.box=60", "simulate.mass_range=[1.2e14, 5e15]", "simulate.particle_mass=9.4e11"]
    assert main(config(tmp_path / "run", *more)) == 0
    with h5py.File(tmp_path / "run" / "halos.hdf5") as halos, h5py.File(tmp_path / "run" / "snapshot" / "snapshot_000000.hdf5") as f:
        n = len(halos["halo_id"])
        assert n >= 2 and (np.diff(halos["mass_200m"][:]) <= 0).all() and halos["mass_200m"][:].min() >= 1.2e14
        assert f["Header"].attrs["BoxSize"] == pytest.approx(60 * 700)
        x = f["PartType1"]["Coordinates"][:] / 700
        for centre, radius, mass in zip(halos["position"][:], halos["radius_200m"][:], halos["mass_200m"][:], strict=True):
            r = np.linalg.norm((x - centre + 30) % 60 - 30, axis=1)
            assert np.sum(r < radius) * f["PartType1"]["Masses"][0] * 1e10 / 0.7 == pytest.approx(0.85 * mass, rel=0.12)


def test_a_periodic_box_without_a_halo_in_the_range_says_its_heaviest(tmp_path, capsys, monkeypatch):
    more = ["simulate.box=60", "simulate.mass_range=[1.2e15, 5e15]", "simulate.particle_mass=1.2e12"]
    monkeypatch.setattr("hpcdiff.simulate.nbody.plan.FEWEST", 0)
    assert main(config(tmp_path, *more)) == 2
    said = capsys.readouterr().err
    assert "no halo of 1.2e+15 to 5e+15 Msun, its heaviest has" in said and "--overwrite" in said
    heaviest = float(said.split("its heaviest has ")[1].split(",")[0])
    assert main([*config(tmp_path, *more, f"simulate.mass_range=[{0.99 * heaviest}, 5e15]"), "--overwrite"]) == 0
    with h5py.File(tmp_path / "halos.hdf5") as f:
        assert f["mass_200m"][:] == pytest.approx([heaviest], rel=0.005)


def test_a_stopped_periodic_box_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    more = ["simulate.box=60", "simulate.mass_range=[1.55e14, 5e15]", "simulate.particle_mass=1.2e12"]
    assert main(config(tmp_path / "whole", *more)) == 0
    folder, steps = tmp_path / "run", []

    def stopped(plan, files, box, told, threads, after, *rest):
        def look(state):
            steps.append(state.steps)
            after(state)
            if len(steps) == 20:
                raise Stopped("as by a signal")

        run_box(plan, files, box, told, threads, look, *rest)

    monkeypatch.setattr("hpcdiff.simulate.nbody.work.run_box", stopped)
    assert main(config(folder, *more)) == 75 and steps == list(range(1, 21))
    assert main(config(folder, *more)) == 0 and steps == list(range(1, len(steps) + 1))
    assert contents(folder) == contents(tmp_path / "whole")
