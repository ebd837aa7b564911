"""What a run tells about its speed."""

import jax
import pytest

from echox_jax import storage
from echox_jax.training import metrics, profiling, records


class _Clock:
  """Time that passes when told."""

  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(metrics.time, 'time', lambda: self.now)
    monkeypatch.setattr(metrics.time, 'perf_counter', lambda: self.now)


def _window(log, clock, step, seconds, flops=0.0):
  clock.now += seconds
  log.add({'loss': 1.0, 'grad_norm': 1.0}, 0.0, flops)
  log.add({'loss': 3.0, 'grad_norm': 1.0}, 0.0, flops)
  log.flush(step)
  return log.last


def test_goodput_counts_what_lies_between_runs_and_steps_that_were_lost(tmp_path, monkeypatch):
  clock, file = _Clock(monkeypatch), tmp_path / 'metrics.jsonl'
  log = metrics.Metrics(file, 'text', 0, 10, started=990.0)
  first = _window(log, clock, 2, 10.0)
  assert (first['job_seconds'], first['goodput'], first['loss']) == (20.0, 0.5, 2.0)
  _window(log, clock, 4, 10.0)  # killed before these are saved
  log.close()
  clock.now += 50.0
  log = metrics.Metrics(file, 'text', 2, 10, started=clock.now)
  again = _window(log, clock, 4, 20.0)
  log.close()
  assert again['job_seconds'] == 100.0 and again['goodput'] == pytest.approx(0.3)


def test_flops_become_rates(tmp_path, monkeypatch):
  clock = _Clock(monkeypatch)
  log = metrics.Metrics(tmp_path / 'metrics.jsonl', 'text', 0, 10, peak_flops=8e12)
  record = _window(log, clock, 2, 2.0, 4e12)
  log.close()
  assert record['model_flops_per_second'] == 4e12 and record['mfu'] == 0.5
  log = metrics.Metrics(tmp_path / 'other.jsonl', 'text', 0, 10)
  assert not {'mfu', 'model_flops_per_second'} & _window(log, clock, 2, 2.0).keys()
  log.close()


def test_metrics_event_files_and_traces_in_a_bucket(bucket_folder, monkeypatch):
  clock, folder = _Clock(monkeypatch), storage.path(bucket_folder)
  file, events = folder / 'metrics.jsonl', folder / 'tensorboard'
  log = metrics.Metrics(file, 'text', 0, 10, events=events)
  _window(log, clock, 2, 1.0)
  _window(log, clock, 4, 1.0)
  log.sync()
  assert [record['step'] for record in records.read(file)] == [2, 4]
  log.close()
  (first,) = storage.children(events)
  assert b'train/loss' in first.read_bytes()
  log = metrics.Metrics(file, 'text', 2, 10, events=events)  # goes on from a checkpoint
  _window(log, clock, 4, 1.0)
  log.close()
  assert [record['step'] for record in records.read(file)] == [2, 4]
  (second,) = storage.children(events)
  assert second != first and second.read_bytes().count(b'train/loss') == 2
  with profiling.Trace(folder / 'profile', (0, 1)) as trace:
    trace.before(0)
    trace.after(1, jax.numpy.zeros(()))
  assert any(path.name.endswith('.xplane.pb') for path in storage.tree(folder / 'profile'))
