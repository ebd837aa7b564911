"""Each process tells that it lives, how far it is and what failed; a hanging device shows."""

import json
import time

import pytest

from echox_jax import errors
from echox_jax.parallel import heartbeats
from echox_jax.parallel.heartbeats import Heartbeat

EVERY = 0.02


class Result:
  """What a device computes: ready when told."""

  def __init__(self, ready=True):
    self.ready = ready

  def is_ready(self):
    return self.ready


def _heartbeat(folder, process=0, processes=1, every=EVERY):
  return Heartbeat(folder, 'train', 'text', 9, process, processes, every)


def _until(condition):
  end = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def _only(folder):
  (beat,) = heartbeats.read(folder)
  return beat


def test_steps_count_when_the_device_has_done_them(tmp_path):
  hanging = Result(ready=False)
  with _heartbeat(tmp_path) as beat:
    beat.resumed(4)
    beat.doing(heartbeats.STEPS)
    beat.begun(5, Result(), 0.25)
    beat.begun(6, hanging, 0.75)
    _until(lambda: _only(tmp_path).begun == 6)
    written = _only(tmp_path)
    assert (written.step, written.steps, written.doing) == (5, 9, 'steps')
    _until(lambda: _only(tmp_path).time > written.time + 2 * EVERY)  # it lives
    assert _only(tmp_path).step == 5 and _only(tmp_path).step_time == written.step_time
    hanging.ready = True
    _until(lambda: _only(tmp_path).step == 6)
    assert _only(tmp_path).step_seconds > 0 and _only(tmp_path).data_seconds == 0.5
    with beat.during('saving'):
      _until(lambda: _only(tmp_path).doing == 'saving')
  last = _only(tmp_path)
  assert (last.state, last.failure) == ('finished', None)


def test_what_a_process_does_between_steps_counts_for_no_step(tmp_path):
  with _heartbeat(tmp_path) as beat:
    beat.doing(heartbeats.STEPS)
    beat.begun(1, Result(), 0.0)
    with beat.during('saving'):
      time.sleep(0.5)
    beat.begun(2, Result(), 0.0)
  assert 0 < _only(tmp_path).step_seconds < 0.4


def test_failures_are_kept_for_the_next_run(tmp_path):
  with pytest.raises(errors.DataError), _heartbeat(tmp_path) as beat:
    beat.resumed(3)
    raise errors.DataError('the record is damaged: repair it.')
  failed = _only(tmp_path)
  assert failed.state == 'failed' and failed.failure['step'] == 3
  assert failed.failure['error'] == 'the record is damaged: repair it.'
  with _heartbeat(tmp_path) as beat:
    assert _only(tmp_path).failure == failed.failure and _only(tmp_path).state == 'running'
    beat.stopped()
  assert _only(tmp_path).state == 'stopped' and _only(tmp_path).failure == failed.failure


def test_a_killed_process_has_failed(tmp_path):
  with _heartbeat(tmp_path) as beat:
    beat.resumed(7)
    _until(lambda: _only(tmp_path).step == 7)
    killed = (tmp_path / 'heartbeats' / '00000.json').read_text()
  (tmp_path / 'heartbeats' / '00000.json').write_text(killed)
  with _heartbeat(tmp_path):
    failure = _only(tmp_path).failure
  assert failure['step'] == 7 and 'killed' in failure['error']
  assert failure['time'] == json.loads(killed)['time']


def test_a_smaller_job_removes_the_heartbeats_of_a_larger_one(tmp_path):
  for process in range(3):
    with _heartbeat(tmp_path, process, 3):
      pass
  assert [beat.process for beat in heartbeats.read(tmp_path)] == [0, 1, 2]
  with _heartbeat(tmp_path, 0, 2):
    pass
  assert [beat.process for beat in heartbeats.read(tmp_path)] == [0, 1]


def test_storage_that_fails_is_reported_once_and_ends_nothing(tmp_path, monkeypatch, capsys):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(heartbeats.storage, 'atomic_write_json', fail)
  with _heartbeat(tmp_path):
    time.sleep(5 * EVERY)
  assert capsys.readouterr().err.count('No space left on device') == 1


def test_nothing_is_written_where_none_are_wanted(tmp_path):
  with _heartbeat(tmp_path, every=0.0) as beat:
    beat.doing(heartbeats.STEPS)
    beat.done()
  assert not list(tmp_path.iterdir()) and not heartbeats.read(tmp_path)
  with pytest.raises(errors.ConfigError, match='heartbeat_seconds is -1'):
    _heartbeat(tmp_path, every=-1)
