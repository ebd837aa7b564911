"""Lengths of everything in a data set: a table with one line per turn, used to choose rows without
reading the records.

A table is a .npy file under `WORKDIR/precomputed/index`. Its name has a hash of its inputs: the
files of the data set and the tokenizer. The first use makes it by reading the whole set once. Later
uses memory-map it.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import io
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import dataset, decoding, schema
from data_pipeline.fingerprints import file_fingerprint, fingerprint
from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path
from echox_jax.tokenizer import find_tokenizer, precomputed_tokenizer

FOLDER = 'index'
USER, ASSISTANT = range(len(schema.ROLES))
_PART = 4096  # records given to a process at a time
# records read by one call: a call costs 0.3 ms in a file of 200,000 records, whatever it reads
_TOGETHER = 64

# example: number of the record; turn: its number in the record; role: USER or ASSISTANT;
# transcript: whether it is speech recognition; text: a hash, 0 = no text; tokens: of the text, 0
# without a tokenizer; the rest: lengths of the turn's arrays.
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


def open_table(
  precomputed: Path,
  data_dir: Path,
  name: str,
  split: str,
  tokenizer: Path | None = None,
  workers: int = 0,
) -> np.ndarray:
  """The table of one split, made if missing; several processes may ask for it at once.

  Args:
    precomputed: folder of files derived from data sets.
    data_dir, name, split: as for `dataset.open_dataset`.
    tokenizer: folder of the tokenizer that counts tokens; None = they are not counted.
    workers: processes that read; 0 or 1 = this one.

  Returns:
    TURN[turns], in the order of records and turns, memory-mapped on local disk.

  Raises:
    DataError: the data set or tokenizer is missing, or a file is damaged.
  """
  made_from = fingerprint(
    TURN.descr, _files(storage.path(data_dir) / name), split, _counted_by(tokenizer)
  )
  path = precomputed / FOLDER / f'{name}-{split}-{made_from}.npy'
  if not storage.is_file(path):
    write_table(path, _read(_Scan(data_dir, name, split, tokenizer), workers))
  try:
    if storage.is_remote(path):
      return np.load(io.BytesIO(path.read_bytes()))
    return np.load(path, mmap_mode='r')
  except (ValueError, EOFError) as error:
    raise DataError(f'{path} is damaged ({error}): delete it, and it is made again.') from error


def _files(folder: Path) -> list[Any]:
  """Identifies the files of a data set: a data set that is written again has other times."""
  return [(path.name, *storage.stamp(path)) for path in storage.children(folder)]


def _counted_by(folder: Path | None) -> str:
  """Identifies the tokenizer in `folder`. A missing tokenizer raises an error as soon as there is
  text.
  """
  file = folder and find_tokenizer(folder)
  return file_fingerprint(file) if file else 'missing' if folder else ''


def write_table(path: Path, table: np.ndarray) -> None:
  content = io.BytesIO()
  np.save(content, table)
  storage.atomic_write_bytes(path, content.getvalue())


def _read(scan: '_Scan', workers: int) -> np.ndarray:
  examples = len(scan.source)
  parts = [range(start, min(start + _PART, examples)) for start in range(0, examples, _PART)]
  made = []
  with (
    decoding.Workers(scan, min(workers, len(parts))) as pool,
    tqdm(
      total=examples,
      desc=f'index of {scan.name}/{scan.split}',
      unit='example',
      disable=None,
      mininterval=1.0,
    ) as bar,
  ):
    for part, table in zip(parts, pool.map(parts)):
      made.append(table)
      bar.update(len(part))
  return np.concatenate(made)


@dataclasses.dataclass(frozen=True)
class _Scan:
  """Reads records: their numbers -> TURN[turns]."""

  data_dir: Path
  name: str
  split: str
  tokenizer: Path | None

  @functools.cached_property
  def source(self) -> Sequence[dict[str, Any]]:
    return dataset.open_dataset(self.data_dir, self.name, self.split)

  @functools.cached_property
  def _encode(self) -> Any:
    return precomputed_tokenizer(self.tokenizer).encode if self.tokenizer else lambda text: ()

  def __reduce__(self):
    return _Scan, dataclasses.astuple(self)  # each process opens the data set itself

  def __call__(self, numbers: range) -> np.ndarray:
    lines = []
    for start in range(numbers.start, numbers.stop, _TOGETHER):
      some = range(start, min(start + _TOGETHER, numbers.stop))
      for number, record in zip(some, self.source.__getitems__(list(some)), strict=True):
        lines += self._lines(number, record)
    return np.array(lines, TURN)

  def _lines(self, number: int, record: dict[str, Any]) -> Iterator[tuple]:
    lengths = zip(*(record[column] for column in schema.LENGTHS))
    for turn, (said, sizes) in enumerate(zip(schema.text_turns(record), lengths)):
      text = said['text']
      yield (
        number,
        turn,
        schema.ROLES.index(said['role']),
        said['category'] == schema.ASR,
        _hash(text),
        len(self._encode(text)),
        *sizes,
      )


def _hash(text: str) -> int:
  """64 bits; 0 = no text."""
  return (
    int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little') or 1
    if text
    else 0
  )
