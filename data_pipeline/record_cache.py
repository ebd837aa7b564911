"""Records of a data set in a bucket, read from local copies of its files."""

from collections.abc import Sequence
import itertools
import threading
from typing import Any

import numpy as np

from echox_jax import storage


class CachedRecords(Sequence):
  """The serialised records of some ArrayRecord files, by number. A file is copied when the first of
  its records is asked for.

  Args:
    files: the files as TFDS describes them (`FileInstruction`: filename, skip, take).
    cache: holds the copies; files that find no room there are read from the bucket.
  """

  def __init__(self, files: Sequence[Any], cache: storage.Cache):
    self._files, self._cache = tuple(files), cache
    self._ends = list(itertools.accumulate(file.examples_in_shard for file in self._files))
    self._open()

  def _open(self) -> None:
    self._opened: dict[int, Sequence[bytes]] = {}
    self._lock = threading.Lock()

  def __getstate__(self) -> tuple[Any, ...]:
    return self._files, self._cache, self._ends

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    self._files, self._cache, self._ends = state
    self._open()

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, number: int) -> bytes:
    return self.__getitems__([number])[0]

  def __getitems__(self, numbers: Sequence[int]) -> list[bytes]:
    """The records of several numbers; those of one file are read together."""
    numbers = np.asarray(numbers)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
      raise IndexError(f'records are numbered from 0 to {len(self) - 1}')
    found, where = [b''] * len(numbers), np.searchsorted(self._ends, numbers, side='right')
    for file in np.unique(where).tolist():
      places = np.flatnonzero(where == file)
      first = self._ends[file] - self._files[file].examples_in_shard
      records = self._records(file).__getitems__((numbers[places] - first).tolist())
      for place, record in zip(places.tolist(), records, strict=True):
        found[place] = record
    return found

  def _records(self, file: int) -> Sequence[bytes]:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    with self._lock:
      if file not in self._opened:
        own = self._files[file]
        copy = own.replace(filename=str(self._cache.get(own.filename)))
        self._opened[file] = ArrayRecordDataSource([copy])
      return self._opened[file]
