"""Training goes on while a slow storage writes a checkpoint, and what is written is the state at
its step; a checkpoint that cannot be written ends the run with one sentence.
"""

import asyncio
import time

import jax
import numpy as np
from orbax.checkpoint._src.serialization import serialization
import pytest

from echox_jax import errors
from echox_jax.training import checkpoint, loop, records
from tests.helpers import saved_states, training_jobs

SECONDS = 1.5
write = serialization.async_serialize_from_host


@pytest.fixture
def slow_storage(monkeypatch):
  async def slow(*args, **options):
    await asyncio.sleep(SECONDS)
    return await write(*args, **options)

  monkeypatch.setattr(serialization, 'async_serialize_from_host', slow)


@pytest.mark.slow
def test_steps_go_on_while_a_checkpoint_is_written(slow_storage, tmp_path):
  job = training_jobs.experiment(steps=8, log_every=1, checkpoint_every=4, keep_checkpoints=2)
  loop.train(job, tmp_path, training_jobs.text_rows)
  found = records.read(tmp_path / 'text' / 'metrics.jsonl')
  ends = {r['step']: r['time'] for r in found if r['kind'] == 'train'}
  first, last = (r for r in found if r['kind'] == 'save')
  assert (first['step'], last['step']) == (4, 8)
  assert first['write_seconds'] > SECONDS
  # steps 5 to 8 were done before the checkpoint of step 4 was complete
  assert ends[8] < ends[4] + SECONDS < first['time']
  windows = [r for r in found if r['kind'] == 'train']
  assert all(r['step_time'] < SECONDS / 2 for r in windows)  # waiting is no part of a step
  # the end of the run waits for both
  assert first['wait_seconds'] + last['wait_seconds'] > SECONDS


def test_the_state_at_the_step_is_written_whatever_comes_next(slow_storage, tmp_path):
  job = training_jobs.experiment()
  # arrays of their own, which a step can overwrite in place
  filled = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree))(
    saved_states.filled_state(job, 0)
  )
  expected = jax.tree.map(np.array, filled.trainable)
  checkpoints = checkpoint.Checkpoints(tmp_path / 'text', keep=1)
  started = time.perf_counter()
  checkpoints.save(
    3, filled.trainable, filled.opt_state, training_jobs.text_rows(job, tmp_path), {'step': 3}
  )
  overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
  jax.block_until_ready(overwrite(filled.trainable))
  assert not checkpoints.complete() and time.perf_counter() - started < SECONDS
  (saved,) = checkpoints.complete(wait=True)
  checkpoints.close()
  assert saved.step == 3 and saved.write_seconds > SECONDS
  again = checkpoint.load_groups(tmp_path / 'text', ['llm'])
  jax.tree.map(np.testing.assert_array_equal, again['llm'], expected['llm'])


def test_a_storage_that_fails_while_steps_go_on(tmp_path, monkeypatch):
  job = training_jobs.experiment(steps=9, checkpoint_every=3)

  async def fill_up(*args, **options):
    if any((tmp_path / 'text' / 'checkpoints' / '3').glob('*')):
      await asyncio.sleep(0.1)
      raise OSError(28, 'No space left on device')
    return await write(*args, **options)

  monkeypatch.setattr(serialization, 'async_serialize_from_host', fill_up)
  with pytest.raises(
    errors.CheckpointError,
    match=r'step 6 could not be written .*No space left.*earlier checkpoints are kept',
  ):
    loop.train(job, tmp_path, training_jobs.text_rows)
  monkeypatch.undo()
  folder = tmp_path / 'text' / 'checkpoints'
  assert [path.name for path in folder.iterdir() if path.name.isdecimal()] == ['3']
  assert loop.train(job, tmp_path, training_jobs.text_rows)['finished']
