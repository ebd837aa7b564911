"""Work that several processes share through one folder and that may be killed at any moment.

Every output is one file; smaller files that belong to it may lie beside it. Its note records its
inputs, its checksum and what was measured. The order of writing shows whether an output is
finished: write the whole output in a separate folder, remove the old output, write the note, move
the files into place, the output last (in a bucket, each is uploaded as one object). So a file with
a note of the requested inputs is finished and is never written again. Anything else that a killed
process left is made again.

Process p of n makes the outputs p, p + n, ... of a step, then waits until the others have made
theirs. It sees them in the shared folder. It gives up when the next output has not come for
`wait_seconds`. The results of a step do not depend on n.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
import tempfile
import time
from typing import Any

from data_pipeline import listing
from data_pipeline.fingerprints import checksum
from echox_jax import storage
from echox_jax.errors import EchoXError
from echox_jax.parallel import heartbeats
from echox_jax.storage import Path
from echox_jax.training import layout

SCRATCH = layout.PARTS  # notes, and files that are needed again only if inputs change
WAIT_SECONDS = 3600.0  # for the next output of another process
_POLL_SECONDS = 0.2

Outputs = dict[Path, str]  # path -> fingerprint of all its inputs
# inputs, sha256, bytes, seconds, measured; beside: suffix -> sha256, bytes of the files beside it
Note = dict[str, Any]
Make = Callable[[int, Path], Mapping[str, Any] | None]
# makes all unfinished outputs of a step, somewhere: see `Process`
Engine = Callable[['SharedWork', Outputs, Make], None]


def ranges(count: int, size: int) -> list[range]:
  """0 .. count - 1 in consecutive parts of `size`."""
  return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclasses.dataclass(frozen=True)
class Process:
  """One of the processes that share the work.

  Attributes:
    index, count: its number, and the number of processes.
    meet: a barrier: returns when all processes have called it with the same name.
    engine: another way of making outputs that any process may make; None = in these processes.
  """

  index: int = 0
  count: int = 1
  meet: Callable[[str], None] = lambda name: None
  engine: Engine | None = None


class SharedWork:
  """The share of one process in the work in `folder`.

  Attributes:
    folder: a folder that all processes see.
    scratch: its folder of notes and of files that are not wanted in the end.
    index, count: number of this process, and of processes.
    beat: tells which step this process is in; by default it writes nothing.
    ran: steps in which this process had something to do.
    seconds: time of the outputs of each step, summed over all processes.
  """

  def __init__(
    self,
    folder: Path,
    process: Process = Process(),
    *,
    name: str = '',
    beat: heartbeats.Heartbeat | None = None,
    wait_seconds: float = WAIT_SECONDS,
  ):
    """`name`: of the job, where several write into the folder; `wait_seconds`: see above."""
    self.beat = beat or heartbeats.Heartbeat(None)
    self.folder, self.index, self.count, self.meet = (
      folder,
      process.index,
      process.count,
      process.meet,
    )
    self.scratch, self._wait_seconds = folder / SCRATCH / name, wait_seconds
    self._engine = process.engine
    self.ran: list[str] = []
    self.seconds: dict[str, float] = {}
    self._notes = self.scratch / layout.NOTES
    # left by processes that were killed
    for path in () if storage.is_remote(folder) else self.scratch.glob('writing-*'):
      left_by = int(path.name.split('-')[1])
      if left_by == self.index or (self.index == 0 and left_by >= self.count):
        shutil.rmtree(path, ignore_errors=True)

  def run(self, step: str, outputs: Outputs, make: Make, *, here: bool = False) -> None:
    """Makes the unfinished outputs of this process; returns when all processes have finished
    theirs.

    Args:
      step: name of the step.
      outputs: path -> fingerprint of all its inputs.
      make: (number of the output, where to write it) -> measurements, JSON-ready. Files that it
        writes beside the output, under its name and a suffix, come into place with it.
      here: whether only these processes can make them: no engine is asked.

    Raises:
      EchoXError: another process does not make its share in time.
    """
    self.beat.at(step)
    todo = self.unfinished(outputs)
    if self._engine and not here:
      with self.beat.during(heartbeats.WAITING):
        self._engine(self, outputs, make)
    else:
      for number in todo:
        self.make(number, outputs, make)
    if todo and step not in self.ran:
      self.ran.append(step)
    with self.beat.during(heartbeats.WAITING):
      self._await(step, outputs)
    self.seconds[step] = round(
      self.seconds.get(step, 0) + sum(note['seconds'] for note in self.notes(outputs)), 1
    )

  def unfinished(self, outputs: Outputs) -> list[int]:
    """Numbers of the outputs that this process still has to make."""
    own = list(enumerate(outputs.items()))[self.index :: self.count]
    finished = listing.each(lambda output: self.finished(*output[1]), own)
    return [i for (i, _), done in zip(own, finished) if not done]

  def all_finished(self, outputs: Outputs) -> bool:
    """Whether all outputs, of all processes, are finished."""
    return all(listing.each(lambda output: self.finished(*output), outputs.items()))

  def finished(self, path: Path, inputs: str) -> bool:
    """Whether `path` was made from `inputs`."""
    note = self.note(path)
    try:  # the note first: if its inputs match, the output can only be the new one
      return note.get('inputs') == inputs and all(
        storage.size(path.with_name(path.name + suffix)) == size
        for suffix, size in [
          ('', note['bytes']),
          *((suffix, other['bytes']) for suffix, other in note['beside'].items()),
        ]
      )
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
    return listing.each(self.note, paths)

  def measured(self, paths: Iterable[Path], name: str) -> float:
    """The sum of one measurement over outputs."""
    return sum(note['measured'].get(name, 0) for note in self.notes(paths))

  def forget(self, path: Path) -> None:
    """Makes an output count as unfinished."""
    self._note_path(path).unlink(missing_ok=True)

  def keep_only(self, outputs: Collection[Path]) -> None:
    """Removes everything else in the folders of `outputs`, but for the files that belong to them,
    and the notes of what is removed; only the first process does.
    """
    kept = {*outputs, *map(self._note_path, outputs)}
    for folder in {path.parent for path in kept} if self.index == 0 else ():
      for path in storage.children(folder):
        if path not in kept and path.with_suffix('') not in kept:
          path.unlink()

  def remove(self, folder: Path) -> None:
    """Removes a folder of outputs and their notes; only the first process does."""
    if self.index == 0:
      storage.remove_tree(folder)
      storage.remove_tree(self._notes / folder.relative_to(self.folder))

  def make(self, number: int, outputs: Outputs, make: Make) -> None:
    """Makes one output; arguments as for `run`."""
    path, inputs = next(itertools.islice(outputs.items(), number, None))
    started = time.monotonic()
    storage.make_folder(path.parent)
    with self._writing() as folder:
      beside = folder / path.name
      measured = make(number, beside)
      others = sorted(other for other in folder.iterdir() if other != beside)
      path.unlink(missing_ok=True)
      storage.atomic_write_json(
        self._note_path(path),
        {
          'inputs': inputs,
          **_content(beside),
          'beside': {other.name.removeprefix(path.name): _content(other) for other in others},
          'seconds': round(time.monotonic() - started, 2),
          'measured': dict(measured or {}),
        },
      )
      for file in (*others, beside):  # the output last: with it, all is there
        storage.put_in_place(file, path.with_name(file.name))

  @contextlib.contextmanager
  def _writing(self) -> Iterator[pathlib.Path]:
    """Yields a local folder for an output that is not finished. For outputs on local disk it is on
    the same disk.
    """
    if storage.is_remote(self.folder):
      with tempfile.TemporaryDirectory(prefix='echox-jax-') as folder:
        yield pathlib.Path(folder)
      return
    folder = storage.make_folder(self.scratch / f'writing-{self.index}')
    try:
      yield folder
    finally:
      shutil.rmtree(folder)

  def _await(self, step: str, outputs: Outputs) -> None:
    """Returns when all outputs are finished. If a process dies meanwhile, `jax.distributed` ends
    the others.
    """
    since, waiting = time.monotonic(), list(enumerate(outputs.items()))
    while waiting:
      number, output = waiting[0]
      if self.finished(*output):
        there = listing.each(lambda numbered: self.finished(*numbered[1]), waiting)
        waiting = waiting[sum(1 for _ in itertools.takewhile(bool, there)) :]
        since = time.monotonic()
      elif time.monotonic() - since > self._wait_seconds:
        raise EchoXError(
          f'{output[0]} (step {step!r}) did not come for {self._wait_seconds:g} s, but process '
          f'{number % self.count} of {self.count} should have made it: see what that process says, '
          'and start the command again on all hosts (finished parts are kept), or allow more time '
          'with wait_seconds.'
        )
      else:
        time.sleep(_POLL_SECONDS)

  def _note_path(self, path: Path) -> Path:
    return self._notes / path.relative_to(self.folder).with_name(f'{path.name}.json')


def _content(path: pathlib.Path) -> dict[str, Any]:
  return {'sha256': checksum(path), 'bytes': path.stat().st_size}
