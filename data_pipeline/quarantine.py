"""What cannot be used: why, where it came from, and how much of it a job puts up with.

`DATA/quarantine.jsonl` holds one line for each thing that was left out:

  {"source": "mine.jsonl", "id": "0007", "set": "questions", "file": "q/0007.wav", "reason":
  "silent", "detail": "..."}

`file` is the recording, or the line of the manifest (`mine.jsonl:7`); `set` is empty where the
thing was left out of all sets.
"""

import collections
from collections.abc import Iterable
import dataclasses
import json
import os
from pathlib import Path

from echox_jax import files
from echox_jax.errors import DataError

FILE = 'quarantine.jsonl'
REASONS = {
  'not UTF-8': 'text that is not UTF-8',
  'not JSON': 'a line that is not one JSON object',
  'wrong fields': 'unknown, missing or wrongly typed fields',
  'duplicate id': 'an id that an earlier item has',
  'no text': 'speech without the words that are spoken',
  'no audio': 'no recording at all',
  'missing file': 'a recording that is not there',
  'empty file': 'a recording of 0 bytes',
  'damaged': 'a recording that cannot be read',
  'truncated': 'a recording that ends before its header says',
  'wrong rate': 'a sample rate that is not one of speech',
  'not finite': 'samples that are NaN or infinite',
  'over-long': 'a recording longer than the limit',
  'too short': 'a recording too short to encode',
  'silent': 'a recording in which nothing is heard',
}
_NAMED = 3  # entries that an error names


class Unusable(Exception):
  """Why one thing cannot be used: a key of `REASONS`, and a clause that says more."""

  def __init__(self, reason: str, detail: str):
    super().__init__(reason, detail)
    self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Entry:
  """One thing that was left out; fields as in the file."""

  id: str
  file: str
  reason: str
  detail: str
  set: str = ''


class Quarantine:
  """Counts what is left out of one source, and stops the job when it is too much.

  Args:
    source: what is being read, as the user named it.
    limit: the share of all things that may be left out, 0 to 1.
  """

  def __init__(self, source: str, limit: float):
    self._source, self._limit, self._total = source, limit, None
    self.entries: list[Entry] = []

  def expect(self, total: int) -> None:
    """Says how many things there are in all, those left out already among them; from here on the
    limit is watched.
    """
    self._total = total
    self._watch()

  def add(self, entry: Entry) -> None:
    """Leaves one thing out.

    Raises:
      DataError: too much has been left out.
    """
    self.entries.append(entry)
    self._watch()

  def counts(self) -> dict[str, int]:
    """How many were left out, by reason."""
    return dict(collections.Counter(entry.reason for entry in self.entries))

  def write(self, path: Path) -> None:
    """Writes the entries to `path`, in place of earlier ones of the same source; no entries at all,
    no file.
    """
    others = (
      [line for line in read(path) if line['source'] != self._source] if path.is_file() else []
    )
    lines = [
      *others,
      *({'source': self._source, **dataclasses.asdict(entry)} for entry in self.entries),
    ]
    if lines:
      files.atomic_write_text(path, ''.join(json.dumps(line) + '\n' for line in lines))
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
    DataError: it is damaged.
  """
  try:
    return [json.loads(line) for line in Path(path).read_text('utf-8').splitlines()]
  except ValueError as error:
    raise DataError(
      f'{path} is damaged ({error}): delete it and read the recordings in again.'
    ) from error


def summary(lines: Iterable[dict[str, str]]) -> dict[str, int]:
  """How many lines of a quarantine file there are, by reason."""
  return dict(collections.Counter(line['reason'] for line in lines))
