"""A full disk, stage by stage: exit 2, one line, nothing half-written under a final name; and with room again it goes on."""

import shutil
import subprocess

import pytest
from conftest import make_maps, refused, run

CONFIG = """
run: {{dir: {dir}}}
simulate: {{clusters: 8, mass_range: [2.0e14, 1.0e15], cell: 32.0, particle_mass: 1.0e12}}
project: {{npix: 32, split: {{train: 0.6, val: 0.2, test: 0.2, seed: {seed}}}}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1}}
diffusion: {{precondition: edm}}
task: {{transform: asinh}}
train: {{batch_size: 6, images: 48, precision: fp32, checkpoint_every: 12, keep: 3}}
sample: {{steps: 4, samples: 6, batch_size: 12}}
"""
FINAL = {
    "simulate": ["halos.hdf5", "snapshot"],
    "project": ["maps.h5"],
    "train": ["model"],
    "sample": ["samples.h5"],
    "evaluate": ["metrics.json", "report.html"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, for the inputs of each stage."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "c.yaml").write_text(CONFIG.format(dir=folder, seed=good_seed()))
    for stage in FINAL:
        done = run(stage, folder / "c.yaml")
        assert done.returncode == 0, f"{stage}\n{done.stderr[-3000:]}"
    return folder


def good_seed():
    """A split seed that fills all three parts with 8 halos."""
    import numpy as np

    from hpcdiff.maps import split_ids
    from hpcdiff.sections import Split

    return next(s for s in range(1000) if len(set(split_ids(np.arange(8), Split(train=0.6, val=0.2, test=0.2, seed=s)).tolist())) == 3)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of a few kilobytes."""
    mounted = []

    def mount(kilobytes):
        path = tmp_path / "disk"
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path], capture_output=True)
        if done.returncode:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path])


@pytest.mark.parametrize(
    ("stage", "kilobytes"), [("simulate", 200), ("simulate", 1500), ("project", 300), ("train", 400), ("train", 1000), ("sample", 150)]
)
def test_a_full_disk_is_said_and_a_rerun_with_room_goes_on(finished, small_disk, tmp_path, stage, kilobytes):
    disk = small_disk(kilobytes)
    run_dir = disk / "run"
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(dir=run_dir, seed=good_seed()))
    inputs = [f"run.maps={finished / 'maps.h5'}", f"run.model={finished / 'model'}"]
    if stage == "project":
        inputs = [f"project.snapshot={finished / 'snapshot'}", f"project.halos={finished / 'halos.hdf5'}"]
    done = run(stage, config, *inputs)
    refused(done, "free")
    for name in FINAL[stage]:
        assert not (run_dir / name).exists(), name
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    done = run(stage, config, *inputs)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in FINAL[stage]:
        assert (run_dir / name).exists()


def test_evaluate_on_a_full_disk(finished, small_disk, tmp_path):
    disk = small_disk(300)
    (disk / "run").mkdir()
    shutil.copy(finished / "samples.h5", disk / "run")
    shutil.copytree(finished / "samples.shards", disk / "run" / "samples.shards")
    (tmp_path / "c.yaml").write_text(CONFIG.format(dir=disk / "run", seed=good_seed()))
    arguments = [f"run.maps={finished / 'maps.h5'}", f"run.model={finished / 'model'}"]
    refused(run("evaluate", tmp_path / "c.yaml", *arguments), "free")
    assert not any((disk / "run" / name).exists() for name in FINAL["evaluate"])


def test_a_full_disk_with_two_ranks_ends_both(finished, small_disk, tmp_path):
    disk = small_disk(400)
    (tmp_path / "c.yaml").write_text(CONFIG.format(dir=disk / "run", seed=good_seed()))
    refused(run("train", tmp_path / "c.yaml", f"run.maps={finished / 'maps.h5'}", ranks=2, timeout=120), "free")


def test_make_maps_is_as_it_says(tmp_path):
    """The hand-made map file that many tests use is a whole one."""
    from hpcdiff.maps import MapFile

    make_maps(tmp_path / "maps.h5", halos=12, npix=8, axes=3)
    maps = MapFile(tmp_path / "maps.h5")
    assert len(maps.verify(range(36))) == 0 and set(maps.catalog["split"]) == {0, 1, 2}
