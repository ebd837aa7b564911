"""Packed rows and buckets: plans, batches, and losses that are those of the rows alone."""

import collections
import dataclasses
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import batches, packing, rows, selection
from echox_jax import config, errors
from echox_jax.models import echox
from echox_jax.prompts import IGNORE
from echox_jax.prompts import NANO_IDS as ids
from echox_jax.training import echo_step, s2t_step
from echox_jax.training.experiment import DataConfig, ExperimentConfig
from tests.helpers import tiny
from tests.helpers.batch_jobs import experiment, same, take

CLIPS, LENGTH = 4, 20  # the last example is written


@pytest.fixture(scope='module')
def plan():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 60, 300)
  return packing.BatchPlan(
    rng.choice([10, 20], 300),
    np.stack([np.ones(300, int), tokens], axis=1),
    {10: (4, 100), 20: (2, 100)},
    4,
    7,
  )


def test_plans_take_everything_once_an_epoch_in_rows_that_hold_it(plan):
  made = [plan[number] for number in range(100)]
  taken = collections.Counter(
    itertools.chain.from_iterable(row for batch in made for row in batch.rows)
  )
  assert max(taken.values()) == 1
  assert {index for epoch, index in taken if epoch == 0} == set(range(300))
  assert all(len(batch.rows) == 4 for batch in made)
  for batch in made:
    for row in batch.rows:
      indices = [index for _, index in row]
      assert (plan.buckets[indices] == batch.bucket).all()
      assert (plan.sizes[indices].sum(axis=0) <= plan.room[batch.bucket]).all()
  orders = [
    [index for batch in made for row in batch.rows for epoch, index in row if epoch == e]
    for e in (0, 1)
  ]
  assert orders[0] != orders[1]


def test_plans_are_known_by_number_forgotten_and_sent(plan, monkeypatch):
  monkeypatch.setattr(packing, '_REMEMBERED', 5)
  again = pickle.loads(pickle.dumps(plan))
  for number in (40, 38, 3, 60, 4):
    assert again[number] == plan[number]


def test_clips_of_a_row_are_bounded():
  settings = config.build(
    ExperimentConfig,
    dict(
      stage='s2t',
      train=dict(batch_size=1),
      data=dict(max_tokens=100, max_states=60, buckets=(20,), packing=True, max_row_states=120),
      model=dict(adapter=dict(shrink_budget=1)),
    ),
  )
  chosen = selection.rows_of(80, tokens=5, said=3, states=np.repeat([15, 50], 40))
  plan = batches.make_plan(settings, chosen)
  assert {bucket: room[0] for bucket, room in plan.room.items()} == {20: 6, 60: 2}
  row = {
    'input_ids': np.zeros(1, np.int32),
    'labels': np.zeros(1, np.int32),
    'ctc_labels': np.zeros(1, np.int32),
    'states': np.zeros((9, 384), np.float16),
  }
  largest = batches.Finish(settings)(row, np.random.default_rng(0))
  assert largest['states'].shape == (2, 60, 384) and largest['segments'].shape == (100,)


def test_little_of_packed_rows_is_left_empty():
  rng = np.random.default_rng(0)
  tokens = np.clip(rng.lognormal(5, 0.6, 4000), 20, 1024).astype(int)
  plan = packing.BatchPlan(np.zeros(4000, int), tokens[:, None], {0: (1024,)}, 16, 0)
  used = [tokens[index] for number in range(40) for row in plan[number].rows for _, index in row]
  assert sum(used) > 0.95 * 40 * 16 * 1024


@pytest.mark.parametrize('stage', ['text', 't2c'])
def test_packed_rows_hold_the_rows(workdir, stage):
  settings = experiment(stage, batch_size=2, packing=True, max_tokens=128)
  chosen = selection.select(settings, workdir)
  expected = collections.Counter((tuple(row['input_ids']), tuple(row['labels'])) for row in chosen)
  found = collections.Counter()
  iterator = batches.make_iterator(settings, workdir)
  while sum(found.values()) < len(chosen):
    batch = next(iterator)
    assert set(batch) == {'input_ids', 'labels', 'segments'} and batch['segments'].shape == (2, 128)
    for row in range(2):
      segments = batch['segments'][row]
      assert (np.diff(segments[segments > 0]) >= 0).all() and not segments[
        (segments > 0).sum() :
      ].any()
      assert (batch['input_ids'][row][segments == 0] == ids.pad).all() and (
        batch['labels'][row][segments == 0] == IGNORE
      ).all()
      found.update(
        (tuple(batch['input_ids'][row][segments == n]), tuple(batch['labels'][row][segments == n]))
        for n in range(1, segments.max() + 1)
      )
  assert set(found) == set(expected)


@pytest.mark.parametrize(
  'data', [dict(buckets=(16, 24)), dict(buckets=(16, 24), packing=True, max_tokens=200)]
)
@pytest.mark.parametrize('cached', [True, False])
def test_clips_of_a_batch_are_of_one_bucket(workdir, data, cached):
  settings = experiment('s2t', batch_size=2, cached_states=cached, written_fraction=0.1, **data)
  lengths = 'state_lengths' if cached else 'audio_lengths'
  seen = set()
  for batch in take(batches.make_iterator(settings, workdir), 12):
    size = batch['states'].shape[-2] if cached else (batch['audio'].shape[-1] + 1600) // 320
    seen.add(size)
    longest = batch[lengths] if cached else -(-(batch[lengths] + 1600) // 320)
    shorter = max(bucket for bucket in (0, 16, 24) if bucket < size)
    assert ((longest > shorter) | (batch[lengths] == 0)).all()
    assert (longest <= size).all()
    if settings.data.packing:
      assert batch[lengths].shape == batch['ctc_labels'].shape[:2]
      for row in range(2):
        assert (batch['input_ids'][row] == ids.audio).sum() == (batch[lengths][row] > 0).sum()
    else:
      assert 'segments' not in batch and batch[lengths].shape == (2,)
  assert {24, 60} <= seen <= {16, 24, 60}


@pytest.mark.parametrize(
  'stage, data',
  [
    ('t2c', dict(packing=True, max_tokens=128)),
    ('s2t', dict(packing=True, buckets=(16, 30))),
    ('echo', dict(buckets=(16, 30))),
  ],
)
def test_resume_and_sharing_are_exact(workdir, stage, data):
  settings = experiment(stage, batch_size=4, augment=dict(time_warp=0.2, noise=0.1), **data)
  whole = take(batches.make_iterator(settings, workdir), 12)
  parts = [batches.make_iterator(settings, workdir, share) for share in ([0, 2], [1, 3])]
  for expected in whole[:5]:
    a, b = map(next, parts)
    same(
      {name: np.stack([a[name], b[name]], axis=1).reshape(4, *a[name].shape[1:]) for name in a},
      expected,
    )
  assert parts[0].get_state() == parts[1].get_state() == {'examples': 20}
  resumed = batches.make_iterator(settings, workdir)
  resumed.set_state(parts[0].get_state())
  for expected in whole[5:]:
    same(next(resumed), expected)


def test_reading_processes_make_the_same_batches(workdir):
  settings = lambda workers: experiment(
    's2t', batch_size=2, packing=True, buckets=(16, 30), workers=workers
  )
  for a, b in zip(
    *(take(batches.make_iterator(settings(workers), workdir), 6) for workers in (0, 2))
  ):
    same(a, b)


@pytest.mark.parametrize(
  'stage, data, words',
  [
    ('echo', dict(packing=True), "stage 'echo' takes one example per row"),
    ('t2c', dict(buckets=(10,)), "stage 't2c' hears no clips"),
    ('s2t', dict(buckets=(10, 70)), 'not all from 1 to data.max_states = 60'),
  ],
)
def test_what_cannot_be_packed_is_said(workdir, stage, data, words):
  with pytest.raises(errors.ConfigError, match=words):
    batches.make_iterator(experiment(stage, **data), workdir)


@pytest.fixture(scope='module')
def params():
  return tiny.params()


def job(stage):
  return ExperimentConfig(
    stage=stage, model=tiny.CONFIG, data=DataConfig(max_tokens=LENGTH, max_unit_words=LENGTH)
  )


def examples(vocabulary, speech=False):
  """Rows of different lengths; the labels of the second half of each."""
  rng = np.random.default_rng(1)
  for n, length in enumerate((20, 11, 16, 13)):
    row = rng.integers(16, vocabulary, length).astype(np.int32)
    out = {
      'input_ids': row,
      'labels': np.where(np.arange(length) >= length // 2, row, IGNORE).astype(np.int32),
    }
    if speech:
      heard = n < CLIPS - 1
      row[3] = ids.audio if heard else row[3]
      frames = (24, 10, 17, 0)[n]
      out |= {
        'ctc_labels': rows.pad(rng.integers(16, vocabulary, 3 * heard).astype(np.int32), 4, IGNORE),
        'states': rows.pad(rng.normal(size=(frames, 16)).astype(np.float16), 24),
        'state_lengths': np.int32(frames),
      }
    yield out


def alone(examples):
  """One example a row."""
  pads = {'input_ids': ids.pad, 'labels': IGNORE}
  return rows.stack(
    [
      {name: rows.pad(x, LENGTH, pads[name]) if name in pads else x for name, x in row.items()}
      for row in examples
    ]
  )


def together(examples):
  """Two a row; speech on an axis of clips, of which the written example has none."""
  examples = list(examples)
  pairs = [rows.pack(pair, 2 * LENGTH, ids.pad) for pair in (examples[:2], examples[2:])]
  batch = rows.stack(pairs)
  if 'states' in examples[0]:
    clips = alone(examples)
    batch |= {
      name: clips[name].reshape(2, 2, *clips[name].shape[1:])
      for name in ('ctc_labels', 'states', 'state_lengths')
    }
  return batch


@pytest.mark.parametrize(
  'stage, loss',
  [
    ('text', s2t_step.text_loss),
    pytest.param('s2t', s2t_step.s2t_loss, marks=pytest.mark.slow),
    ('t2c', echo_step.t2c_loss),
  ],
)
def test_packed_rows_give_the_loss_and_gradients_of_the_rows(params, stage, loss):
  made = list(examples(70 if stage == 't2c' else 40, stage == 's2t'))
  trained = {'text': ('llm',), 's2t': ('llm', 'adapter'), 't2c': ('t2c',)}[stage]
  compute = lambda groups, batch: loss(params | groups, batch, jax.random.key(0), job(stage))
  value = jax.jit(jax.value_and_grad(compute, has_aux=True))
  groups = {name: params[name] for name in trained}
  (plain, metrics), gradients = value(groups, alone(made))
  (packed, more), packed_gradients = value(groups, together(made))
  np.testing.assert_allclose(packed, plain, rtol=1e-5)
  assert (
    set(more) - set(metrics) <= {'overflow_positions'} and more.get('overflow_positions', 0) == 0
  )
  for name in metrics:
    np.testing.assert_allclose(more[name], metrics[name], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(packed_gradients), jax.tree.leaves(gradients)):
    # a key's bias has none but rounding
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8 + 1e-5 * np.abs(b).max())


def test_segments_do_not_see_one_another(params):
  made = list(examples(40, True))
  other = dict(
    made[0],
    input_ids=np.where(made[0]['input_ids'] == ids.audio, ids.audio, made[0]['input_ids'] ^ 1),
    states=made[0]['states'][::-1].copy(),
  )
  forward = jax.jit(lambda batch: echox.s2t_forward(params, tiny.CONFIG, batch))
  before, after = forward(together(made)), forward(together([other, *made[1:]]))
  states = lambda out, number: np.asarray(out.hidden[0][out.segments[0] == number])
  np.testing.assert_array_equal(states(before, 2), states(after, 2)[-len(states(before, 2)) :])
  assert not np.allclose(states(before, 1)[-1], states(after, 1)[-1])
  np.testing.assert_array_equal(
    np.asarray(before.positions[0])[before.segments[0] == 2][:3], [0, 1, 2]
  )


def test_positions_without_room_are_counted(params):
  made = list(examples(40, True))
  batch = rows.stack([rows.pack(made[:2], 31, ids.pad)]) | {
    name: np.stack([[row[name] for row in made[:2]]]) for name in ('states', 'state_lengths')
  }
  tight = dataclasses.replace(
    tiny.CONFIG, adapter=dataclasses.replace(tiny.CONFIG.adapter, shrink_budget=4)
  )
  out = jax.jit(lambda batch: echox.s2t_forward(params, tight, batch))(batch)
  kept = int(jnp.sum(out.speech.kept))
  assert out.hidden.shape[1] == 34 and int(out.overflow[0]) == max(0, 29 + kept - 34) > 0
