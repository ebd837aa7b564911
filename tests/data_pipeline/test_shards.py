"""Outputs are made once, whatever is stopped when, and whoever makes them."""

import os
from pathlib import Path

import pytest

from data_pipeline import fingerprints, shards
from data_pipeline.shards import Process, SharedWork
from echox_jax.errors import DataError


class Stopped(BaseException):
  """As if the process had been killed here."""


def stop_before(call, places, monkeypatch):
  """Raises Stopped in place of call number `call` of all functions (owner, name) together."""
  calls = 0

  def stopping(function):
    def stop(*args, **kwargs):
      nonlocal calls
      if calls == call:
        raise Stopped
      calls += 1
      return function(*args, **kwargs)

    return stop

  for owner, name in places:
    monkeypatch.setattr(owner, name, stopping(getattr(owner, name)))


def write(made):
  """Writes the number of the output, and notes that it was made."""

  def make(i, beside):
    made.append(i)
    beside.write_text(f'output {i}')
    return {'size': i}

  return make


def outputs(folder, inputs='x', count=5):
  return {folder / 'out' / str(i): inputs for i in range(count)}


def test_what_is_finished_is_not_made_again(tmp_path):
  made = []
  work = SharedWork(tmp_path)
  work.run('step', outputs(tmp_path), write(made))
  times = {path: path.stat().st_mtime_ns for path in outputs(tmp_path)}
  again = SharedWork(tmp_path)
  again.run('step', outputs(tmp_path), write(made))
  assert made == [0, 1, 2, 3, 4] and (work.ran, again.ran) == (['step'], [])
  assert times == {path: path.stat().st_mtime_ns for path in times}
  assert again.measured(outputs(tmp_path), 'size') == 10 and again.seconds['step'] >= 0
  again.run('step', outputs(tmp_path, 'y') | {tmp_path / 'out' / '3': 'x'}, write(made))
  assert made[5:] == [0, 1, 2, 4]


def test_lost_and_cut_outputs_are_made_again(tmp_path):
  made, work = [], SharedWork(tmp_path)
  work.run('step', outputs(tmp_path), write(made))
  (tmp_path / 'out' / '1').unlink()
  (tmp_path / 'out' / '2').write_text('out')
  (tmp_path / 'parts' / 'notes' / 'out' / '3.json').write_text('{"inputs":')
  work.run('step', outputs(tmp_path), write(made))
  assert made[5:] == [1, 2, 3]
  assert [path.read_text() for path in outputs(tmp_path)] == [f'output {i}' for i in range(5)]


@pytest.mark.parametrize('inputs', ['x', 'new'])
@pytest.mark.parametrize('call', range(6))
def test_stopped_at_any_point(tmp_path, monkeypatch, inputs, call):
  """After each of the calls that change the disk; the old outputs are there where the inputs are
  new.
  """
  SharedWork(tmp_path).run('step', outputs(tmp_path, 'x', 1), write([]))
  if inputs == 'x':
    (tmp_path / 'out' / '0').unlink()
  places = ((os, 'fsync'), (os, 'replace'), (Path, 'unlink'), (Path, 'mkdir'))
  stop_before(call, places, monkeypatch)
  with pytest.raises(Stopped):
    SharedWork(tmp_path).run(
      'step', outputs(tmp_path, inputs, 1), lambda i, beside: beside.write_text('whole') and None
    )
  monkeypatch.undo()
  target, work = tmp_path / 'out' / '0', SharedWork(tmp_path)
  assert not work.finished(target, inputs) and (
    not target.exists() or target.read_text() == 'output 0'
  )
  work.run(
    'step', outputs(tmp_path, inputs, 1), lambda i, beside: beside.write_text('whole') and None
  )
  assert target.read_text() == 'whole' and {
    path.name for path in (tmp_path / 'parts').iterdir()
  } == {'notes'}


@pytest.mark.parametrize('call', range(6))
def test_files_beside_an_output_come_and_go_with_it(tmp_path, monkeypatch, call):
  """Stopped before each of the calls that change the disk, and made again."""
  target = tmp_path / 'out' / '0'

  def make(i, beside):
    beside.write_text('whole')
    beside.with_name(f'{beside.name}.more').write_text('more of it')

  stop_before(call, ((os, 'fsync'), (os, 'replace')), monkeypatch)
  with pytest.raises(Stopped):
    SharedWork(tmp_path).run('step', outputs(tmp_path, 'x', 1), make)
  monkeypatch.undo()
  work = SharedWork(tmp_path)
  assert not work.finished(target, 'x')
  work.run('step', outputs(tmp_path, 'x', 1), make)
  assert (target.read_text(), target.with_suffix('.more').read_text()) == ('whole', 'more of it')
  target.with_suffix('.more').unlink()
  assert not work.finished(target, 'x')
  work.run('step', outputs(tmp_path, 'x', 1), make)
  work.keep_only(outputs(tmp_path, 'x', 1))
  assert work.finished(target, 'x') and len(list((tmp_path / 'out').iterdir())) == 2
  work.forget(target)
  assert not work.finished(target, 'x')


def test_jobs_of_other_names_leave_each_other_alone(tmp_path):
  writing = tmp_path / 'parts' / 'one' / 'writing-0'
  writing.mkdir(parents=True)
  SharedWork(tmp_path, name='other')
  assert writing.exists()
  SharedWork(tmp_path, name='one')
  assert not writing.exists()


def test_each_process_makes_its_share(tmp_path, monkeypatch):
  made = []
  monkeypatch.setattr(SharedWork, '_await', lambda self, step, outputs: None)
  for index in (2, 0, 1):
    work = SharedWork(tmp_path, Process(index, 3))
    monkeypatch.setattr(work, 'notes', lambda paths: [])
    work.run('step', outputs(tmp_path), write(made))
  assert made == [2, 0, 3, 1, 4]


def test_a_failure_leaves_nothing(tmp_path):
  def fail(i, beside):
    beside.write_text('half')
    raise DataError('no')

  with pytest.raises(DataError):
    SharedWork(tmp_path).run('step', outputs(tmp_path), fail)
  assert not list((tmp_path / 'out').iterdir())


def test_only_the_first_process_clears_away(tmp_path):
  work = SharedWork(tmp_path)
  work.run('step', outputs(tmp_path), write([]))
  SharedWork(tmp_path, Process(1, 2)).remove(tmp_path / 'out')
  assert len(list((tmp_path / 'out').iterdir())) == 5
  work.keep_only([tmp_path / 'out' / '1', tmp_path / 'out' / '2'])
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {'1', '2'}
  work.remove(tmp_path / 'out')
  assert not (tmp_path / 'out').exists() and not list(
    (tmp_path / 'parts' / 'notes').rglob('*.json')
  )


def test_ranges():
  assert (
    shards.ranges(5, 2) == [range(0, 2), range(2, 4), range(4, 5)] and shards.ranges(0, 2) == []
  )


def test_fingerprints(tmp_path):
  assert (
    fingerprints.fingerprint({'a': 1, 'b': 2})
    == fingerprints.fingerprint({'b': 2, 'a': 1})
    != fingerprints.fingerprint({'a': 2, 'b': 1})
  )
  (tmp_path / 'one').write_text('x')
  whole = fingerprints.file_fingerprint(tmp_path)
  (tmp_path / 'one').write_text('y')
  assert fingerprints.file_fingerprint(tmp_path) != whole
  with pytest.raises(DataError, match='no file'):
    fingerprints.file_fingerprint(tmp_path / 'two')
