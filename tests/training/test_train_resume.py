"""A run that is stopped or killed and started again ends where an uninterrupted one ends, bit for
bit.
"""

import json
import os
import signal

import jax
import numpy as np
import pytest

from echox_jax import errors, storage
from echox_jax.training import checkpoint, loop, metrics, records
from tests.helpers import training_jobs

STEPS = 7


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  loop.train(
    training_jobs.experiment(steps=STEPS), workdir, training_jobs.text_rows, profile=(3, 5)
  )
  return workdir


def _train(workdir):
  return loop.train(training_jobs.experiment(steps=STEPS), workdir, training_jobs.text_rows)


def _at_step(monkeypatch, step, action):
  """Calls `action` once, when `step` steps are done."""
  add, done = metrics.Metrics.add, []

  def counting(self, *values):
    add(self, *values)
    done.append(1)
    if len(done) == step:
      action()

  monkeypatch.setattr(metrics.Metrics, 'add', counting)


def _assert_same_run(one, other):
  saved = [checkpoint.load_groups(workdir / 'text', ['llm']) for workdir in (one, other)]
  jax.tree.map(np.testing.assert_array_equal, *saved)
  steps = [
    record['step']
    for record in records.read(other / 'text' / 'metrics.jsonl')
    if record['kind'] == 'train'
  ]
  assert steps == sorted(set(steps)) and steps[-1] == STEPS
  losses = [
    {
      r['step']: r['loss']
      for r in records.read(w / 'text' / 'metrics.jsonl')
      if r['kind'] == 'train'
    }
    for w in (one, other)
  ]
  assert losses[0][STEPS] == losses[1][STEPS]


def test_killed_run_goes_on(uninterrupted, tmp_path, monkeypatch):
  class Killed(BaseException):
    pass

  def kill():
    raise Killed

  with monkeypatch.context() as patch:
    _at_step(patch, 5, kill)
    with pytest.raises(Killed):
      _train(tmp_path)
  file = tmp_path / 'text' / 'metrics.jsonl'
  assert max(r['step'] for r in records.read(file)) == 4  # the checkpoint is of step 3
  file.write_text(file.read_text() + '{"kind": "tra')
  assert checkpoint.read_finished(tmp_path / 'text') is None
  assert _train(tmp_path)['finished']
  _assert_same_run(uninterrupted, tmp_path)


def test_sigterm_saves_and_the_run_goes_on(uninterrupted, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    _at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    summary = _train(tmp_path)
  assert not summary['finished'] and summary['steps'] == 2
  assert checkpoint.read_finished(tmp_path / 'text') is None
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  assert _train(tmp_path)['steps'] == STEPS
  _assert_same_run(uninterrupted, tmp_path)


def test_finished_stage_is_left_as_it_is(uninterrupted):
  before = (uninterrupted / 'text' / 'metrics.jsonl').read_text()
  summary = _train(uninterrupted)
  assert summary['already_finished'] and summary['steps'] == STEPS
  assert (uninterrupted / 'text' / 'metrics.jsonl').read_text() == before


def test_trace_is_written_and_changes_nothing(uninterrupted):
  assert list((uninterrupted / 'text' / 'profile').rglob('*.xplane.pb'))


def test_compile_time_is_in_a_record_of_its_own(uninterrupted):
  found = [
    json.loads(line) for line in (uninterrupted / 'text' / 'metrics.jsonl').read_text().splitlines()
  ]
  assert found[0]['kind'] == 'compile' and found[0]['compile_seconds'] > 0
  windows = [record for record in found if record['kind'] == 'train']
  assert len(windows) + 1 == len([record for record in found if record['kind'] != 'save'])
  assert all(
    {'loss', 'step_time', 'data_time', 'tokens_per_second', 'goodput', 'saving'} <= r.keys()
    for r in windows
  )
  assert windows[0]['step_time'] < found[0]['compile_seconds']
  saves = [record for record in found if record['kind'] == 'save']
  assert [record['step'] for record in saves] == [3, 6, STEPS]
  assert all(record['wait_seconds'] > 0 and record['write_seconds'] > 0 for record in saves)


def test_two_processes_do_not_train_the_same_stage(tmp_path):
  with (
    storage.owned(tmp_path / 'text', 0),
    pytest.raises(errors.StorageError, match='another process is at work'),
  ):
    _train(tmp_path)
