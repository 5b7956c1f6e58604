"""`python -m hpcdiff.simulate CONFIG`: embedded simulations -> `snapshot/*.hdf5` and `halos.hdf5`."""

from __future__ import annotations

from hpcdiff.launch import run_stage
from hpcdiff.leaving import leave


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns its exit status (contract: 0, 1, 2 or 75)."""

    def plan(config):
        if config.simulate.engine == "nbody":
            from hpcdiff.simulate.nbody.plan import Plan
        else:
            from hpcdiff.simulate.plan import Plan
        return Plan(config).lines()

    def work(config, world):
        if config.simulate.engine == "nbody":
            from hpcdiff.simulate.nbody.work import simulate_boxes

            return simulate_boxes(config, world)
        from hpcdiff.simulate.work import simulate

        return simulate(config, world)

    def outputs(config):
        from hpcdiff.simulate.chunks import Folder

        return Folder(config.dir).outputs()

    return run_stage("simulate", plan, work, outputs, argv)


if __name__ == "__main__":
    leave(main())
