"""What the model's folder says of the simulation."""

from types import SimpleNamespace

import numpy as np

from hpcdiff.train.data.universe import universe


def a_file(z, own=None, **attributes):
    return SimpleNamespace(
        attributes=attributes,
        field_attributes={"gas": {}, "dm": {} if own is None else {"depth_mpc": own}},
        catalog={"redshift": np.array(z)},
    )


def test_one_file():
    said = universe([a_file([0.1, 0.3], 20.0, Om0=np.float64(0.3), h=0.7, depth_mpc=12.8)], ["gas", "dm"])
    assert said == {"Om0": 0.3, "h": 0.7, "redshift": [0.1, 0.3], "depth_mpc": {"gas": 12.8, "dm": 20.0}}


def test_files_that_differ_have_no_common_depth():
    said = universe([a_file([0.1], depth_mpc=12.8), a_file([0.5], 10.0, depth_mpc=12.8), a_file([0.2])], ["gas", "dm"])
    assert said["depth_mpc"] == {"gas": None, "dm": None} and said["redshift"] == [0.1, 0.5]
    same = universe([a_file([0.1], depth_mpc=12.8), a_file([0.5], 10.0, depth_mpc=12.8)], ["gas", "dm"])
    assert same["depth_mpc"] == {"gas": 12.8, "dm": None}
