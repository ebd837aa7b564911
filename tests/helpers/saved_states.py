"""Checkpoints of states with random values."""

import jax
import numpy as np

from echox_jax.parallel import sharding
from echox_jax.training import checkpoint, frozen, stages, state
from tests.helpers import training_jobs


def one_device():
  """A mesh of one device."""
  return sharding.make_mesh({}, devices=jax.devices()[:1])


def filled_state(job, seed):
  """A state with random values; nothing is compiled."""
  rng = np.random.default_rng(seed)
  fill = lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding)
  return jax.tree.map(fill, state.abstract_state(stages.get_stage(job.stage), job, one_device()))


def save(workdir, job, seed=0, steps=(3,), finished=True):
  """Checkpoints of such a state at `steps`; (state, iterator of its batches)."""
  filled = filled_state(job, seed)
  checkpoints = checkpoint.Checkpoints(workdir / job.stage, keep=2)
  iterator = training_jobs.text_rows(job, workdir)
  for number in steps:
    next(iterator)
    reference = frozen.write(workdir / job.stage, filled.frozen)
    checkpoints.save(
      number, filled.trainable, filled.opt_state, iterator, {'step': number, 'frozen': reference}
    )
  checkpoints.close()
  if finished:
    checkpoint.mark_finished(workdir / job.stage, {'steps': steps[-1]})
  return filled, iterator
