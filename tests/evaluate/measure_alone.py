"""The metrics of a run folder without pictures, under any launcher: `measure_alone.py CONFIG TARGET`."""

import sys

from hpcdiff import files
from hpcdiff.config import read_config
from hpcdiff.evaluate.inputs import open_inputs
from hpcdiff.evaluate.run import measure
from hpcdiff.world import join_world

config, world = read_config(sys.argv[1], []), join_world("evaluate")
maps, samples = open_inputs(config)
made_from = {"maps": maps.fingerprint, "samples": samples.fingerprint(world)}
metrics = measure(config, world, maps, samples, made_from)
if world.main:
    files.write_json(sys.argv[2], metrics)
world.close()
