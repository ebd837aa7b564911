"""Training batches: exact rows, counted omissions, every example once an epoch, exact resume."""

import collections
import dataclasses
import shutil

import numpy as np
import pytest

from data_pipeline import batches, dataset, rows, selection
from echox_jax import config, errors, prompts, tokenizer
from echox_jax.prompts import IGNORE
from echox_jax.prompts import NANO_IDS as ids
from echox_jax.training.experiment import AugmentConfig, LossConfig
from tests.helpers.batch_jobs import FACTS, UNIT_WORDS, V, experiment, same, take


def keys(batch):
  """What tells the rows of a batch apart."""
  return [tuple(row) for row in batch['input_ids'].tolist()]


def test_text_rows_are_as_written_by_hand(workdir):
  model = tokenizer.TextTokenizer(workdir / 'precomputed' / 'tokenizer.model')
  batch = next(batches.make_iterator(experiment('text', batch_size=25), workdir))
  assert len(set(keys(batch))) == 25  # two voices ask, one text row
  expected = {}
  for question, answer in FACTS:
    target = [1, *model.encode(answer), 2]
    prompt = [1, 3, 1, 7, 4, 1, 1, *model.encode(question), 2, 3, 1, 8, 4, 1, 5]
    expected[tuple(prompt + target + [2] * (64 - len(prompt + target)))] = (
      [IGNORE] * len(prompt) + target + [IGNORE] * (64 - len(prompt + target))
    )
  assert dict(zip(keys(batch), batch['labels'].tolist())) == expected
  assert batch['input_ids'].dtype == batch['labels'].dtype == np.int32


@pytest.mark.parametrize('stage', ['s2t', 'echo'])
def test_speech_rows_hold_one_audio_id_the_transcription_and_the_states(workdir, stage):
  model = tokenizer.TextTokenizer(workdir / 'precomputed' / 'tokenizer.model')
  batch = next(batches.make_iterator(experiment(stage, batch_size=50), workdir))
  assert set(batch) == {'input_ids', 'labels', 'ctc_labels', 'states', 'state_lengths'}
  assert batch['states'].shape == (50, 60, 4) and batch['states'].dtype == np.float16
  for row in range(50):
    assert (batch['input_ids'][row] == ids.audio).sum() == 1
    heard = batch['ctc_labels'][row]
    i = [q for q, _ in FACTS].index(model.decode(heard[heard != IGNORE]))
    labels = batch['labels'][row]
    assert list(labels[labels != IGNORE]) == [ids.bos, *model.encode(FACTS[i][1]), ids.eot]
    prompt = [1, 3, 1, 7, 4, 1, 5, 10, 1, 2, 3, 1, 8, 4, 1, 5]
    assert list(batch['input_ids'][row][: len(prompt)]) == prompt
    length = batch['state_lengths'][row]
    assert length == 10 + i
    np.testing.assert_array_equal(
      batch['states'][row, :length], np.full((length, 4), i) + np.arange(4)
    )
    assert not batch['states'][row, length:].any()


def test_rows_of_align_are_speech_and_its_transcript_alone(workdir):
  """Those of s2t without the ids; a long answer leaves no clip out, and none is written."""
  job = experiment('align', batch_size=50, max_tokens=4, written_fraction=0.5)
  batch = next(batches.make_iterator(job, workdir))
  whole = next(batches.make_iterator(experiment('s2t', batch_size=50), workdir))
  assert set(batch) == {'ctc_labels', 'states', 'state_lengths'}
  same(batch, {name: whole[name] for name in batch})


def test_audio_instead_of_states_comes_from_the_raw_set(workdir):
  batch = next(batches.make_iterator(experiment('s2t', cached_states=False), workdir))
  assert batch['audio'].shape == (5, 60 * 320 - 1600) and batch['audio'].dtype == np.float32
  for audio, length in zip(batch['audio'], batch['audio_lengths']):
    assert (
      length % 320 == 0
      and (audio[:length] == np.float32((length // 320 - 9) / 32768)).all()
      and not audio[length:].any()
    )


@pytest.mark.parametrize('cached, speech', [(True, 'state'), (False, 'audio')])
def test_a_share_of_the_questions_is_written_and_has_no_speech(workdir, cached, speech):
  settings = experiment('s2t', batch_size=40, cached_states=cached, written_fraction=0.2)
  batch = next(batches.make_iterator(settings, workdir))
  written = batch[f'{speech}_lengths'] == 0
  assert batches.describe(settings, workdir)['rows'] == 62  # 50 spoken, 12 written
  assert 0 < written.sum() <= 12
  assert ((batch['input_ids'] == ids.audio).sum(axis=1) == ~written).all()
  assert (batch['ctc_labels'][written] == IGNORE).all() and not batch[
    'states' if cached else 'audio'
  ][written].any()
  texts = {
    tuple(row)
    for row in next(batches.make_iterator(experiment('text', batch_size=25), workdir))[
      'input_ids'
    ].tolist()
  }
  assert {key for key, is_written in zip(keys(batch), written) if is_written} <= texts


def test_written_questions_are_spread_over_all_of_them(workdir):
  chosen = selection.select(experiment('s2t', written_fraction=0.1), workdir)  # 6 of 25
  written = [tuple(chosen[i]['input_ids']) for i in np.flatnonzero(chosen.rows['states'] == 0)]
  order = [tuple(row['input_ids']) for row in selection.select(experiment('text'), workdir)]
  assert [order.index(row) for row in written] == [0, 4, 8, 12, 16, 20]


def test_text_to_codec_rows_are_the_template(workdir):
  model = tokenizer.TextTokenizer(workdir / 'precomputed' / 'tokenizer.model')
  batch = next(batches.make_iterator(experiment('t2c', batch_size=25), workdir))
  expected = set()
  for i, (_, answer) in enumerate(FACTS):
    words = [V + k for k in range(i % UNIT_WORDS + 1)]
    row = [3, 1, 8, 4, 1, 5, 1, *model.encode(answer), 2, 3, 1, 9, 4, 1, 5, 1, *words, 2]
    expected.add(tuple(row + [2] * (64 - len(row))))
  assert set(keys(batch)) == expected
  target = batch['labels'][0][batch['labels'][0] != IGNORE]
  assert target[0] == ids.bos and target[-1] == ids.eot and (target[1:-1] >= V).all()


def test_vocoder_rows_pair_units_with_their_samples(workdir):
  settings = experiment('vocoder', batch_size=32, max_reduced_units=30)
  batch = next(batches.make_iterator(settings, workdir))
  assert batch['audio'].shape == (32, 20 * 320) and batch['units'].shape == (32, 20)
  sound = np.rint(batch['audio'].reshape(32, 20, 320) * 32768)
  for row in range(32):
    real = batch['real_frames'][row]
    np.testing.assert_array_equal(
      sound[row, :real], np.repeat(batch['units'][row, :real, None], 320, axis=1)
    )
    assert (
      not sound[row, real:].any()
      and (batch['units'][row, real:] == batch['units'][row, real - 1]).all()
    )
    durations, reduced = batch['durations'][row], batch['reduced_units'][row]
    used = int((durations > 0).sum())
    assert (
      (durations[:used] > 0).all()
      and not durations[used:].any()
      and (np.diff(reduced[:used]) != 0).all()
    )
  assert batch['real_frames'].min() < 20 == batch['real_frames'].max()
  # A clip comes as often as segments fit into it.
  assert batches.describe(settings, workdir)['rows'] == sum(
    max(1, round((5 + 8 * i) / 20)) for i in range(25)
  )


@pytest.mark.parametrize('stage', ['text', 's2t', 't2c'])
def test_every_row_comes_once_an_epoch_in_an_order_of_its_own(workdir, stage):
  settings = experiment(stage, batch_size=1)
  chosen = selection.select(settings, workdir)
  n = len(chosen)
  stream = [keys(batch)[0] for batch in take(batches.make_iterator(settings, workdir), 2 * n)]
  expected = collections.Counter(
    tuple(rows.pad(chosen[i]['input_ids'], 64, ids.pad).tolist()) for i in range(n)
  )
  assert collections.Counter(stream[:n]) == collections.Counter(stream[n:]) == expected
  assert stream[:n] != stream[n:]


@pytest.mark.parametrize('stage', ['text', 's2t', 't2c', 'vocoder'])
def test_resume_in_the_middle_of_an_epoch_is_exact(workdir, stage):
  settings = experiment(
    stage, batch_size=4, augment=dict(time_warp=0.2, noise=0.1, time_mask=0.2, feature_mask=0.5)
  )
  whole = batches.make_iterator(settings, workdir)
  first = take(whole, 4)
  state = whole.get_state()
  rest = take(whole, 12)
  again = batches.make_iterator(settings, workdir)
  for a, b in zip(first, take(again, 4)):
    same(a, b)
  resumed = batches.make_iterator(settings, workdir)
  resumed.set_state(state)
  for a, b in zip(rest, take(resumed, 12)):
    same(a, b)


def test_seeds_give_other_orders(workdir):
  stream = [
    key
    for batch in take(batches.make_iterator(experiment('text', batch_size=4), workdir), 6)
    for key in keys(batch)
  ]
  other = [
    key
    for batch in take(batches.make_iterator(experiment('text', batch_size=4, seed=1), workdir), 6)
    for key in keys(batch)
  ]
  assert stream != other


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_share_a_batch_and_any_number_of_them_goes_on(workdir, workers):
  settings = experiment('s2t', batch_size=4, workers=workers, augment=dict(noise=0.1))
  whole = take(batches.make_iterator(settings, workdir), 30)
  one = batches.make_iterator(settings, workdir, [0, 2])
  other = batches.make_iterator(settings, workdir, [1, 3])
  for expected in whole[:20]:
    a, b = next(one), next(other)
    same(
      {name: np.stack([a[name], b[name]], axis=1).reshape(4, *a[name].shape[1:]) for name in a},
      expected,
    )
  assert one.get_state() == other.get_state() == {'examples': 80}
  alone = batches.make_iterator(settings, workdir)
  alone.set_state(one.get_state())
  for expected in whole[20:]:
    same(next(alone), expected)


def test_state_between_two_batches_is_refused(workdir):
  with pytest.raises(
    errors.DataError, match='12 examples cannot go on in batches of 5: set train.batch_size back'
  ):
    batches.make_iterator(experiment('text', batch_size=5), workdir).set_state({'examples': 12})
  with pytest.raises(errors.ConfigError, match='batch_size is 0'):
    batches.make_iterator(experiment('text', batch_size=0), workdir)


@pytest.mark.parametrize(
  'stage, limit, reason',
  [
    ('s2t', dict(max_states=20), 'over 20 states'),
    ('text', dict(max_tokens=34), 'over max_tokens = 34'),
    ('s2t', dict(max_ctc_labels=13), 'over max_ctc_labels = 13'),
    ('t2c', dict(max_tokens=24), 'over max_tokens = 24'),
  ],
)
def test_rows_that_do_not_fit_are_counted(workdir, stage, limit, reason):
  all_rows = batches.describe(experiment(stage), workdir)
  assert all_rows['left_out'] == {}
  fewer = batches.describe(experiment(stage, **limit), workdir)
  assert set(fewer['left_out']) == {reason}
  assert (
    fewer['rows'] + fewer['left_out'][reason] == all_rows['rows']
    and 0 < fewer['rows'] < all_rows['rows']
  )


def test_bad_data_is_one_sentence(workdir, tmp_path):
  with pytest.raises(errors.DataError, match='over 3 states'):
    batches.make_iterator(experiment('s2t', max_states=3), workdir)
  with pytest.raises(errors.ConfigError, match='NAME/SPLIT'):
    batches.make_iterator(experiment('s2t', sets=('questions',)), workdir)
  with pytest.raises(errors.ConfigError, match='data.sets'):
    batches.make_iterator(experiment('s2t', sets=()), workdir)
  with pytest.raises(errors.ConfigError, match='stage'):
    batches.make_iterator(experiment('sing'), workdir)
  with pytest.raises(errors.DataError, match='no data set'):
    batches.make_iterator(experiment('s2t'), tmp_path)
  shutil.copytree(workdir / 'data', tmp_path / 'data')
  with pytest.raises(errors.DataError, match='no tokenizer'):
    batches.make_iterator(experiment('text'), tmp_path)


def test_augmentation_warps_masks_and_keeps_to_its_bounds():
  rng = np.random.default_rng(0)
  states = np.linspace(0, 1, 50, dtype=np.float16)[:, None] + rng.normal(size=(1, 40)).astype(
    np.float16
  )
  assert rows.augment(states, AugmentConfig(), rng, 60) is states
  lengths = {len(rows.augment(states, AugmentConfig(time_warp=0.3), rng, 60)) for _ in range(100)}
  assert min(lengths) < 40 and max(lengths) == 60
  np.testing.assert_allclose(rows.resample(states.astype(np.float32), 99)[::2], states, atol=2e-3)
  mean = states.astype(np.float32).mean(axis=0).astype(np.float16)
  for _ in range(50):
    hidden = (rows.augment(states, AugmentConfig(time_mask=0.2), rng, 60) == mean).all(axis=1)
    assert hidden.sum() <= 10
    changed = (rows.augment(states, AugmentConfig(feature_mask=0.2), rng, 60) != states).any(axis=0)
    assert changed.sum() <= 8
  noisy = np.asarray(rows.augment(states, AugmentConfig(noise=0.5), rng, 60), np.float32)
  np.testing.assert_allclose(
    (noisy - states).std(), 0.5 * states.astype(np.float32).std(), rtol=0.1
  )


def test_profile_decides_the_slice_header():
  released = rows.text_to_codec_row(
    dataclasses.replace(ids, typo_bos=33), prompts.PROFILES['released'], [20], [3], 100
  )
  assert released['input_ids'].tolist() == [
    3,
    1,
    9,
    4,
    1,
    5,
    33,
    20,
    2,
    3,
    1,
    9,
    4,
    1,
    5,
    1,
    103,
    2,
  ]
  assert released['labels'].tolist() == [IGNORE] * 15 + [1, 103, 2]


@pytest.mark.parametrize(
  'stage, options',
  [
    ('s2t', {}),
    ('s2t', dict(sets=('questions/train', 'questions/train'), weights=(3.0, 1.0))),
    ('s2t', dict(packing=True, buckets=(20, 60))),
    ('t2c', {}),
  ],
)
def test_examples_of_a_batch_are_named(workdir, stage, options):
  job = experiment(stage, **options)
  iterator, chosen = batches.make_iterator(job, workdir), selection.select(job, workdir)
  made = [chosen[i] for i in range(len(chosen))]
  names = [chosen.name(i) for i in range(len(chosen))]
  for number, batch in enumerate(take(iterator, 12)):
    examples = iterator.examples(number)
    assert len(examples) == len(batch['input_ids'])
    for row, named in zip(batch['input_ids'], examples):
      start = 0
      for name in named:
        ids_of = made[names.index(name)]['input_ids']
        np.testing.assert_array_equal(row[start : start + len(ids_of)], ids_of)
        start += len(ids_of)
      assert named and (job.data.packing or len(named) == 1)


def test_recorded_answers_are_found_by_their_text(workdir, tmp_path):
  """Both voices that ask get the one recording; a question whose answer was not recorded goes."""
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  kept = [
    example
    for example in dataset.read_examples(tmp_path / 'precomputed', 'answers', 'train')
    if int(example.id) % 2
  ]
  dataset.write_dataset(tmp_path / 'precomputed', 'odd', {'train': kept})
  job = experiment('echo', recordings=('odd/train',), batch_size=len(FACTS) // 2 * 2)
  chosen = selection.select(job, tmp_path)
  odd = [i for i in range(len(FACTS)) if i % 2]
  unsaid = 2 * sum(FACTS[i][1] not in {FACTS[j][1] for j in odd} for i in range(len(FACTS)))
  assert chosen.left_out == {'without a recorded answer': unsaid} and chosen.spoken is None
  recorded = config.build(LossConfig, dict(echo_targets='recorded'))
  says = dataclasses.replace(job, train=dataclasses.replace(job.train, loss=recorded))
  batch = next(batches.make_iterator(says, tmp_path))
  model = tokenizer.TextTokenizer(tmp_path / 'precomputed' / 'tokenizer.model')
  for labels, words in zip(batch['labels'], batch['unit_words']):
    said = model.decode(labels[labels != IGNORE][1:-1])
    first = next(i for i in odd if FACTS[i][1] == said)
    assert [w for w in words if w >= 0] == list(range(first % UNIT_WORDS + 1))
  with pytest.raises(errors.ConfigError, match='data.recordings is empty'):
    selection.select(
      dataclasses.replace(says, data=dataclasses.replace(says.data, recordings=())), tmp_path
    )


def test_a_share_of_the_spoken_questions(workdir):
  whole = selection.select(experiment('echo'), workdir).rows
  some = selection.select(experiment('echo', spoken_share=0.5), workdir).rows
  assert len(some) == len(whole) // 2 and set(some['example']) < set(whole['example'])
  with pytest.raises(errors.ConfigError, match='spoken_share is 0'):
    selection.select(experiment('echo', spoken_share=0.0), workdir)
