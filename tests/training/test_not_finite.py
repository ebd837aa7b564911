"""A loss that is not finite stops the run, names the examples of its batch, and leaves a good
checkpoint; without that batch the run goes on, the same way however often it is stopped.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import batches
from echox_jax import errors
from echox_jax.training import checkpoint, keys, loop, records, skipping, stages
from echox_jax.training.experiment import DataConfig
from tests.helpers import batch_jobs, training_jobs

STEPS, BAD = 8, 5


def test_later_batches_move_up():
  assert [skipping.batch_of(step, ()) for step in range(4)] == [0, 1, 2, 3]
  assert [skipping.batch_of(step, (4, 2, 3)) for step in range(5)] == [0, 1, 5, 6, 7]
  assert skipping.take(iter([{'n': n} for n in range(1, 9)]), 'text', 1, (2, 3)) == {'n': 3}
  with pytest.raises(errors.DataError, match="the data of stage 'text' ended after step 1"):
    skipping.take(iter([{}]), 'text', 1, (2,))


def test_what_was_trained_on_cannot_be_skipped_later():
  skipping.check((5,), 'text', 4, ())
  skipping.check((5, 9), 'text', 6, (5,))
  with pytest.raises(errors.ConfigError, match='names batch 4, but stage .text. has trained on it'):
    skipping.check((4,), 'text', 4, ())
  skipping.check((), 'text', 4, (5,))  # step 5 has not skipped it yet
  with pytest.raises(errors.ConfigError, match='was trained without batch 5'):
    skipping.check((), 'text', 5, (5,))
  with pytest.raises(errors.ConfigError, match='numbered from 1'):
    skipping.check((0,), 'text', 4, ())


def _job(skip=()):
  job = training_jobs.experiment(
    steps=STEPS,
    vocab_size=batch_jobs.V,
    batch_size=4,
    log_every=100,
    checkpoint_every=3,
    skip_batches=skip,
  )
  return dataclasses.replace(job, data=DataConfig(sets=('questions/train',), max_tokens=64))


@pytest.fixture
def poisoned(workdir, monkeypatch):
  """The loss of the rows of batch BAD is not a number; returns their ids."""
  iterator = batches.make_iterator(_job(), workdir)
  bad = batch_jobs.take(iterator, BAD)[-1]['input_ids']
  stage = stages.STAGES['text']

  def loss(params, batch, rng, experiment):
    value, values = stage.loss(params, batch, rng, experiment)
    return jnp.where((batch['input_ids'] == bad).all(), jnp.nan, value), values

  monkeypatch.setitem(stages.STAGES, 'text', dataclasses.replace(stage, loss=loss))
  return bad


def test_the_batch_is_named_and_can_be_skipped(workdir, poisoned, tmp_path):
  for name in ('data', 'precomputed'):
    (tmp_path / name).symlink_to(workdir / name)

  def train(where, skip=()):
    return loop.train(_job(skip), where, batches.make_iterator)

  with pytest.raises(errors.EchoXError) as caught:
    train(tmp_path)
  message = str(caught.value)
  file = tmp_path / 'text' / 'not_finite' / f'batch-{BAD}.json'
  assert message.startswith(f"stage 'text': loss is nan at step {BAD} (found after step 6); ")
  assert str(file) in message and f'--config.train.skip_batches={BAD} ' in message
  assert '\n' not in message
  kept = [path.name for path in (tmp_path / 'text' / 'checkpoints').iterdir()]
  assert kept == ['3']  # the parameters after step 6 are not finite
  saved = checkpoint.load_groups(tmp_path / 'text', ['llm'])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))

  found = json.loads(file.read_text())
  assert (found['step'], found['batch'], found['found_after_step']) == (BAD, BAD, 6)
  assert found['steps']['4']['loss'] > 0 and found['steps'][str(BAD)]['loss'] == 'nan'
  key = jax.random.wrap_key_data(np.asarray(found['key'], np.uint32))
  assert (jax.random.key_data(key) == jax.random.key_data(keys.step_key(0, BAD - 1))).all()
  _assert_examples(workdir, found['examples'], poisoned)

  with pytest.raises(errors.ConfigError, match='names batch 2, but stage .text. has trained on it'):
    train(tmp_path, (2, BAD))
  assert train(tmp_path, (BAD,))['finished']
  losses = [r['loss'] for r in records.read(tmp_path / 'text' / 'metrics.jsonl') if 'loss' in r]
  assert np.isfinite(losses).all()

  # the same as if it had been skipped from the start
  whole = tmp_path / 'whole'
  whole.mkdir()
  for name in ('data', 'precomputed'):
    (whole / name).symlink_to(workdir / name)
  train(whole, (BAD,))
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_groups(folder / 'text', ['llm']) for folder in (tmp_path, whole)),
  )


def _assert_examples(workdir, examples, rows):
  """The names are those of the rows: the questions that the rows ask."""
  chosen = batches.selection.select(_job(), workdir)
  known = {
    (name['set'], name['record'], name['turn'], name['id']): chosen[i]['input_ids']
    for i, name in enumerate(map(chosen.name, range(len(chosen))))
  }
  assert len(examples) == len(rows)
  for (name,), row in zip(examples, rows):
    ids = known[name['set'], name['record'], name['turn'], name['id']]
    np.testing.assert_array_equal(row[: len(ids)], ids)
