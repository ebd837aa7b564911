"""Which processes of a job are lost, stalled or slow, from their heartbeats.

- lost: no heartbeat for three intervals and 5 s;
- stalled: it lives, but no step was done for 30 s or the time of five steps, whichever is longer
  (an hour while it compiles, evaluates, saves or starts);
- slow: its steps take more than 1.5 times the median (outside training, where each process works
  for itself), or it waits longer for its data than the median process, by more than a fifth of a
  step (the steps of training take the same time everywhere, as each process waits for the slowest).

With heartbeats every 10 s, a process is named lost within 35 s and stalled within 40 s. The clocks
of the hosts and of the reader must agree to a few seconds. A chip that computes slowly makes all
processes slow: heartbeats do not tell which one it is.
"""

from collections.abc import Sequence
import dataclasses
import statistics

from echox_jax.parallel import heartbeats
from echox_jax.parallel.heartbeats import Beat

_MISSED, _LATE = 3, 5.0
_STALLED, _STALLED_STEPS, _STALLED_OTHERWISE = 30.0, 5, 3600.0
_SLOW, _SLOW_DATA = 1.5, 0.2


@dataclasses.dataclass(frozen=True)
class Problem:
  """Something is wrong with some processes.

  Attributes:
    kind: `lost`, `stalled` or `slow`.
    processes, hosts: which ones.
    sentence: says so.
  """

  kind: str
  processes: tuple[int, ...]
  hosts: tuple[str, ...]
  sentence: str


def problems(beats: Sequence[Beat], now: float) -> list[Problem]:
  """Returns what is wrong with the running processes of one job at the time `now`."""
  running = [beat for beat in beats if beat.state == heartbeats.RUNNING]
  alive = [beat for beat in running if not _lost(beat, now)]
  found = [
    _problem(
      'lost',
      [beat],
      f'its last heartbeat is {seconds(now - beat.time)} old (one is due every '
      f'{seconds(beat.every)}); it had done {beat.step} steps',
    )
    for beat in running
    if _lost(beat, now)
  ]
  found += _missing(beats, running, now)
  if not found:  # the others wait for those that are lost
    found += _stalled(alive, now)
  return found + _slow(alive)


def seconds(value: float) -> str:
  """Returns a duration for people."""
  if value < 120:
    return f'{value:.3g} s'
  minutes = value / 60
  return f'{minutes:.0f} min' if minutes < 120 else f'{minutes / 60:.1f} h'


def _lost(beat: Beat, now: float) -> bool:
  return now - beat.time > _MISSED * beat.every + _LATE


def _missing(beats: Sequence[Beat], running: Sequence[Beat], now: float) -> list[Problem]:
  """Processes that never wrote, though others have for long."""
  if not running or now - min(beat.started for beat in running) < _STALLED:
    return []
  count = max(beat.processes for beat in running)
  absent = sorted(set(range(count)) - {beat.process for beat in beats})
  return [
    Problem('lost', (number,), (), f'process {number} is lost: it has never written a heartbeat.')
    for number in absent
  ]


def _stalled(alive: Sequence[Beat], now: float) -> list[Problem]:
  stalled = [beat for beat in alive if _waited(beat, now) > _limit(beat)]
  if not stalled:
    return []
  behind = min(beat.begun for beat in stalled)
  first = [beat for beat in stalled if beat.begun == behind]
  beat, waited = first[0], seconds(max(_waited(beat, now) for beat in first))
  what = (
    f'no step was done for {waited}, after step {beat.step}'
    if beat.doing == heartbeats.STEPS
    else f'{beat.doing} takes {waited}'
  )
  if len(first) < len(stalled):
    what += f'; {len(stalled) - len(first)} others wait for step {behind + 1}'
  return [_problem('stalled', first, what)]


def _waited(beat: Beat, now: float) -> float:
  """How long nothing was done."""
  if beat.doing == heartbeats.WAITING:
    return 0.0
  since = beat.doing_since
  return now - (max(since, beat.step_time) if beat.doing == heartbeats.STEPS else since)


def _limit(beat: Beat) -> float:
  if beat.doing != heartbeats.STEPS:
    return _STALLED_OTHERWISE
  return max(_STALLED, _STALLED_STEPS * (beat.step_seconds or 0.0))


def _slow(alive: Sequence[Beat]) -> list[Problem]:
  found = []
  timed = [beat for beat in alive if beat.step_seconds]
  if len(timed) > 1:
    step = statistics.median_low(beat.step_seconds for beat in timed)
    data = statistics.median_low(beat.data_seconds or 0.0 for beat in timed)
    for beat in timed:
      if (beat.data_seconds or 0.0) - data > _SLOW_DATA * step:
        what = f'it waits {seconds(beat.data_seconds)} a step for its data, the median process '
        found.append(_problem('slow', [beat], what + seconds(data)))
      elif beat.step_seconds > _SLOW * step:
        what = f'a step takes it {seconds(beat.step_seconds)}, the median process {seconds(step)}'
        found.append(_problem('slow', [beat], what))
  return found


def _problem(kind: str, beats: Sequence[Beat], what: str) -> Problem:
  named = [f'{beat.process} on {beat.host}' for beat in beats[:4]]
  more = f' and {len(beats) - 4} more' if len(beats) > 4 else ''
  are = 'process {} is' if len(beats) == 1 else 'processes {} are'
  return Problem(
    kind,
    tuple(beat.process for beat in beats),
    tuple(dict.fromkeys(beat.host for beat in beats)),
    f'{are.format(", ".join(named) + more)} {kind}: {what}.',
  )
