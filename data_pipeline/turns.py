"""The texts and the lengths of the records of a file, in a small file beside it.

They are stored while the records are written, so that nothing has to read audio to learn what is
said or how long it is.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import io
import threading
from typing import Any

import numpy as np

from data_pipeline import listing, schema
from echox_jax.errors import DataError
from echox_jax.storage import Path

SUFFIX = '.turns'  # after the name of the file of records
USER, ASSISTANT = range(len(schema.ROLES))

# example: number of the record; turn: its number in the record; role: USER or ASSISTANT;
# transcript: whether it is speech recognition; text: a hash, 0 = no text; tokens: of the text, 0
# where they are not counted; the rest: lengths of the turn's arrays.
TURN = np.dtype(
  [
    ('example', '<i4'),
    ('turn', '<i2'),
    ('role', 'i1'),
    ('transcript', '?'),
    ('text', '<u8'),
    ('tokens', '<i4'),
    *((name, '<i4') for name in schema.ARRAYS),
  ]
)
_TEXTS = ('id', 'turns')  # columns that are kept as they are
# numpy reads headers with `ast`, which Python 3.11 runs in one thread at a time only: else it may
# raise "AST constructor recursion depth mismatch", and `listing` reads many files at once.
_PARSING = threading.Lock()


class Collector:
  """Collects texts and lengths of records, in their order."""

  def __init__(self):
    self._lines: list[tuple] = []
    self._texts: dict[str, list[bytes]] = {name: [] for name in _TEXTS}

  def add(self, record: Mapping[str, Any]) -> None:
    """Adds a record as `schema.encode` makes it."""
    number = len(self._texts['id'])
    lengths = zip(*(record[column] for column in schema.LENGTHS))
    for turn, (said, sizes) in enumerate(zip(schema.text_turns(record), lengths)):
      self._lines.append(
        (
          number,
          turn,
          schema.ROLES.index(said['role']),
          said['category'] == schema.ASR,
          _hash(said['text']),
          0,
          *sizes,
        )
      )
    for name, texts in self._texts.items():
      texts.append(record[name].encode())

  def write(self, path: Path) -> None:
    """Writes what was collected; `StoredTurns` reads it."""
    arrays = {'lines': np.array(self._lines, TURN)}
    for name, texts in self._texts.items():
      arrays[name] = np.frombuffer(b''.join(texts), np.uint8)
      arrays[f'{name}_ends'] = np.cumsum([len(text) for text in texts], dtype=np.int64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.write_bytes(content.getvalue())


@dataclasses.dataclass(frozen=True)
class StoredTurns(Sequence):
  """The records of a split without their arrays: `id`, `turns` and the lengths, as
  `schema.encode` names them. Text is in bytes.

  Attributes:
    files: files of records, in order.
    counts: their numbers of records.
  """

  files: tuple[Path, ...]
  counts: tuple[int, ...]

  def __len__(self) -> int:
    return int(self._stops[-1]) if self.counts else 0

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(i)
    file = int(np.searchsorted(self._stops, i, side='right'))
    return self._records(file)[i - int(self._stops[file]) + self.counts[file]]

  def table(self) -> np.ndarray:
    """TURN[turns] of the whole split; `tokens` are 0.

    Raises:
      DataError: a file is missing or damaged.
    """
    tables = list(listing.each(_lines, self.files))
    for table, start in zip(tables, (0, *self._stops)):
      table['example'] += start
    return np.concatenate(tables) if tables else np.zeros(0, TURN)

  def texts(self, numbers: range) -> Iterator[str]:
    """The texts of all turns of some records."""
    return (turn['text'] for i in numbers for turn in schema.text_turns(self[i]))

  @functools.cached_property
  def _stops(self) -> np.ndarray:
    return np.cumsum(self.counts)

  @functools.cached_property
  def _records(self) -> Any:
    """Number of a file -> its records; the last file stays in memory."""
    return functools.lru_cache(1)(lambda file: _Records(self.files[file]))

  def __reduce__(self):
    return StoredTurns, (self.files, self.counts)


def _lines(path: Path) -> np.ndarray:
  return _arrays(path, 'lines')[0]


class _Records(Sequence):
  """The records of a file, without their arrays. It may hold a million, so each is made when it is
  asked for.
  """

  def __init__(self, path: Path):
    ends = [f'{name}_ends' for name in _TEXTS]
    self._lines, *found = _arrays(path, 'lines', *ends, *_TEXTS)
    self._ends, self._texts = found[: len(_TEXTS)], found[len(_TEXTS) :]
    self._starts = np.searchsorted(self._lines['example'], np.arange(len(self) + 1))

  def __len__(self) -> int:
    return len(self._ends[0])

  def __getitem__(self, i: int) -> dict[str, Any]:
    lines = self._lines[self._starts[i] : self._starts[i + 1]]
    record = {column: lines[field] for column, field in zip(schema.LENGTHS, schema.ARRAYS)}
    for name, ends, texts in zip(_TEXTS, self._ends, self._texts):
      record[name] = texts[ends[i - 1] if i else 0 : ends[i]].tobytes()
    return record


def _arrays(path: Path, *names: str) -> list[np.ndarray]:
  """Some arrays of the file beside the file of records `path`."""
  path = path.with_name(path.name + SUFFIX)
  try:
    content = io.BytesIO(path.read_bytes())
    with _PARSING, np.load(content) as stored:
      return [stored[name] for name in names]
  except FileNotFoundError as error:
    raise DataError(
      f'{path} is missing: copy it from where the data set was made, or make that again.'
    ) from error
  except Exception as error:  # numpy and zipfile raise many kinds for damaged files
    raise DataError(
      f'{path} is damaged ({error}): copy it from where the data set was made, or make that again.'
    ) from error


def _hash(text: str) -> int:
  """64 bits; 0 = no text."""
  return (
    int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little') or 1
    if text
    else 0
  )
