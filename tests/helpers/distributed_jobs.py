"""One process of a tiny training job, started by the tests:
`python -m tests.helpers.distributed_jobs JSON`.

Keys: `workdir`; `devices` of this process; `mesh`; `processes`, `process`, `port`; `steps`;
`stop_after`: this process gets SIGTERM then. Prints lines of JSON: `batch` (number of the step,
rows that it was fed), `saved` and `restored` (step, digest of all parameters and optimizer state).
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import time

import jax
import numpy as np

from echox_jax.parallel import distributed
from echox_jax.training import checkpoint, loop
from echox_jax.training.experiment import DataConfig, MeshConfig
from tests.helpers import training_jobs

OPTIONS = json.loads(sys.argv[1])


def _say(kind, step, value):
  print(json.dumps([kind, step, value]), flush=True)


def _digest(tree) -> str:
  """Of the whole arrays, whatever their shardings."""
  leaves = jax.tree.leaves(tree)
  whole = jax.sharding.NamedSharding(leaves[0].sharding.mesh, jax.sharding.PartitionSpec())
  leaves = jax.jit(lambda x: x, out_shardings=whole)(leaves)
  return hashlib.sha256(
    b''.join(np.asarray(leaf.addressable_data(0)).tobytes() for leaf in leaves)
  ).hexdigest()


class Rows:
  """Rows of text that say what was taken, and send the signal; held-out rows do neither."""

  def __init__(self, job, workdir, share):
    self._held_out = bool(job.data.sets)
    job = dataclasses.replace(job, seed=job.seed + self._held_out)
    self._rows, self._taken, self._told = training_jobs.text_rows(job, workdir, share), 0, False

  def distinct(self, most):
    return most

  def __next__(self):
    batch = next(self._rows)
    if self._held_out:
      return batch
    self._taken += 1
    _say('batch', self._taken, batch['input_ids'].tolist())
    if self._taken > OPTIONS.get('stop_after', 1000):
      if not self._told:
        os.kill(os.getpid(), signal.SIGTERM)
      self._told = True
      time.sleep(1.0)  # the news travels while steps are made
    return batch

  def get_state(self):
    return {'taken': self._taken, 'rows': self._rows.get_state()}

  def set_state(self, state):
    self._taken = state['taken']
    self._rows.set_state(state['rows'])


class Checkpoints(checkpoint.Checkpoints):
  """Says what is saved and restored."""

  def save(self, step, params, opt_state, iterator, meta):
    _say('saved', step, _digest((params, opt_state)))
    super().save(step, params, opt_state, iterator, meta)

  def restore(self, step, trainable, frozen, opt_state, iterator):
    restored = super().restore(step, trainable, frozen, opt_state, iterator)
    _say('restored', step, _digest((restored[0], restored[2])))
    return restored


def main() -> None:
  jax.config.update('jax_num_cpu_devices', OPTIONS['devices'])
  if OPTIONS['processes'] > 1:
    distributed.initialise(
      'auto',
      f'localhost:{OPTIONS["port"]}',
      OPTIONS['processes'],
      OPTIONS['process'],
      timeout_seconds=200,
    )
  loop.checkpoint.Checkpoints = Checkpoints
  job = training_jobs.experiment(
    steps=OPTIONS['steps'],
    log_every=1,
    checkpoint_every=OPTIONS['steps'],
    keep_checkpoints=2,
    eval_every=1,
    eval_batches=2,
  )
  job = dataclasses.replace(
    job, mesh=MeshConfig(**OPTIONS['mesh']), data=DataConfig(eval_sets=('held/out',))
  )
  summary = loop.train(job, OPTIONS['workdir'], Rows)
  distributed.leave(0 if summary['finished'] else distributed.STOPPED)


if __name__ == '__main__':
  main()
