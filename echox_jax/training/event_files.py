"""Writes the metrics of a run as TensorBoard event files (`train.tensorboard`), with tensorboardX
(extra `tensorboard`).

An event file has the content of `metrics.jsonl` as scalars `train/NAME` and `eval/NAME` over steps.
A resumed run rewrites it from the kept records: repeated steps do not appear twice, and a run that
had no event file gets a complete one.
"""

from collections.abc import Iterable, Mapping
import pathlib
import tempfile
from typing import Any

from echox_jax import errors, storage
from echox_jax.storage import Path

FOLDER = 'tensorboard'
_KINDS = ('train', 'eval')
_NO_SCALARS = ('step', 'time')
_FLUSH_SECONDS = 10


class EventFiles:
  """Writes records of a run into an event file.

  Args:
    folder: folder for event files; existing event files are replaced.
    records: records of the run so far, in the format of `metrics.jsonl`.

  Raises:
    MissingExtraError: tensorboardX is not installed.
  """

  def __init__(self, folder: Path, records: Iterable[Mapping[str, Any]] = ()):
    check_installed()
    from tensorboardX import SummaryWriter

    folder = storage.path(folder)
    for old in storage.children(folder):
      if old.name.startswith('events.out.tfevents.'):
        old.unlink()
    # A bucket gets a copy of what is written here.
    self._here = tempfile.TemporaryDirectory() if storage.is_remote(folder) else None
    place = self._here.name if self._here else str(folder)
    # A running TensorBoard drops what it has read from `purge_step` on; 0 drops everything.
    self._writer = SummaryWriter(place, purge_step=0, flush_secs=_FLUSH_SECONDS)
    self._copy = None
    if self._here:
      (file,) = pathlib.Path(place).iterdir()
      self._copy = storage.Rewritten(folder / file.name, file.read_bytes)
    for record in records:
      self.add(record)

  def add(self, record: Mapping[str, Any]) -> None:
    """Adds the numbers of a record at its step and time; compilations are not scalars."""
    if record['kind'] not in _KINDS:
      return
    for name, value in record.items():
      if isinstance(value, (int, float)) and name not in _NO_SCALARS:
        self._writer.add_scalar(f'{record["kind"]}/{name}', value, record['step'], record['time'])
    if self._copy:
      self._copy.changed()

  def close(self) -> None:
    """Flushes pending records and closes the file."""
    self._writer.close()
    if self._copy:
      self._copy.close()
      self._here.cleanup()


def check_installed() -> None:
  """Raises MissingExtraError if tensorboardX is not installed; call it before long work starts."""
  errors.require(
    'tensorboardX', 'tensorboard', 'Writing TensorBoard event files (train.tensorboard)'
  )
