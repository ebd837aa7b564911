"""The metrics of a run for TensorBoard (`train.tensorboard`): event files, written by tensorboardX
(extra `tensorboard`).

An event file holds what `metrics.jsonl` holds, as scalars `train/NAME` and `eval/NAME` over steps.
When a run goes on, it is written anew from the kept records: steps that are made again are not
there twice, and a run that had no event file so far gets a whole one.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from echox_jax import errors

FOLDER = 'tensorboard'
_KINDS = ('train', 'eval')
_NO_SCALARS = ('step', 'time')
_FLUSH_SECONDS = 10


class EventFiles:
  """Writes records of a run into an event file.

  Args:
    folder: for event files; those that are there are replaced.
    records: of the run so far, in the form of `metrics.jsonl`.

  Raises:
    MissingExtraError: tensorboardX is not installed.
  """

  def __init__(self, folder: Path, records: Iterable[Mapping[str, Any]] = ()):
    check_installed()
    from tensorboardX import SummaryWriter

    for old in Path(folder).glob('events.out.tfevents.*'):
      old.unlink()
    # A TensorBoard that is looking at the folder just now forgets what it has read from this step
    # on: all.
    self._writer = SummaryWriter(str(folder), purge_step=0, flush_secs=_FLUSH_SECONDS)
    for record in records:
      self.add(record)

  def add(self, record: Mapping[str, Any]) -> None:
    """Adds the numbers of a record at its step and time; compilations are not scalars."""
    if record['kind'] not in _KINDS:
      return
    for name, value in record.items():
      if isinstance(value, (int, float)) and name not in _NO_SCALARS:
        self._writer.add_scalar(f'{record["kind"]}/{name}', value, record['step'], record['time'])

  def close(self) -> None:
    """Writes what is waiting."""
    self._writer.close()


def check_installed() -> None:
  """Raises MissingExtraError where tensorboardX is not installed: ask before long work."""
  errors.require(
    'tensorboardX', 'tensorboard', 'Writing TensorBoard event files (train.tensorboard)'
  )
