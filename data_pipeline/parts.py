"""Speech of raw data sets, and the arrays that the steps of precompute derive from it.

User turns give states, assistant turns give units. Clips are numbered in the order of records and
turns. A part is a file that holds one array of varying length for each clip of some consecutive
records.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline import schema
from echox_jax import audio as audio_io
from echox_jax import rates, tensor_files
from echox_jax.errors import DataError
from echox_jax.storage import Path

SHORTEST = 400  # samples: the minimum for one encoder state


def is_chosen(number: int | np.ndarray, share: float) -> bool | np.ndarray:
  """Whether an item, or each of many, belongs to an evenly spread sample of that `share`."""
  return np.floor((number + 1) * share) > np.floor(number * share)


class Clips:
  """The clips of `role` in some records, as float32[samples] each; counts what it reads.

  Attributes:
    clips, samples: numbers read so far.
  """

  def __init__(self, source: Sequence[Mapping[str, Any]], role: str, records: Iterable[int]):
    self._source, self._role, self._records = source, role, records
    self.clips = self.samples = 0

  def __iter__(self) -> Iterator[np.ndarray]:
    """Raises DataError for a clip too short to encode."""
    for i in self._records:
      example = schema.decode(self._source[i])
      for turn in example.turns:
        if turn.role != self._role or not len(turn.audio):
          continue
        if len(turn.audio) < SHORTEST:
          raise DataError(
            f'the audio of {example.id!r} has only {len(turn.audio)} samples: remove '
            'that example or record it again.'
          )
        self.clips, self.samples = self.clips + 1, self.samples + len(turn.audio)
        yield audio_io.from_int16(turn.audio)

  def measured(self) -> dict[str, float]:
    """`clips` and `seconds` read so far."""
    return {'clips': self.clips, 'seconds': self.samples / rates.SAMPLE_RATE}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name; `tensor_files.open_tensors` reads them."""
  with tensor_files.TensorWriter(
    path, {name: (array.shape, array.dtype) for name, array in arrays.items()}
  ) as writer:
    for name, array in arrays.items():
      writer.write(name, array)


def write_part(path: Path, arrays: Sequence[np.ndarray], dtype: type) -> int:
  """Writes arrays [T] or [T,D]; returns the sum of T."""
  lengths = np.asarray([len(array) for array in arrays], np.int64)
  values = np.concatenate(arrays).astype(dtype, copy=False) if len(arrays) else np.zeros(0, dtype)
  write_arrays(path, {'values': values, 'lengths': lengths})
  return int(lengths.sum())


def read_part(path: Path) -> list[np.ndarray]:
  """The arrays of a part, one per clip."""
  tensors = tensor_files.open_tensors(path)
  return (
    np.split(tensors['values'], np.cumsum(tensors['lengths'])[:-1])
    if len(tensors['lengths'])
    else []
  )


def iterate_parts(paths: Iterable[Path]) -> Iterator[np.ndarray]:
  """The arrays of several parts, one per clip."""
  for path in paths:
    yield from read_part(path)


class StoredValues:
  """All arrays of a part concatenated, [N,D]; read when numpy asks for them."""

  def __init__(self, path: Path):
    self._tensors = tensor_files.open_tensors(path)
    self.shape, self.dtype = self._tensors.shapes['values'], self._tensors.dtypes['values']

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # the array is always new
    return self._tensors['values'].astype(dtype or self.dtype, copy=False)
