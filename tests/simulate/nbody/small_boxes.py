"""Three clusters of few particles, evolved in seconds: what the tests of the N-body stage share."""

import h5py

SIDE = 45.0
SMALL = ["simulate.engine=nbody", "simulate.clusters=3", "simulate.mass_range=[3e14, 5e14]", f"simulate.cell={SIDE}"]
SMALL += ["simulate.particle_mass=1.83e12", "simulate.accuracy=1"]


def config(folder, *more):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text("run: {seed: 5}\n")
    return [str(folder / "c.yaml"), f"run.dir={folder}", *SMALL, *more]


def contents(folder):
    found = {p.name: p.read_bytes() for p in (folder / "snapshot").iterdir()}
    with h5py.File(folder / "halos.hdf5") as f:
        return found | {name: f[name][:].tobytes() for name in f}
