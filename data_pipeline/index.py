"""Lengths of everything in a data set: a table with one line per turn, used to choose rows without
reading the records.

A table is a .npy file under `WORKDIR/precomputed/index`. Its name has a hash of its inputs: the
content of the data set and the tokenizer. It is put together from the lengths that lie beside the
records (`turns.py`); only tokens have to be counted. Later uses memory-map it.
"""

from collections.abc import Iterable
import dataclasses
import functools
import io
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import dataset, decoding
from data_pipeline.fingerprints import file_fingerprint, fingerprint
from data_pipeline.shards import ranges
from data_pipeline.turns import TURN, StoredTurns
from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path
from echox_jax.tokenizer import find_tokenizer, precomputed_tokenizer

FOLDER = 'index'
_PART = 4096  # records whose tokens a process counts at a time


def table_path(
  precomputed: Path, data_dir: Path, name: str, split: str, tokenizer: Path | None
) -> Path:
  """Where the table of a split is; arguments and errors as for `open_table`."""
  content = dataset.identity(data_dir, name, split)
  made_from = fingerprint(TURN.descr, content, counted_by(tokenizer))
  return precomputed / FOLDER / f'{name}-{split}-{made_from}.npy'


def open_table(
  precomputed: Path,
  data_dir: Path,
  name: str,
  split: str,
  tokenizer: Path | None = None,
  workers: int = 0,
  tokens: Iterable[np.ndarray] | None = None,
) -> np.ndarray:
  """The table of one split, made if missing; several processes may ask for it at once.

  Args:
    precomputed: folder of files derived from data sets.
    data_dir, name, split: as for `dataset.open_dataset`.
    tokenizer: folder of the tokenizer that counts tokens; None = they are not counted.
    workers: processes that count; 0 or 1 = this one.
    tokens: int32[turns] of all turns, in parts, if they have been counted before.

  Returns:
    TURN[turns], in the order of records and turns, memory-mapped on local disk.

  Raises:
    DataError: the data set or tokenizer is missing, or a file is damaged.
  """
  path = table_path(precomputed, data_dir, name, split, tokenizer)
  if not storage.is_file(path):
    table = dataset.open_turns(data_dir, name, split).table()
    if tokenizer:
      counted = tokens or _count(TokenCounter(data_dir, name, split, tokenizer), workers)
      table['tokens'] = np.concatenate(list(counted))
    write_table(path, table)
  try:
    if storage.is_remote(path):
      return np.load(io.BytesIO(path.read_bytes()))
    return np.load(path, mmap_mode='r')
  except (ValueError, EOFError) as error:
    raise DataError(f'{path} is damaged ({error}): delete it, and it is made again.') from error


def counted_by(folder: Path | None) -> str:
  """Identifies the tokenizer in `folder`. A missing tokenizer raises an error as soon as there is
  text.
  """
  file = folder and find_tokenizer(folder)
  return file_fingerprint(file) if file else 'missing' if folder else ''


def write_table(path: Path, table: np.ndarray) -> None:
  content = io.BytesIO()
  np.save(content, table)
  storage.atomic_write_bytes(path, content.getvalue())


def _count(counter: 'TokenCounter', workers: int) -> list[np.ndarray]:
  examples = len(counter.turns)
  parts, made = ranges(examples, _PART), []
  with (
    decoding.Workers(counter, min(workers, len(parts))) as pool,
    tqdm(
      total=examples,
      desc=f'tokens of {counter.name}/{counter.split}',
      unit='example',
      disable=None,
      mininterval=1.0,
    ) as bar,
  ):
    for part, counts in zip(parts, pool.map(parts)):
      made.append(counts)
      bar.update(len(part))
  return made


@dataclasses.dataclass(frozen=True)
class TokenCounter:
  """Counts the tokens of each turn: numbers of records -> int32[turns]. Reads no audio."""

  data_dir: Path
  name: str
  split: str
  tokenizer: Path

  @functools.cached_property
  def turns(self) -> StoredTurns:
    return dataset.open_turns(self.data_dir, self.name, self.split)

  @functools.cached_property
  def _encode(self) -> Any:
    return precomputed_tokenizer(self.tokenizer).encode

  def __reduce__(self):
    return TokenCounter, dataclasses.astuple(self)  # each process opens the files itself

  def __call__(self, numbers: range) -> np.ndarray:
    # most texts come more than once: with each voice, or as speech and as its transcript
    count = functools.lru_cache(_PART)(lambda text: len(self._encode(text)))
    return np.array([count(text) for text in self.turns.texts(numbers)], np.int32)
