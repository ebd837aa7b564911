"""Held-out losses in the training loop: exact, always on the same rows, without a trace in what is
trained.
"""

import dataclasses
import struct

import jax
import numpy as np
import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

from data_pipeline import batches, dataset
from data_pipeline.schema import Example, Turn
from echox_jax import errors
from echox_jax.prompts import IGNORE
from echox_jax.training import (
  checkpoint,
  event_files,
  loop,
  metrics,
  records,
  s2t_step,
  state,
  validation,
)
from echox_jax.training.experiment import AugmentConfig
from launch import train as launch_train
from tests.helpers import batch_jobs, sharded_jobs, training_jobs, validation_jobs
from tests.helpers.eight_devices import on_eight_devices

STEPS, EVERY = 7, 2


def _job(**train):
  """A tiny run of stage `text` with held-out rows."""
  job = training_jobs.experiment(**dict(steps=STEPS, eval_every=EVERY, eval_batches=3) | train)
  return _with_data(job, eval_sets=('held/out',) if job.train.eval_every else ())


def _with_data(job, **data):
  return dataclasses.replace(job, data=dataclasses.replace(job.data, **data))


class _Rows:
  """The batches of `training_jobs`; in a held-out set rows have labels of unequal number."""

  def __init__(self, job, workdir, share):
    self._held_out = job.data.sets == ('held/out',)
    self._rows = training_jobs.text_rows(
      dataclasses.replace(job, seed=job.seed + self._held_out), workdir, share
    )
    self.get_state, self.set_state = self._rows.get_state, self._rows.set_state

  def __next__(self):
    batch = next(self._rows)
    if self._held_out:
      spared = np.arange(12) < batch['input_ids'][:, :1] % 10
      batch = batch | {'labels': np.where(spared, IGNORE, batch['labels'])}
    return batch

  def distinct(self, most):
    return min(most, 5)


def _records(folder, kind):
  return [
    record for record in records.read(folder / 'text' / 'metrics.jsonl') if record['kind'] == kind
  ]


def _values(record):
  return {name: value for name, value in record.items() if name not in ('time', 'eval_seconds')}


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
  folder = tmp_path_factory.mktemp('evaluated')
  return folder, loop.train(_job(tensorboard=True), folder, _Rows)


def test_evaluation_changes_no_parameter(evaluated, tmp_path):
  folder, _ = evaluated
  loop.train(_job(eval_every=0), tmp_path, _Rows)
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_groups(f / 'text', ['llm']) for f in (folder, tmp_path)),
  )
  assert not _records(tmp_path, 'eval')


def test_every_evaluation_is_recorded_and_the_last_step_has_one(evaluated):
  folder, summary = evaluated
  records = _records(folder, 'eval')
  assert [record['step'] for record in records] == [2, 4, 6, 7]
  assert all(record['eval_seconds'] > 0 and record['time'] > 0 for record in records)
  assert (
    len({record['loss'] for record in records}) == 4
    and records[-1]['loss'] == records[-1]['text_ce']
  )
  assert len({record['tokens'] for record in records}) == 1  # the same rows each time
  assert (
    summary['evaluation'] == records[-1] == checkpoint.read_finished(folder / 'text')['evaluation']
  )
  compilations = [record['variant'] for record in _records(folder, 'compile')]
  assert sorted(compilations) == ['eval', 'step']


def test_the_loss_is_that_of_all_held_out_tokens(evaluated):
  folder, _ = evaluated
  job = _job()
  held_out = _Rows(validation.held_out(job, 'held/out'), folder, None)
  rows = [next(held_out) for _ in range(job.train.eval_batches)]
  whole = {name: np.concatenate([batch[name] for batch in rows]) for name in rows[0]}
  params = checkpoint.load_groups(folder / 'text', ['llm'])
  loss, values = jax.jit(lambda params: s2t_step.text_loss(params, whole, None, job))(params)
  record = _records(folder, 'eval')[-1]
  assert (
    record['loss'] == pytest.approx(float(loss), rel=1e-6) and record['tokens'] == values['tokens']
  )
  plain = [float(s2t_step.text_loss(params, batch, None, job)[0]) for batch in rows]
  assert abs(np.mean(plain) - float(loss)) > 1e-5  # what a mean over batches would be


# 3 and 6 are saved, and 6 is evaluated
@pytest.mark.parametrize('killed_after', [5, pytest.param(7, marks=pytest.mark.slow)])
def test_a_resumed_run_has_the_same_evaluations(evaluated, tmp_path, monkeypatch, killed_after):
  class Killed(BaseException):
    pass

  def killing(self, done):
    if done == killed_after:
      raise Killed
    return due(self, done)

  due, job = validation.Evaluation.due, _job(tensorboard=True)
  with monkeypatch.context() as patch:
    patch.setattr(validation.Evaluation, 'due', killing)
    with pytest.raises(Killed):
      loop.train(job, tmp_path, _Rows)
  assert loop.train(job, tmp_path, _Rows)['finished']
  assert list(map(_values, _records(tmp_path, 'eval'))) == list(
    map(_values, _records(evaluated[0], 'eval'))
  )
  assert _scalars(tmp_path) == _of_records(tmp_path)  # nothing is there twice


@pytest.mark.slow
def test_a_run_may_go_on_with_another_evaluation(evaluated, tmp_path):
  loop.train(_job(steps=3), tmp_path, _Rows)
  loop.train(_job(steps=5, eval_every=4, eval_batches=1, tensorboard=True), tmp_path, _Rows)
  steps, tokens = zip(
    *((record['step'], record['tokens']) for record in _records(tmp_path, 'eval'))
  )
  assert steps == (2, 3, 4, 5) and tokens[0] == tokens[1] > tokens[2] == tokens[3]
  assert _scalars(tmp_path) == _of_records(tmp_path)  # those of the first run too, which wrote none


# --- TensorBoard.


def _scalars(folder):
  """(tag, step) -> value and time of all event files, whose checksums are checked; no pair is there
  twice.
  """
  found = {}
  for file in (folder / 'text' / event_files.FOLDER).iterdir():
    content = file.read_bytes()
    while content:
      (size,), head = struct.unpack('<Q', content[:8]), content[:8]
      data, content, checks = (
        content[12 : 12 + size],
        content[16 + size :],
        (content[8:12], content[12 + size : 16 + size]),
      )
      assert checks == tuple(struct.pack('<I', _masked(part)) for part in (head, data))
      event = event_pb2.Event.FromString(data)
      for value in event.summary.value:
        assert (value.tag, event.step) not in found
        found[value.tag, event.step] = np.float32(value.simple_value), event.wall_time
  return found


def _masked(data):
  """The checksum of TFRecord files."""
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _of_records(folder):
  """What the event files should hold."""
  return {
    (f'{kind}/{name}', record['step']): (np.float32(value), record['time'])
    for kind in ('train', 'eval')
    for record in _records(folder, kind)
    for name, value in record.items()
    if name not in ('kind', 'step', 'time')
  }


def test_event_files_hold_what_the_metrics_hold(evaluated):
  found = _scalars(evaluated[0])
  assert found == _of_records(evaluated[0])
  assert {
    ('eval/loss', 7),
    ('train/loss', 7),
    ('train/step_time', 4),
    ('eval/eval_seconds', 2),
  } <= found.keys()


def test_event_files_without_the_package(tmp_path, monkeypatch):
  monkeypatch.setattr(errors.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    errors.MissingExtraError,
    match=r"'tensorboardX'.*pip install "
    r"'echox-jax\[tensorboard\]'",
  ):
    loop.train(_job(tensorboard=True), tmp_path, _Rows)
  assert not list(tmp_path.iterdir())


# --- What is told on the way.


def test_evaluations_are_in_no_window(tmp_path, monkeypatch):
  now = [1000.0]
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(metrics.time, 'time', lambda: now[0])
  log = metrics.Metrics(tmp_path / 'metrics.jsonl', 'text', 0, 4)
  for number in range(2):
    now[0] += 10.0
    log.add({'loss': 1.0}, 0.0)
    log.flush(number + 1)
    now[0] += 50.0
    log.evaluated(number + 1, {'loss': 2.0, 'text_ce': 2.0}, 50.0)
  assert log.bar.postfix == 'loss=1, eval_loss=2'
  log.close()
  train, evaluation = (
    records.newest(records.read(tmp_path / 'metrics.jsonl'), kind) for kind in ('train', 'eval')
  )
  assert train['step_time'] == 10.0 and train['goodput'] == pytest.approx(20 / 70)
  assert evaluation == {
    'kind': 'eval',
    'step': 2,
    'loss': 2.0,
    'text_ce': 2.0,
    'eval_seconds': 50.0,
    'time': 1120.0,
  }


def test_a_held_out_loss_that_is_not_finite_stops(tmp_path):
  log = metrics.Metrics(tmp_path / 'metrics.jsonl', 'text', 0, 4)
  with pytest.raises(
    errors.EchoXError,
    match='the loss on data.eval_sets is nan after step 3; the last good checkpoint is kept',
  ):
    log.evaluated(3, {'loss': float('nan')}, 1.0)
  log.close()


def test_the_closing_line(tmp_path, monkeypatch, capsys):
  summary = {
    'stage': 's2t',
    'steps': 9,
    'finished': True,
    'seconds': 60.0,
    'metrics': {'loss': 0.5},
    'evaluation': {'step': 9, 'loss': 0.625},
  }
  monkeypatch.setattr(loop, 'train', lambda *arguments: summary)
  monkeypatch.setattr(
    'sys.argv', ['train', '--config=configs/echox_nano.py:s2t', f'--workdir={tmp_path}']
  )
  assert launch_train.main() == 0
  assert (
    capsys.readouterr().out
    == 'stage s2t finished: 9 steps, loss 0.5, held-out loss 0.625, 1.0 min.\n'
  )
  # none, or one of the run that this one continues
  for evaluation in ({}, {'step': 8, 'loss': 0.625}):
    summary['evaluation'] = evaluation
    launch_train.main()
    assert 'held-out' not in capsys.readouterr().out


# --- Nothing random, on any mesh.


PARTS = {
  's2t': {'text_ce', 'ctc', 'tokens'},
  'echo': {'text_ce', 'echo_ce', 'denoising', 'slices'},
  'vocoder': {'mel_loss', 'stft_loss', 'duration_loss', 'audio_seconds'},
}


@pytest.mark.parametrize(
  'stage, mesh',
  [
    pytest.param('s2t', 'data=2,fsdp=2,tensor=2', marks=pytest.mark.slow),
    pytest.param('echo', 'fsdp=4,tensor=2', marks=pytest.mark.slow),
    ('vocoder', 'data=8'),
  ],
)
def test_eight_devices_equal_one(stage, mesh):
  (found,) = on_eight_devices(stage, mesh, module='validation_jobs')
  assert found['one'].keys() == found['mesh'].keys() >= PARTS[stage] and found['one']['loss'] > 0
  assert sharded_jobs.loss_distance([found['mesh']], [found['one']]) < 1e-5


@pytest.mark.slow
def test_an_evaluation_draws_nothing():
  """Dropout is in this model everywhere, and the log-mel would be masked in training."""
  job = sharded_jobs.experiment('s2t')
  job = _with_data(job, augment=AugmentConfig(time_mask=0.5, feature_mask=0.5))
  log = validation_jobs.evaluate(job, sharded_jobs.one_device(), times=2)
  plain = validation_jobs.evaluate(
    sharded_jobs.experiment('s2t', dropout=False), sharded_jobs.one_device()
  )
  first, second = map(_values, log.records)
  assert first | {'step': 1} == second and first == plain.records[0] and log.compilations == 1


def test_t2c_is_evaluated_as_it_is_trained():
  """It has nothing random."""
  job, mesh = sharded_jobs.experiment('t2c'), sharded_jobs.one_device()
  (record,), ((first,), _) = (
    validation_jobs.evaluate(job, mesh).records,
    sharded_jobs.run(job, mesh, 1),
  )
  second = sharded_jobs.batch('t2c', 1)
  expected = {'step', 'loss', 'unit_ce', 'astray', 'tokens', 'overflow_unit_words'}
  assert record.keys() == expected
  assert record['tokens'] == first['tokens'] + (second['labels'] != IGNORE).sum()


# --- Rows of real sets.


def _read(folder, *sets, stage='text', eval_batches=4, accumulate_steps=1, **data):
  """(the held-out batches of the job, their rows as tuples)."""
  job = _with_data(batch_jobs.experiment(stage, **data), eval_sets=sets)
  job = training_jobs.with_train(job, eval_batches=eval_batches, accumulate_steps=accumulate_steps)
  found = validation.read_batches(job, sharded_jobs.one_device(), folder, batches.make_iterator)
  return found, [tuple(row) for batch in found for row in batch['input_ids'].tolist()]


def test_no_row_counts_twice(workdir, capsys):
  """There are 25 different texts; 6 batches of 4 rows are all that there are."""
  found, rows = _read(workdir, 'questions/train', batch_size=4, eval_batches=3)
  assert len(found) == 3 and len(set(rows)) == 12 and not capsys.readouterr().err
  _, more = _read(workdir, 'questions/train', batch_size=4, eval_batches=9)
  assert len(more) == len(set(more)) == 24 and more[:12] == rows
  assert 'questions/train fills 6 of the 9 batches (train.eval_batches)' in capsys.readouterr().err
  assert _read(workdir, 'questions/train', batch_size=4, eval_batches=3)[1] == rows


def test_a_set_smaller_than_a_batch_fills_it_and_says_so(workdir, capsys):
  found, rows = _read(workdir, 'questions/train', batch_size=40)
  assert len(found) == 1 and len(rows) == 40 and len(set(rows)) == 25
  assert 'questions/train fills not even one batch' in capsys.readouterr().err


def test_packed_rows_hold_no_example_twice(workdir):
  found, _ = _read(
    workdir,
    'questions/train',
    stage='s2t',
    batch_size=2,
    packing=True,
    eval_batches=50,
    max_tokens=160,
  )
  heard = [
    tuple(clip[clip != 0])
    for batch in found
    for row in batch['states']
    for clip in row[..., 0]
    if clip.any()
  ]
  assert 1 < len(found) < 50 and 20 < len(heard) <= 50
  assert max(heard.count(clip) for clip in heard) <= 2  # two voices speak each question


def test_held_out_rows_are_spoken_as_they_are_and_of_one_shape(workdir):
  random = dict(
    written_fraction=0.5, buckets=(20, 40), augment=AugmentConfig(time_warp=0.3, noise=0.5)
  )
  found, _ = _read(
    workdir, 'questions/train', stage='s2t', batch_size=10, accumulate_steps=2, **random
  )
  assert [batch['states'].shape for batch in found] == [(5, 60, 4)] * 4
  for length, states in (
    (n, s) for batch in found for n, s in zip(batch['state_lengths'], batch['states'])
  ):
    np.testing.assert_array_equal(states[:length], np.full((length, 4), length - 10) + np.arange(4))


def test_sets_that_cannot_be_evaluated_are_one_sentence_before_anything_is_computed(
  workdir, tmp_path, monkeypatch
):
  long = Example('0', (Turn('user', 'Why? ' * 50), Turn('assistant', 'Because. ' * 50)))
  dataset.write_dataset(workdir / 'data', 'long', {'test': [long]})
  monkeypatch.setattr(state, 'create_state', None)  # is not reached
  for name, message in (
    (
      'questions/test',
      "data.eval_sets: the data set 'questions' in .* has no split 'test': it has train",
    ),
    ('answered/test', "data.eval_sets: there is no data set 'answered' in .*: build it first"),
    ('answered', "data.eval_sets: the data set 'answered' is not of the form NAME/SPLIT"),
    (
      'long/test',
      r"data.eval_sets: no row of long/test is left for stage 'text' \(1 over "
      r'max_tokens = 64\)',
    ),
  ):
    job = _with_data(batch_jobs.experiment('text'), eval_sets=(name,))
    with pytest.raises(errors.EchoXError, match=message) as caught:
      loop.train(training_jobs.with_train(job, eval_every=1), workdir, batches.make_iterator)
    assert '\n' not in str(caught.value)
  assert not (workdir / 'text' / 'metrics.jsonl').exists()


def test_a_split_without_examples_is_called_empty(tmp_path):
  dataset.write_dataset(
    tmp_path,
    'questions',
    {'test': [Example('0', (Turn('user', 'Why?'), Turn('assistant', 'So.')))]},
  )
  info = tmp_path / 'questions' / dataset.INFO
  info.write_text(info.read_text().replace('"1"', '"0"'))
  with pytest.raises(
    errors.DataError, match="split 'test' of the data set 'questions' in .* is empty"
  ):
    dataset.open_dataset(tmp_path, 'questions', 'test')


@pytest.mark.parametrize(
  'sets, train, message',
  [
    (('a/test',), dict(), 'data.eval_sets names a/test, but train.eval_every is 0'),
    ((), dict(eval_every=5), 'train.eval_every is 5, but data.eval_sets is empty'),
    (('a/test',), dict(eval_every=-1), 'train.eval_every is -1'),
    (('a/test',), dict(eval_every=5, eval_batches=0), 'train.eval_batches is 0'),
    (
      ('a/test', 'a/train'),
      dict(eval_every=5),
      "names 'a/train', which is among the data.sets that the stage trains on",
    ),
    (('a/test', 'a/test'), dict(eval_every=5), "names 'a/test', which is listed twice"),
  ],
)
def test_settings_that_do_not_go_together(sets, train, message, tmp_path):
  job = _with_data(training_jobs.experiment(**train), sets=('a/train',), eval_sets=sets)
  with pytest.raises(errors.ConfigError, match=message) as caught:
    loop.train(job, tmp_path, _Rows)
  assert '\n' not in str(caught.value) and not list(tmp_path.iterdir())
