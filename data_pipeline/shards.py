"""Work that several processes share through one folder and that may be killed at any moment.

Every output is one file. Its note records its inputs, its checksum and what was measured. The order
of writing shows whether an output is finished: write the whole output in a separate folder, remove
the old output, write the note, move the output into place (in a bucket: upload it as one object).
So a file with a note of the requested inputs is finished and is never written again. Anything else
that a killed process left is made again.

Process p of n makes the outputs p, p + n, ... of a step, then waits until the others have made
theirs. It sees them in the shared folder, so a wait may be long. The results of a step do not
depend on n.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
from typing import Any

from data_pipeline.fingerprints import checksum
from echox_jax import storage
from echox_jax.storage import Path

SCRATCH = 'parts'  # folder of notes and of files that are needed again only if inputs change
_POLL_SECONDS = 0.2

Outputs = dict[Path, str]  # path -> fingerprint of all its inputs
Note = dict[str, Any]  # inputs, sha256, bytes, seconds, measured
Make = Callable[[int, Path], Mapping[str, Any] | None]


def ranges(count: int, size: int) -> list[range]:
  """0 .. count - 1 in consecutive parts of `size`."""
  return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclasses.dataclass(frozen=True)
class Process:
  """One of the processes that share the work.

  Attributes:
    index, count: its number, and the number of processes.
    meet: a barrier: returns when all processes have called it with the same name.
  """

  index: int = 0
  count: int = 1
  meet: Callable[[str], None] = lambda name: None


class SharedWork:
  """The share of one process in the work in `folder`.

  Attributes:
    folder: a folder that all processes see.
    index, count: number of this process, and of processes.
    ran: steps in which this process had something to do.
    seconds: time of the outputs of each step, summed over all processes.
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
    self._notes = folder / SCRATCH / 'notes'
    # left by processes that were killed
    for path in () if storage.is_remote(folder) else (folder / SCRATCH).glob('writing-*'):
      left_by = int(path.name.split('-')[1])
      if left_by == self.index or (self.index == 0 and left_by >= self.count):
        shutil.rmtree(path, ignore_errors=True)

  def run(self, step: str, outputs: Outputs, make: Make) -> None:
    """Makes the unfinished outputs of this process; returns when all processes have finished
    theirs.

    Args:
      step: name of the step.
      outputs: path -> fingerprint of all its inputs.
      make: (number of the output, where to write it) -> measurements, JSON-ready.
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
    """Numbers of the outputs that this process still has to make."""
    return [
      i
      for i, (path, inputs) in enumerate(outputs.items())
      if i % self.count == self.index and not self.finished(path, inputs)
    ]

  def finished(self, path: Path, inputs: str) -> bool:
    """Whether `path` was made from `inputs`."""
    note = self.note(path)
    try:  # the note first: if its inputs match, the output can only be the new one
      return note.get('inputs') == inputs and note['bytes'] == storage.size(path)
    except FileNotFoundError:
      return False

  def note(self, path: Path) -> Note:
    """The note of an output; empty if it has none."""
    try:
      return json.loads(self._note_path(path).read_text('utf-8'))
    except (FileNotFoundError, ValueError):
      return {}

  def notes(self, paths: Iterable[Path]) -> Iterator[Note]:
    """The notes of finished outputs."""
    return map(self.note, paths)

  def measured(self, paths: Iterable[Path], name: str) -> float:
    """The sum of one measurement over outputs."""
    return sum(note['measured'].get(name, 0) for note in self.notes(paths))

  def keep_only(self, outputs: Collection[Path]) -> None:
    """Removes everything else in the folders of `outputs`; only the first process does."""
    for folder in {path.parent for path in outputs} if self.index == 0 else ():
      for path in storage.children(folder):
        if path not in outputs:
          path.unlink()

  def remove(self, folder: Path) -> None:
    """Removes a folder of outputs and their notes; only the first process does."""
    if self.index == 0:
      storage.remove_tree(folder)
      storage.remove_tree(self._notes / folder.relative_to(self.folder))

  def _make(
    self, path: Path, inputs: str, make: Callable[[Path], Mapping[str, Any] | None]
  ) -> None:
    started = time.monotonic()
    storage.make_folder(path.parent)
    with self._writing() as folder:
      beside = folder / path.name
      measured = make(beside)
      path.unlink(missing_ok=True)
      storage.atomic_write_json(
        self._note_path(path),
        {
          'inputs': inputs,
          'sha256': checksum(beside),
          'bytes': beside.stat().st_size,
          'seconds': round(time.monotonic() - started, 2),
          'measured': dict(measured or {}),
        },
      )
      storage.put_in_place(beside, path)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[pathlib.Path]:
    """Yields a local folder for an output that is not finished. For outputs on local disk it is on
    the same disk.
    """
    if storage.is_remote(self.folder):
      with tempfile.TemporaryDirectory(prefix='echox-jax-') as folder:
        yield pathlib.Path(folder)
      return
    folder = storage.make_folder(self.folder / SCRATCH / f'writing-{self.index}')
    yield folder
    folder.rmdir()

  def _await(self, outputs: Outputs) -> None:
    """Returns when all outputs are finished. If a process dies meanwhile, `jax.distributed` ends
    the others.
    """
    missing = dict(outputs)
    while missing := {
      path: inputs for path, inputs in missing.items() if not self.finished(path, inputs)
    }:
      time.sleep(_POLL_SECONDS)

  def _note_path(self, path: Path) -> Path:
    return self._notes / path.relative_to(self.folder).with_name(f'{path.name}.json')
