"""What `--help` says of the stages and of the console script."""

from __future__ import annotations

ABOUT = {
    "simulate": "Make a simulation with galaxy clusters: run.dir/snapshot/ and run.dir/halos.hdf5. Runs alone or on any number of MPI ranks.",
    "project": "Project the particles about each halo: run.dir/maps.h5. Runs alone or on any number of MPI ranks, which share the halos.",
    "train": "Train the network of the task (task.inputs -> task.outputs) on the maps: run.dir/model/, checkpoints/, tensorboard/. Runs alone or under torchrun or srun.",
    "sample": "Draw maps from the posterior of each map of sample.split: run.dir/samples.h5. Runs alone or under torchrun or srun.",
    "evaluate": "Measure the samples and draw the figures: run.dir/metrics.json, figures/, report.html. Runs alone or under torchrun or srun.",
}
OPTIONS = """\
  section.key=value   overrides a key of the config file; docs/config.md has them all
  --dry-run           prints the resolved config and what would be done, and writes nothing
  --overwrite         removes what this stage wrote before it begins; without it, what is there is gone on with"""
CHECK = """
  --check             reads one halo and prints what was found, in which units, and whether it makes sense; writes nothing"""
ENDS = """\
exit status: 0 done, also where there was nothing left to do; 2 the input is at fault, which one line says;
75 stopped by a signal or by a file run.dir/stop, all that is worth keeping saved: the same command goes on; 1 a fault of hpcdiff"""
CONSOLE = f"""\
usage: hpcdiff COMMAND ...
the stages, in the order of a run:
  hpcdiff {"|".join(ABOUT)} CONFIG.yaml [section.key=value ...] [--dry-run] [--overwrite]
                      `python -m hpcdiff.STAGE ...` is the same, for srun, mpirun and torchrun
one observed cluster, two runs side by side, map files, many runs, what is wrong:
  hpcdiff sample CONFIG.yaml --sz FILE.fits ... --out DIR
  hpcdiff evaluate --compare A B [--out DIR]
  hpcdiff maps --help
  hpcdiff sweep --help
  hpcdiff doctor [DIR | CONFIG.yaml]
`hpcdiff COMMAND --help` says more"""


def line(stage: str, check: bool = False) -> str:
    """How a stage is called, in one line; `check`: it has that option."""
    return f"usage: python -m hpcdiff.{stage} CONFIG.yaml [section.key=value ...] [--dry-run] [--overwrite]{' [--check]' * check}"


def whole(stage: str, check: bool = False) -> str:
    """All that a stage's `--help` says."""
    return f"{line(stage, check)}\n{ABOUT[stage]}\n{OPTIONS}{CHECK * check}\n{ENDS}"
