"""A stopwatch adds up over runs."""

import json

import pytest

from launch import stopwatch


def test_seconds_add_up_over_runs_and_failures_do_not_count(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(stopwatch.time, 'perf_counter', lambda: now[0])
  path = tmp_path / 'seconds.json'

  def run(*parts):
    watch = stopwatch.Stopwatch(path)
    for name, seconds in parts:
      with watch.part(name):
        now[0] += seconds
    now[0] += 1.0
    return watch.seconds

  assert run(('a', 2.0), ('b', 3.0), ('a', 4.0)) == {'a': 6.0, 'b': 3.0, 'total': 10.0}
  watch = stopwatch.Stopwatch(path)
  with pytest.raises(OSError), watch.part('b'):
    now[0] += 50.0
    raise OSError
  assert run(('b', 1.0)) == {'a': 6.0, 'b': 4.0, 'total': 11.0}
  assert json.loads(path.read_text())['b'] == 4.0
