"""Work that several processes share through one folder and that may be killed at any moment.

Every output is one file with a note of what it was made from, its checksum and what was measured.
The order in which they are written makes a finished output certain: the whole output in a folder of
its own; the old output is removed; the note; the output is renamed into its place. So a file that
is there, with a note of the inputs that are asked for, is finished, and is never written again;
whatever else a killed process left is made anew.

Process p of n makes the outputs p, p + n, ... of a step and then waits until those of the others
are there, which it sees in the folder that all of them share: a wait may be long. What a step gives
does not depend on n.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import dataclasses
import json
import os
from pathlib import Path
import shutil
import time
from typing import Any

from data_pipeline.fingerprints import checksum
from echox_jax import files

SCRATCH = 'parts'  # folder of notes and of whatever is needed again only when inputs change
_POLL_SECONDS = 0.2

Outputs = dict[Path, str]  # path -> fingerprint of all that it is made from
Note = dict[str, Any]  # inputs, sha256, bytes, seconds, measured
Make = Callable[[int, Path], Mapping[str, Any] | None]


def ranges(count: int, size: int) -> list[range]:
  """0 .. count - 1 in consecutive parts of `size`."""
  return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclasses.dataclass(frozen=True)
class Process:
  """One of those that share the work.

  Attributes:
    index, count: its number, and how many there are.
    meet: returns when all have called it with the same name.
  """

  index: int = 0
  count: int = 1
  meet: Callable[[str], None] = lambda name: None


class SharedWork:
  """What one process makes in `folder`.

  Attributes:
    folder: that all processes see.
    index, count: number of this process, and of all.
    ran: steps that this process had to do something for.
    seconds: that the outputs of each step took, of all processes together.
  """

  def __init__(self, folder: Path, process: Process = Process()):
    self.folder, self.index, self.count, self.meet = (
      folder,
      process.index,
      process.count,
      process.meet,
    )
    self.ran: list[str] = []
    self.seconds: dict[str, float] = {}
    self._notes, self._beside = (
      folder / SCRATCH / 'notes',
      folder / SCRATCH / f'writing-{self.index}',
    )
    for path in (folder / SCRATCH).glob('writing-*'):  # of processes that were killed
      left_by = int(path.name.split('-')[1])
      if left_by == self.index or (self.index == 0 and left_by >= self.count):
        shutil.rmtree(path, ignore_errors=True)

  def run(self, step: str, outputs: Outputs, make: Make) -> None:
    """Makes the outputs of this process that are not finished; returns when those of all processes
    are.

    Args:
      step: its name.
      outputs: path -> fingerprint of all that it is made from.
      make: (number of the output, where to write it) -> what was measured, JSON-ready.
    """
    for number, (path, inputs) in list(enumerate(outputs.items()))[self.index :: self.count]:
      if not self.finished(path, inputs):
        self._make(path, inputs, lambda beside, number=number: make(number, beside))
        if step not in self.ran:
          self.ran.append(step)
    self._await(outputs)
    self.seconds[step] = round(
      self.seconds.get(step, 0) + sum(note['seconds'] for note in self.notes(outputs)), 1
    )

  def unfinished(self, outputs: Outputs) -> list[int]:
    """Numbers of the outputs of this process that are still to be made."""
    return [
      i
      for i, (path, inputs) in enumerate(outputs.items())
      if i % self.count == self.index and not self.finished(path, inputs)
    ]

  def finished(self, path: Path, inputs: str) -> bool:
    """Whether `path` was made from `inputs`."""
    note = self.note(path)
    try:  # the note first: once it says so, the output can only be the new one
      return note.get('inputs') == inputs and note['bytes'] == path.stat().st_size
    except FileNotFoundError:
      return False

  def note(self, path: Path) -> Note:
    """The note of an output; empty where there is none."""
    try:
      return json.loads(self._note_path(path).read_text('utf-8'))
    except (FileNotFoundError, ValueError):
      return {}

  def notes(self, paths: Iterable[Path]) -> Iterator[Note]:
    """The notes of finished outputs."""
    return map(self.note, paths)

  def measured(self, paths: Iterable[Path], name: str) -> float:
    """The sum of one of the things that were measured."""
    return sum(note['measured'].get(name, 0) for note in self.notes(paths))

  def keep_only(self, outputs: Collection[Path]) -> None:
    """Removes what else is in the folders of `outputs`; the first process does it."""
    for folder in {path.parent for path in outputs} if self.index == 0 else ():
      for path in folder.iterdir():
        if path not in outputs:
          path.unlink()

  def remove(self, folder: Path) -> None:
    """Removes a folder of outputs, and their notes; the first process does it."""
    if self.index == 0:
      shutil.rmtree(folder, ignore_errors=True)
      shutil.rmtree(self._notes / folder.relative_to(self.folder), ignore_errors=True)

  def _make(
    self, path: Path, inputs: str, make: Callable[[Path], Mapping[str, Any] | None]
  ) -> None:
    started = time.monotonic()
    self._beside.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = self._beside / path.name
    measured = make(beside)
    with open(beside, 'rb+') as f:
      os.fsync(f.fileno())
    path.unlink(missing_ok=True)
    files.atomic_write_json(
      self._note_path(path),
      {
        'inputs': inputs,
        'sha256': checksum(beside),
        'bytes': beside.stat().st_size,
        'seconds': round(time.monotonic() - started, 2),
        'measured': dict(measured or {}),
      },
    )
    os.replace(beside, path)
    self._beside.rmdir()

  def _await(self, outputs: Outputs) -> None:
    """Returns when all outputs are finished. A process that dies meanwhile ends the others
    (`jax.distributed` sees to that).
    """
    missing = dict(outputs)
    while missing := {
      path: inputs for path, inputs in missing.items() if not self.finished(path, inputs)
    }:
      time.sleep(_POLL_SECONDS)

  def _note_path(self, path: Path) -> Path:
    return self._notes / path.relative_to(self.folder).with_name(f'{path.name}.json')
