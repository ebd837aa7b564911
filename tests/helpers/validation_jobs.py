"""Held-out losses of the jobs of `sharded_jobs` on any mesh, and lines of JSON that compare them.

`python -m tests.helpers.validation_jobs STAGE MESH` prints `one`: metrics on one device, and
`mesh`: those on eight.
"""

import json
import sys

from flax import linen as nn
import jax

from echox_jax.parallel import sharding
from echox_jax.training import stages, state, validation
from tests.helpers import sharded_jobs

BATCHES = 2


class Log:
  """What `metrics.Metrics` is told of an evaluation."""

  def __init__(self):
    self.compilations, self.records = 0, []

  def compiled(self, step, variant, seconds):
    assert variant == validation.VARIANT and seconds > 0
    self.compilations += 1

  def evaluated(self, step, values, seconds):
    assert seconds > 0
    self.records.append({'step': step} | values)


def evaluate(job, mesh, times: int = 1) -> Log:
  """Evaluates fresh parameters on two batches."""
  stage, log = stages.get_stage(job.stage), Log()
  with (
    jax.set_mesh(mesh),
    nn.logical_axis_rules(sharding.RULES),
    jax.default_matmul_precision('highest'),
  ):
    sources = [sharded_jobs.fresh(job, stage)] if job.stage in ('s2t', 'echo') else None
    current = state.create_state(stage, job, mesh, sources)
    batches = [sharded_jobs.batch(job.stage, number) for number in range(BATCHES)]
    evaluation = validation.Evaluation(stage, job, mesh, batches)
    for step in range(times):
      evaluation(step, current, log)
  return log


def main(stage: str, name: str) -> None:
  jax.config.update('jax_num_cpu_devices', 8)
  job = sharded_jobs.experiment(stage)
  sizes = {axis: int(size) for axis, size in (pair.split('=') for pair in name.split(','))}
  found = {'one': sharded_jobs.one_device(), 'mesh': sharding.make_mesh(sizes)}
  print(json.dumps({where: evaluate(job, mesh).records[0] for where, mesh in found.items()}))


if __name__ == '__main__':
  main(*sys.argv[1:])
