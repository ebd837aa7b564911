"""Heartbeats: every process of a job tells at an interval that it lives and how far it is.

  FOLDER/heartbeats/00003.json     the newest `Beat` of process 3, rewritten as a whole

A thread writes it, so neither a slow storage nor a hanging device delays the job or its heartbeat:
what shows that a process hangs is a step that does not advance. A heartbeat that cannot be written
is reported once and does not end the job. This module needs no JAX.
"""

from collections import deque
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from echox_jax import errors, storage
from echox_jax.storage import Path

FOLDER = 'heartbeats'
RUNNING, FINISHED, STOPPED, FAILED = 'running', 'finished', 'stopped', 'failed'
# what a process does while steps advance, and while it waits for other processes
STEPS, WAITING = 'steps', 'waiting for others'
SILENT = 'the process ended without a message: it was killed, or its host was lost.'
_RECENT = 20  # steps that `step_seconds` is a mean of
_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Beat:
  """What a process tells. Times are seconds since 1970 by the clock of its host.

  Attributes:
    job: `train`, `precompute` or `corpus`.
    stage: stage of training, or step of the other jobs.
    host, pid: where the process runs.
    process, processes: number of the process from 0, and how many there are.
    every: seconds between heartbeats.
    started: when the process began.
    time: when this was written.
    state: `running`, `finished`, `stopped` (on request) or `failed`.
    doing: `steps`, `waiting for others`, or what it does meanwhile: `compiling`, `saving`...
    doing_since: since when.
    begun: number of steps handed to the devices; a process that others wait for has begun fewer.
    step: number of steps done (in precompute and corpus: examples of this process).
    steps: number of steps of the whole job; 0 = unknown.
    step_time: when the last step was done; `started` before the first.
    step_seconds: mean time of recent steps; None = unknown.
    data_seconds: of that, how long this process waited for its data; None = unknown.
    failure: the last failure of this process or of one with this number before it: `time`, `step`,
      `error`; None = none.
  """

  job: str
  stage: str
  host: str
  pid: int
  process: int
  processes: int
  every: float
  started: float
  time: float
  state: str
  doing: str
  doing_since: float
  begun: int
  step: int
  steps: int
  step_time: float
  step_seconds: float | None
  data_seconds: float | None
  failure: dict[str, Any] | None


class Heartbeat:
  """Writes the heartbeat of this process while the `with` block runs, and how the block ended.

  Args:
    folder: of the stage; None = write nothing.
    job, stage, steps: see `Beat`.
    process, processes: number of this process, and how many there are.
    every: seconds between heartbeats; 0 = write nothing.
  """

  def __init__(
    self,
    folder: Path | None,
    job: str = '',
    stage: str = '',
    steps: int = 0,
    process: int = 0,
    processes: int = 1,
    every: float = 0.0,
  ):
    if every < 0:
      raise errors.ConfigError(
        f'heartbeat_seconds is {every}: make it 0 (no heartbeats) or the seconds between them.'
      )
    now = time.time()
    self._beat = Beat(
      job=job,
      stage=stage,
      host=socket.gethostname(),
      pid=os.getpid(),
      process=process,
      processes=processes,
      every=every,
      started=now,
      time=now,
      state=RUNNING,
      doing='starting',
      doing_since=now,
      begun=0,
      step=0,
      steps=steps,
      step_time=now,
      step_seconds=None,
      data_seconds=None,
      failure=None,
    )
    self._folder = folder / FOLDER if folder and every else None
    self._file = self._folder and self._folder / f'{process:05d}.json'
    self._running: deque[tuple[int, Any]] = deque()  # steps that the devices may not have done
    self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT + 1)
    self._waits: deque[float] = deque(maxlen=_RECENT)
    self._lock, self._ended = threading.RLock(), threading.Event()
    self._thread: threading.Thread | None = None
    self._warned = False

  def __enter__(self) -> 'Heartbeat':
    if self._folder is None:
      return self
    with self._reported():
      if self._beat.process == 0:
        for path in _paths(self._folder):
          if int(path.name.split('.')[0]) >= self._beat.processes:
            path.unlink()
      before = _read(self._file)
      if before:
        self._set(failure=_failure_of(before))
    self._write()
    self._thread = threading.Thread(target=self._keep_writing, name='heartbeat', daemon=True)
    self._thread.start()
    return self

  def __exit__(self, kind, error, trace) -> None:
    if self._folder is None:
      return
    self._ended.set()
    self._thread.join()
    self._advance()
    beat, now = self._beat, time.time()
    if error is None:
      self._set(state=FINISHED if beat.state == RUNNING else beat.state)
    elif isinstance(error, KeyboardInterrupt):
      self._set(state=STOPPED)
    else:
      text = str(error).strip() or kind.__name__
      text = text if isinstance(error, errors.EchoXError) else f'{kind.__name__}: {text}'
      failure = {'time': now, 'step': beat.step, 'error': text.splitlines()[0][:1000]}
      self._set(state=FAILED, failure=failure)
    self._write()

  def resumed(self, step: int) -> None:
    """Steps go on from `step`."""
    self._set(step=step, begun=step)

  def begun(self, step: int, result: Any, data_seconds: float) -> None:
    """A step was handed to the devices.

    Args:
      step: its number.
      result: one of its arrays, whose `is_ready()` tells when the step is done.
      data_seconds: how long this process waited for the data.
    """
    with self._lock:
      self._running.append((step, result))
      self._waits.append(data_seconds)
      self._set(begun=step)
      self._advance()

  def done(self, count: int = 1) -> None:
    """Steps that need no device are done."""
    self._note(self._beat.step + count)

  def stopped(self) -> None:
    """The block ends because the job was told to stop."""
    self._set(state=STOPPED)

  def at(self, stage: str) -> None:
    """The process turns to another stage."""
    self._set(stage=stage)

  def doing(self, what: str) -> None:
    """The process turns to something else."""
    with self._lock:
      self._recent.clear()
      self._set(doing=what, doing_since=time.time())

  @contextlib.contextmanager
  def during(self, what: str) -> Iterator[None]:
    """The process does `what` in the `with` block, and afterwards what it did before; the block
    counts for no step.
    """
    before, recent, began = self._beat.doing, list(self._recent), time.time()
    self.doing(what)
    yield
    self.doing(before)
    with self._lock:
      spent = time.time() - began
      recent = [(step, at + spent) for step, at in recent]
      self._recent = deque([*recent, *self._recent], maxlen=_RECENT + 1)

  def _set(self, **changes) -> None:
    with self._lock:
      self._beat = dataclasses.replace(self._beat, **changes)

  def _note(self, step: int) -> None:
    """Notes that `step` steps are done now."""
    now = time.time()
    self._recent.append((step, now))
    (first, began), changes = self._recent[0], {}
    if step > first:
      changes['step_seconds'] = (now - began) / (step - first)
    if self._waits:
      changes['data_seconds'] = sum(self._waits) / len(self._waits)
    self._set(step=step, begun=max(step, self._beat.begun), step_time=now, **changes)

  def _advance(self) -> None:
    """Notes the steps that the devices have done by now."""
    with self._lock:
      last = None
      while self._running and self._running[0][1].is_ready():
        last = self._running.popleft()[0]
      if last is not None:
        self._note(last)

  def _keep_writing(self) -> None:
    written = time.monotonic()
    while not self._ended.wait(min(self._beat.every, _POLL_SECONDS)):
      self._advance()
      if time.monotonic() - written >= self._beat.every:
        self._write()
        written = time.monotonic()

  def _write(self) -> None:
    self._set(time=time.time())
    with self._reported():
      storage.atomic_write_json(self._file, dataclasses.asdict(self._beat))

  @contextlib.contextmanager
  def _reported(self) -> Iterator[None]:
    """Reports the first error of the storage, which must not end the job."""
    try:
      yield
    except Exception as error:  # storage layers have errors of their own
      if not self._warned:
        print(f'warning: {self._file} cannot be written ({error}).', file=sys.stderr)
      self._warned = True


def read(folder: Path) -> list[Beat]:
  """Returns the newest heartbeat of each process of the job in `folder`; [] = it wrote none."""
  beats = map(_read, _paths(folder / FOLDER))
  return sorted((beat for beat in beats if beat), key=lambda beat: beat.process)


def _paths(folder: Path) -> list[Path]:
  return [
    path
    for path in storage.children(folder)
    if path.suffix == '.json' and path.name.split('.')[0].isdecimal()
  ]


def _read(file: Path) -> Beat | None:
  """Returns a heartbeat; None if there is none, or it is one of another version."""
  try:
    return Beat(**json.loads(file.read_text('utf-8')))
  except (FileNotFoundError, ValueError, TypeError):
    return None


def _failure_of(beat: Beat) -> dict[str, Any] | None:
  """Returns the last failure of an earlier process; it failed too if it never said how it ended."""
  if beat.state != RUNNING:
    return beat.failure
  return {'time': beat.time, 'step': beat.step, 'error': SILENT}
