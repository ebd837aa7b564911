"""The state of a run, from the files in its working folder: needs neither JAX nor the run itself.

It reads, of every stage, `config.json`, `metrics.jsonl`, `finished.json`, the names of its
checkpoints and of its bad batches, and the heartbeats; and the heartbeats of precompute and of
the jobs that read recordings in.
"""

from collections.abc import Sequence
import dataclasses
import json
import re
from typing import Any

from echox_jax import errors, storage
from echox_jax.monitoring import health
from echox_jax.parallel import heartbeats
from echox_jax.storage import Path
from echox_jax.training import layout, records

_ENDING = 300.0  # seconds in which the failure of one process ends all
_COMMITTED = 'commit_success.txt'  # on object stores Orbax writes it into a complete checkpoint
_SHOWN = ('loss', 'step_time', 'tokens_per_second', 'goodput', 'job_seconds', 'mfu')


def collect(workdir: str | Path, now: float) -> dict[str, Any]:
  """Returns the state of the run in `workdir` at the time `now` (seconds since 1970), JSON-ready.

  Returns:
    `workdir`, `time`;
    `stages`: of each stage, in the order in which they began, `name`, `state` (`finished`,
      `running`, `stopped`, `failed`, `lost`, or `unfinished` if it wrote no heartbeats), `step` of
      `steps`, `updated` (time of the newest record or heartbeat), `loss`, `eval_loss`, `step_time`
      in seconds, `tokens_per_second`, `goodput`, `job_seconds` and `mfu` of the newest window (see
      `training.metrics`), `saving`: share of the job's time in which training waited for
      checkpoints, the last one included, `seconds_left`, `last_checkpoint` (step),
      `last_save` (record of the newest checkpoint that was written), `bad_batches` (numbers),
      `curve` and `eval_curve` (pairs of step and loss), `processes` (heartbeats), `problems`,
      `failure`; None = unknown;
    `precompute`: `name`, `state`, `stage`, `processes`, `problems`, `failure`; None = it wrote no
      heartbeats;
    `corpus`: the same of each job that read recordings into the folder of data sets, `workdir/data`
      or `workdir` itself; its `name` is `corpus`, or `corpus PREFIX`;
    `goodput`: of all stages; None = unknown;
    `problems`: sentences; `last_failure`: the newest one, with `job` (name of the stage or job),
      `process`, `host`, `time`, `step`, `error`; None = none.

  Raises:
    DataError: there is no run in `workdir`.
  """
  folder = storage.check_readable(workdir)
  found = sorted(path for path in folder.iterdir() if _is_stage(path)) if folder.is_dir() else []
  stages = sorted((_stage(path, now) for path in found), key=lambda stage: stage['began'])
  precompute = _job('precompute', heartbeats.read(folder), now)
  corpus = [job for data in (folder, folder / layout.DATA) for job in _reading_in(data, now)]
  if not stages and not corpus and precompute is None:
    raise errors.DataError(
      f'{workdir} has no run: name the working folder (--workdir) of launch.train, launch.pipeline '
      'or launch.precompute, or the folder (--data) of launch.corpus.'
    )
  jobs = [*corpus, *([precompute] if precompute else []), *stages]
  failures = [job['failure'] for job in jobs if job['failure']]
  spent = [(s['job_seconds'], s['goodput']) for s in stages if s['job_seconds']]
  whole = sum(seconds for seconds, _ in spent)
  return {
    'workdir': str(workdir),
    'time': now,
    'stages': stages,
    'precompute': precompute,
    'corpus': corpus,
    'goodput': sum(seconds * share for seconds, share in spent) / whole if whole else None,
    'problems': [f'{job["name"]}: {p["sentence"]}' for job in jobs for p in job['problems']],
    'last_failure': _last(failures),
  }


def _reading_in(data: Path, now: float) -> list[dict[str, Any]]:
  """The jobs that read recordings into a folder of data sets."""
  folders = [
    path
    for path in storage.children(data / layout.PARTS)
    if path.name.startswith(layout.READING_IN)
  ]
  named = [f'corpus {path.name.removeprefix(layout.READING_IN)}'.strip() for path in folders]
  found = [_job(name, heartbeats.read(path), now) for name, path in zip(named, folders)]
  return [job for job in found if job]


def _is_stage(folder: Path) -> bool:
  return (folder / layout.METRICS).exists() or (folder / heartbeats.FOLDER).is_dir()


def _stage(folder: Path, now: float) -> dict[str, Any]:
  """The state of one stage."""
  kept, beats = records.read(folder / layout.METRICS), heartbeats.read(folder)
  last, evaluated, saved = (records.newest(kept, kind) for kind in ('train', 'eval', 'save'))
  config, finished = _json(folder / layout.CONFIG), _json(folder / layout.FINISHED)
  job = _job(folder.name, beats, now) or {
    'name': folder.name,
    'state': 'unfinished',
    'stage': folder.name,
    'processes': [],
    'problems': [],
    'failure': None,
  }
  steps = config.get('train', {}).get('steps')
  if finished and finished['steps'] >= (steps or 0):
    job['state'] = 'finished'
  step = max([last.get('step', 0), *(beat.step for beat in beats)])
  times = [last.get('time', 0.0), *(beat.time for beat in beats)]
  left = max(steps - step, 0) if steps is not None else None
  return job | {
    'began': last['time'] - last['job_seconds'] if last else min(times[1:], default=now),
    'step': step,
    'steps': steps,
    'updated': max(times) or None,
    'eval_loss': evaluated.get('loss'),
    'seconds_left': last['step_time'] * left if last and left is not None else None,
    'last_checkpoint': max(_checkpoints(folder / layout.CHECKPOINTS), default=None),
    'last_save': saved or None,
    'bad_batches': sorted(_numbers(folder / layout.BAD_BATCHES, r'batch-(\d+)\.json')),
    'saving': _saving(kept, last),
    **{name: last.get(name) for name in _SHOWN},
    **{
      name: [(r['step'], r['loss']) for r in kept if r['kind'] == kind]
      for name, kind in (('curve', 'train'), ('eval_curve', 'eval'))
    },
  }


def _saving(kept: Sequence[dict[str, Any]], last: dict[str, Any]) -> float | None:
  """The share of the job's time in which training waited for checkpoints."""
  if not last:
    return None
  saves = [record for record in kept if record['kind'] == 'save']
  end = max([last['time'], *(record['time'] for record in saves)])
  whole = end - (last['time'] - last['job_seconds'])
  return sum(record['wait_seconds'] for record in saves) / whole


def _job(name: str, beats: Sequence[heartbeats.Beat], now: float) -> dict[str, Any] | None:
  """What the heartbeats of a job say; None if there are none."""
  if not beats:
    return None
  states = {beat.state for beat in beats}
  problems = health.problems(beats, now) if heartbeats.FAILED not in states else []
  lost = {number for p in problems if p.kind == 'lost' for number in p.processes}
  running = {beat.process for beat in beats if beat.state == heartbeats.RUNNING}
  failures = [
    {'job': name, 'process': beat.process, 'host': beat.host, **beat.failure}
    for beat in beats
    if beat.failure
  ]
  return {
    'name': name,
    'state': _state(states, alive=bool(running - lost)),
    'stage': beats[0].stage,
    'processes': [dataclasses.asdict(beat) for beat in beats],
    'problems': [dataclasses.asdict(problem) for problem in problems],
    'failure': _last(failures),
  }


def _last(failures: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
  """The newest failure. Processes that are ended because another failed say nothing: then it is
  that other one's.
  """
  if not failures:
    return None
  newest = max(failure['time'] for failure in failures)
  spoken = [f for f in failures if f['error'] != heartbeats.SILENT and newest - f['time'] < _ENDING]
  return max(spoken or failures, key=lambda failure: failure['time'])


def _state(states: set[str], alive: bool) -> str:
  if heartbeats.FAILED in states:
    return heartbeats.FAILED
  if heartbeats.RUNNING in states:
    return heartbeats.RUNNING if alive else 'lost'
  return heartbeats.STOPPED if heartbeats.STOPPED in states else heartbeats.FINISHED


def _checkpoints(folder: Path) -> list[int]:
  """Steps of the complete checkpoints."""
  return [
    step
    for step in _numbers(folder, r'(\d+)')
    if not storage.is_remote(folder) or (folder / str(step) / _COMMITTED).exists()
  ]


def _numbers(folder: Path, pattern: str) -> list[int]:
  """The numbers in the names of files or folders that match the `pattern`."""
  if not folder.is_dir():
    return []
  matches = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
  return [int(match[1]) for match in matches if match]


def _json(file: Path) -> dict[str, Any]:
  try:
    return json.loads(file.read_text('utf-8'))
  except (FileNotFoundError, ValueError):
    return {}
