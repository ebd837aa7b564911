"""Tasks that several processes share through one folder, and that may be killed at any moment.

A process holds the lock of the task that it works on; the lock goes with the process. A finished
task leaves a note, and is never done again.
"""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import json
from pathlib import Path
import time

import numpy as np

from echox_jax import storage

_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
  """One task.

  Attributes:
    name: unique.
    run: does it; may be called again after it was killed.
    needs: names of the tasks that come before it.
    kind: tasks of one kind take about the same time; '' = it is the only one of its kind.
  """

  name: str
  run: Callable[[], None]
  needs: tuple[str, ...] = ()
  kind: str = ''


def with_needs(tasks: Sequence[Task], names: Iterable[str]) -> list[Task]:
  """The tasks with these names and all that they need, in the order of `tasks`."""
  by_name, wanted, todo = {task.name: task for task in tasks}, set(), list(names)
  while todo:
    name = todo.pop()
    if name not in wanted:
      wanted.add(name)
      todo += by_name[name].needs
  return [task for task in tasks if task.name in wanted]


def run_all(tasks: Sequence[Task], folder: Path, tell: Callable[[str], None] = print) -> None:
  """Does all tasks, together with other processes that do the same; returns when all are done.

  Args:
    tasks: in the order in which they are preferred.
    folder: of the locks and notes.
    tell: is told of each task that this process does, before and after.
  """
  folder.mkdir(parents=True, exist_ok=True)
  while left := [task for task in tasks if not is_done(folder, task.name)]:
    ready = (task for task in left if all(is_done(folder, name) for name in task.needs))
    place = f'[{len(tasks) - len(left) + 1}/{len(tasks)}]'
    for task in ready:
      if _try(task, folder, place, tell):
        tell(progress(tasks, folder))
        break
    else:
      time.sleep(_POLL_SECONDS)  # others work on what is left


def is_done(folder: Path, name: str) -> bool:
  """Whether the task has been finished, by whatever process."""
  return _note(folder, name).exists()


def seconds(folder: Path) -> dict[str, float]:
  """How long each finished task took."""
  return {note.stem: json.loads(note.read_text())['seconds'] for note in folder.glob('*.json')}


def progress(tasks: Sequence[Task], folder: Path) -> str:
  """A line on the minutes of work that the finished tasks took, and on those that the others will
  take, by the mean of the finished tasks of their kinds.
  """
  took, of_kind = seconds(folder), collections.defaultdict(list)
  for task in tasks:
    if task.name in took:
      of_kind[task.kind or task.name].append(took[task.name])
  left = [task for task in tasks if task.name not in took]
  timed = [np.mean(of_kind[task.kind]) for task in left if task.kind in of_kind]
  unknown = [task.name for task in left if task.kind not in of_kind]
  so_far = sum(sum(own) for own in of_kind.values())
  line = f'  {so_far / 60:.1f} minutes of work so far, about {sum(timed) / 60:.0f} to come'
  if unknown:
    line += f', and {len(unknown)} tasks of kinds that have not been timed yet, as {unknown[0]}'
  return line


def _try(task: Task, folder: Path, place: str, tell: Callable[[str], None]) -> bool:
  """Does a task unless another process does it; returns whether it was done here."""
  with storage.claimed(folder / f'{task.name}.lock') as mine:
    if not mine or is_done(folder, task.name):
      return False
    tell(f'{place} {task.name}')
    began = time.time()
    task.run()
    storage.atomic_write_json(_note(folder, task.name), {'seconds': round(time.time() - began, 1)})
    return True


def _note(folder: Path, name: str) -> Path:
  return folder / f'{name}.json'
