"""Jobs that are killed (SIGKILL) at random moments and started again, on local disk or in a bucket.

A job is a program that makes the file `begun` of its options when its imports are behind it
(`announce`). Moments are drawn between there and the end of a run that nobody stops.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import itertools
import pathlib
import random
import signal
import subprocess
import tempfile
import time
from typing import Any

from data_pipeline.shards import SCRATCH
from echox_jax import storage
from echox_jax.storage import Path

_TWO = 0.3  # how often two processes go on where one was, where a job can have several
_LIMIT = 600  # seconds

# (working folder, number of processes, the file that tells that the first one has begun)
Start = Callable[[Path, int, pathlib.Path], list[subprocess.Popen]]
Stamps = dict[Path, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Job:
  """A job that is killed again and again.

  Attributes:
    start: starts the processes of a run in a folder.
    finished: the outputs in a folder that a later run must leave as they are.
    several: whether it can run in several processes.
  """

  start: Start
  finished: Callable[[Path], Stamps] = lambda folder: {}
  several: bool = False


def announce(options: dict[str, Any]) -> None:
  """Tells, in the job, that it begins. The temporary files that it leaves lie beside `begun`."""
  begun = pathlib.Path(options['begun'])
  tempfile.tempdir = str(begun.parent)
  begun.touch()


def finish(processes: list[subprocess.Popen]) -> list[str]:
  """Waits for processes that must end well; what each one printed."""
  printed = []
  try:
    for process in processes:
      out, err = process.communicate(timeout=_LIMIT)
      assert process.returncode == 0, out[-2000:] + err[-4000:]
      printed.append(out)
  finally:
    for process in processes:
      process.kill()
  return printed


def whole_run(job: Job, folder: Path, begun: pathlib.Path) -> tuple[float, str]:
  """Runs the job to its end; seconds that it took once it had begun, and what it printed."""
  (process,) = job.start(folder, 1, begun)
  _await(begun, process)
  began = time.monotonic()
  (printed,) = finish([process])
  return time.monotonic() - began, printed


def killed_runs(
  job: Job, folders: Iterable[Path], kills: int, seconds: float, place: pathlib.Path
) -> Iterator[tuple[Path, list[str]]]:
  """Kills the job `kills` times, at moments within `seconds`. A run that ends before its moment
  finishes its folder, and the next one begins in another; in the last folder nobody stops the last
  run.

  Args:
    job: the job.
    folders: fresh working folders.
    kills: number of kills; a run is killed in all its processes.
    seconds: of an uninterrupted run.
    place: a local folder for notes.

  Yields:
    each finished folder, and what the first process of each of its runs printed.
  """
  chance, killed, numbers = random.Random(0), 0, itertools.count()
  for _, folder in zip(range(4 * kills), folders):
    printed, done = [], False
    while not done:
      before = job.finished(folder)
      count = 2 if job.several and chance.random() < _TWO else 1
      begun, moment = place / f'begun-{next(numbers)}', chance.uniform(0, seconds)
      processes = job.start(folder, count, begun)
      if killed < kills:
        _await(begun, processes[0])
        _wait(processes, moment)
      done = killed == kills or processes[0].poll() is not None
      if done:
        printed.append(finish(processes)[0])
      else:
        printed.append(_kill(processes))
        killed += 1
      after = job.finished(folder)
      assert all(after[path] == stamp for path, stamp in before.items() if path in after)
    yield folder, printed
    if killed == kills:
      return
  raise AssertionError(f'the job ended before {kills - killed} of {kills} moments: make it longer')


def finished_outputs(folder: Path, name: str = '') -> Stamps:
  """Finished outputs of the work that processes share in a folder (`SharedWork`)."""
  notes, found = folder / SCRATCH / name / 'notes', {}
  for note in storage.tree(notes, '[!.]*.json'):
    path = folder / note.relative_to(notes).with_suffix('')
    try:
      found[path] = storage.stamp(path)
    except FileNotFoundError:
      continue  # not yet, or cleared away
  return found


def _await(begun: pathlib.Path, process: subprocess.Popen) -> None:
  while not begun.exists():
    if process.poll() is not None:
      finish([process])
    time.sleep(0.005)


def _wait(processes: list[subprocess.Popen], seconds: float) -> None:
  """Returns at that moment, or when the first process has ended."""
  try:
    processes[0].wait(timeout=seconds)
  except subprocess.TimeoutExpired:
    return


def _kill(processes: list[subprocess.Popen]) -> str:
  """What the first process had printed."""
  for process in processes:
    process.send_signal(signal.SIGKILL)
  printed = [process.communicate()[0] for process in processes]
  return printed[0]
