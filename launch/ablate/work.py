"""Tasks that several processes share through one folder, and that may be killed at any moment.

A process holds the lock of the task that it works on; the lock goes with the process. A finished
task leaves a note, and is never done again.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import json
from pathlib import Path
import time

from echox_jax import storage

_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
  """One task: `run` may be called again after it was killed; `needs` are names of tasks."""

  name: str
  run: Callable[[], None]
  needs: tuple[str, ...] = ()


def run_all(tasks: Sequence[Task], folder: Path, tell: Callable[[str], None] = print) -> None:
  """Does all tasks, together with other processes that do the same; returns when all are done.

  Args:
    tasks: in the order in which they are preferred.
    folder: of the locks and notes.
    tell: is told of each task that this process does.
  """
  folder.mkdir(parents=True, exist_ok=True)
  while left := [task for task in tasks if not is_done(folder, task.name)]:
    ready = (task for task in left if all(is_done(folder, name) for name in task.needs))
    if not any(
      _try(task, folder, f'{len(tasks) - len(left) + 1}/{len(tasks)}', tell) for task in ready
    ):
      time.sleep(_POLL_SECONDS)  # others work on what is left


def is_done(folder: Path, name: str) -> bool:
  """Whether the task has been finished, by whatever process."""
  return _note(folder, name).exists()


def seconds(folder: Path) -> dict[str, float]:
  """How long each finished task took."""
  return {note.stem: json.loads(note.read_text())['seconds'] for note in folder.glob('*.json')}


def _try(task: Task, folder: Path, place: str, tell: Callable[[str], None]) -> bool:
  """Does a task unless another process does it; returns whether it was done here."""
  with _claim(folder / f'{task.name}.lock') as mine:
    if not mine or is_done(folder, task.name):
      return False
    tell(f'[{place}] {task.name}')
    began = time.time()
    task.run()
    storage.atomic_write_json(_note(folder, task.name), {'seconds': round(time.time() - began, 1)})
    return True


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[bool]:
  """Yields whether this process holds the lock."""
  with open(path, 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    yield True


def _note(folder: Path, name: str) -> Path:
  return folder / f'{name}.json'
