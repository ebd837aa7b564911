"""What a device receives in one step of a stage when devices and batch grow together; prints one
JSON line a mesh.

`python -m tests.helpers.scaling_jobs STAGE fsdp=4 fsdp=8 ...`
"""

import dataclasses
import json
import math
import sys

from flax import linen as nn
import jax

from echox_jax.compiled import collectives, hlo
from echox_jax.parallel import sharding
from echox_jax.training import stages, state, step
from tests.helpers import sharded_jobs

ROWS = 2  # of the batch, a device
LOOP = 'shard_map/while'  # the loop that decodes pseudo-labels, in the names of its operations


def compiled_text(stage_name: str, sizes: dict[str, int]) -> str:
  """The compiled step of a tiny job on a mesh of the first devices, with `ROWS` rows for each."""
  count = math.prod(sizes.values())
  mesh = sharding.make_mesh(sizes, jax.devices()[:count])
  job = sharded_jobs.experiment(stage_name, batch_size=ROWS * count)
  losses = dataclasses.replace(job.train.loss, slices_per_batch=3 * ROWS * count)
  job = dataclasses.replace(job, train=dataclasses.replace(job.train, loss=losses))
  stage = stages.get_stage(stage_name)
  step.check(stage, job, mesh)
  abstract = state.abstract_state(stage, job, mesh)
  rows = sharding.batch_sharding(mesh)
  batch = {
    name: jax.ShapeDtypeStruct((ROWS * count, *value.shape[1:]), value.dtype, sharding=rows)
    for name, value in sharded_jobs.batch(stage_name, 0).items()
  }
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    lowered = (
      step.make_train_step(stage, job, mesh)
      .functions['step']
      .lower(abstract.step, abstract.trainable, abstract.opt_state, abstract.frozen, batch)
    )
  return lowered.compile().as_text()


def measure(stage_name: str, mesh: str) -> dict:
  """Bytes of all collectives of a step on one device, and those inside of the loop of
  pseudo-labels.
  """
  text = compiled_text(
    stage_name, {axis: int(size) for axis, size in (pair.split('=') for pair in mesh.split(','))}
  )
  found = collectives.read(hlo.read(text))
  return {
    'mesh': mesh,
    'bytes': sum(c.bytes * c.times for c in found),
    'loop': text.count(LOOP),
    'in_loop': [c.name for c in found if LOOP in c.name],
  }


def main(stage_name: str, meshes: list[str]) -> None:
  jax.config.update('jax_num_cpu_devices', 8)
  for mesh in meshes:
    print(json.dumps(measure(stage_name, mesh)), flush=True)


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2:])
