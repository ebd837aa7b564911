"""One process of two, four devices each: `python -m tests.frozen_jobs FOLDER PORT PROCESS`.

Writes a checkpoint of stage `s2t` to FOLDER/two, then reads FOLDER/one and FOLDER/wrong on another
mesh; prints `read` or the kind of error for each of the latter.
"""

from pathlib import Path
import sys

import jax
import jax.numpy as jnp

from echox_jax import errors, sharding
from echox_jax.training import checkpoint, distributed, stages, state
from tests import training_jobs

STEP = 3


class Rows:
  """An iterator with nothing but a state."""

  def get_state(self):
    return {'taken': STEP}

  def set_state(self, state):
    assert state == {'taken': STEP}


def values(tree):
  """Arrays that are the same on every mesh, on the shardings of `tree`."""
  fill = lambda leaf: (jnp.arange(leaf.size) % 199).reshape(leaf.shape).astype(leaf.dtype)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, tree)
  return jax.jit(lambda: jax.tree.map(fill, tree), out_shardings=shardings)()


def abstract(mesh):
  """Shapes and shardings of the state on a mesh of these sizes."""
  job = training_jobs.experiment('s2t', frozen_dtype='bfloat16')
  return state.abstract_state(stages.get_stage('s2t'), job, sharding.make_mesh(mesh))


def main() -> None:
  folder, port, process = Path(sys.argv[1]), *sys.argv[2:]
  jax.config.update('jax_num_cpu_devices', 4)
  distributed.initialise('auto', f'localhost:{port}', 2, int(process), timeout_seconds=200)
  current = values(abstract({'data': 2, 'fsdp': 2, 'tensor': 2}))
  checkpoints = checkpoint.Checkpoints(folder / 'two' / 's2t', 1)
  checkpoints.write_frozen(current.frozen)
  checkpoints.save(STEP, current.params(), current.opt_state, Rows(), {'step': STEP})
  checkpoints.close()
  for name in ('one', 'wrong'):
    checkpoints = checkpoint.Checkpoints(folder / name / 's2t', 1)
    wanted = abstract({'data': 1, 'fsdp': 4, 'tensor': 2})
    try:
      checkpoints.restore(STEP, wanted.params(), wanted.opt_state, Rows())
      print('read', flush=True)
    except errors.CheckpointError as error:
      print(type(error).__name__, flush=True)
    checkpoints.close()


if __name__ == '__main__':
  main()
