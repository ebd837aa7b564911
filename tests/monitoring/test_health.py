"""A lost or stalled process is named within a minute, and none that only has long work to do."""

import dataclasses

import pytest

from echox_jax.monitoring import health
from echox_jax.parallel.heartbeats import Beat

NOW = 1_000_000.0
HEALTHY = Beat(
  job='train',
  stage='s2t',
  host='host-0',
  pid=1,
  process=0,
  processes=4,
  every=10.0,
  started=NOW - 900,
  time=NOW - 9,
  state='running',
  doing='steps',
  doing_since=NOW - 800,
  begun=122,
  step=120,
  steps=500,
  step_time=NOW - 10,
  step_seconds=2.0,
  data_seconds=0.1,
  failure=None,
)


def _job(**changes):
  """Four processes; process 2 has other values."""
  beats = [dataclasses.replace(HEALTHY, process=i, host=f'host-{i}') for i in range(4)]
  beats[2] = dataclasses.replace(beats[2], **changes)
  return beats


def _found(beats, now=NOW):
  return [(problem.kind, problem.processes) for problem in health.problems(beats, now)]


def test_a_healthy_job_has_no_problems():
  assert not _found(_job())


def test_a_lost_host_is_named_within_a_minute():
  beats = _job(time=NOW - 60)
  (problem,) = health.problems(beats, NOW)
  assert (problem.kind, problem.processes, problem.hosts) == ('lost', (2,), ('host-2',))
  assert problem.sentence == (
    'process 2 on host-2 is lost: its last heartbeat is 60 s old (one is due every 10 s); it had '
    'done 120 steps.'
  )
  hanging = [dataclasses.replace(beat, step_time=NOW - 60) for beat in beats]
  assert _found(hanging) == [('lost', (2,))]  # the others wait for it


def test_a_process_that_never_came_is_lost():
  assert _found(_job()[:3]) == [('lost', (3,))]
  starting = [dataclasses.replace(beat, started=NOW - 5) for beat in _job()[:3]]
  assert not _found(starting)


def test_a_stalled_host_is_named_within_a_minute():
  waiting = [dataclasses.replace(beat, step_time=NOW - 60) for beat in _job(begun=120)]
  (problem,) = health.problems(waiting, NOW)
  assert (problem.kind, problem.processes, problem.hosts) == ('stalled', (2,), ('host-2',))
  assert problem.sentence == (
    'process 2 on host-2 is stalled: no step was done for 60 s, after step 120; '
    '3 others wait for step 121.'
  )
  together = [dataclasses.replace(beat, step_time=NOW - 60) for beat in _job()]
  assert _found(together) == [('stalled', (0, 1, 2, 3))]


@pytest.mark.parametrize(
  'changes',
  [
    dict(step_seconds=20.0, step_time=NOW - 60),  # long steps
    dict(doing='compiling', doing_since=NOW - 600, step_time=NOW - 600),
    dict(doing='waiting for others', doing_since=NOW - 9000, step_time=NOW - 9000),
    dict(doing_since=NOW - 5, step_time=NOW - 600),  # steps go on after an evaluation
    dict(state='finished', time=NOW - 9000, step_time=NOW - 9000),
  ],
)
def test_long_work_is_no_stall(changes):
  beats = [dataclasses.replace(beat, **changes) for beat in _job()]
  assert not _found(beats)


def test_work_without_end_is_a_stall():
  assert _found(_job(doing='compiling', doing_since=NOW - 4000)) == [('stalled', (2,))]


def test_stragglers():
  assert _found(_job(data_seconds=0.6)) == [('slow', (2,))]
  assert not _found(_job(data_seconds=0.4))  # less than a fifth of a step
  (problem,) = health.problems(_job(step_seconds=3.5), NOW)
  assert problem.sentence == (
    'process 2 on host-2 is slow: a step takes it 3.5 s, the median process 2 s.'
  )
  assert not _found(_job(step_seconds=2.5))
