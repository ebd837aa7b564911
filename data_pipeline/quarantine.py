"""Unusable items: why they are unusable, where they came from, and how many a job tolerates.

`DATA/quarantine.jsonl` holds one line for each item that was left out:

  {"source": "mine.jsonl", "id": "0007", "set": "questions", "file": "q/0007.wav", "reason":
  "silent", "detail": "..."}

`file` is the recording, or the line of the manifest (`mine.jsonl:7`). `set` is empty if all sets
leave the item out.
"""

import collections
from collections.abc import Iterable
import dataclasses
import json
import os

from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path

FILE = 'quarantine.jsonl'
REASONS = {
  'not UTF-8': 'text that is not UTF-8',
  'not JSON': 'a line that is not one JSON object',
  'wrong fields': 'unknown, missing or wrongly typed fields',
  'duplicate id': 'an id that an earlier item already has',
  'no text': 'speech without its text',
  'no audio': 'no recording at all',
  'missing file': 'a recording that does not exist',
  'empty file': 'a recording of 0 bytes',
  'no voice': 'a line for a packaged voice that is not installed',
  'not spoken': 'a line that its voice cannot speak',
  'damaged': 'a recording that cannot be read',
  'truncated': 'a recording that ends before its header says',
  'wrong rate': 'a sample rate that is not used for speech',
  'not finite': 'samples that are NaN or infinite',
  'over-long': 'a recording longer than the limit',
  'too short': 'a recording too short to encode',
  'silent': 'a recording without audible sound',
}
_NAMED = 3  # entries that an error message names


class Unusable(Exception):
  """Why one item cannot be used: a key of `REASONS`, and a clause with the details."""

  def __init__(self, reason: str, detail: str):
    super().__init__(reason, detail)
    self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Entry:
  """One item that was left out; fields as in the file."""

  id: str
  file: str
  reason: str
  detail: str
  set: str = ''


class Quarantine:
  """Counts the items left out of one source, and stops the job when there are too many.

  Args:
    source: the source, as the user named it.
    limit: the share of all items that may be left out, 0 to 1.
  """

  def __init__(self, source: str, limit: float):
    self._source, self._limit, self._total = source, limit, None
    self.entries: list[Entry] = []

  def expect(self, total: int) -> None:
    """Sets the total number of items, including those already left out. From here on the limit is
    enforced.
    """
    self._total = total
    self._watch()

  def add(self, entry: Entry) -> None:
    """Leaves one item out.

    Raises:
      DataError: too many have been left out.
    """
    self.entries.append(entry)
    self._watch()

  def counts(self) -> dict[str, int]:
    """How many were left out, by reason."""
    return dict(collections.Counter(entry.reason for entry in self.entries))

  def write(self, path: Path) -> None:
    """Writes the entries to `path`, replacing earlier ones of the same source. Without any entries
    there is no file.
    """
    others = (
      [line for line in read(path) if line['source'] != self._source]
      if storage.is_file(path)
      else []
    )
    lines = [
      *others,
      *({'source': self._source, **dataclasses.asdict(entry)} for entry in self.entries),
    ]
    if lines:
      storage.atomic_write_text(path, ''.join(json.dumps(line) + '\n' for line in lines))
    else:
      path.unlink(missing_ok=True)

  def _watch(self) -> None:
    if self._total is None or len(self.entries) <= self._limit * self._total:
      return
    counts = ', '.join(f'{count} {reason}' for reason, count in self.counts().items())
    named = '; '.join(f'{entry.file} {entry.detail}' for entry in self.entries[:_NAMED])
    more = '; ...' if len(self.entries) > _NAMED else ''
    raise DataError(
      f'{self._source}: {len(self.entries)} of {self._total} items cannot be used ({counts}), '
      f'more than the share of {self._limit:g} '
      f'that --max_quarantined allows ({named}{more}): correct them or raise it.'
    )


def read(path: str | os.PathLike[str]) -> list[dict[str, str]]:
  """The lines of a quarantine file.

  Raises:
    DataError: the file is damaged.
  """
  try:
    return [json.loads(line) for line in storage.path(path).read_text('utf-8').splitlines()]
  except ValueError as error:
    raise DataError(
      f'{path} is damaged ({error}): delete it and read the recordings in again.'
    ) from error


def summary(lines: Iterable[dict[str, str]]) -> dict[str, int]:
  """The number of lines of a quarantine file by reason."""
  return dict(collections.Counter(line['reason'] for line in lines))
