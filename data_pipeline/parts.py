"""Encoder states and units of whole data sets on disk, between the steps of precompute.

User turns give states, assistant turns units. Clips are numbered in the order of records and turns. A part is a folder of two raw arrays: `values` of all clips, one after
another, and `lengths`, read back memory-mapped.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from data_pipeline import schema
from echox_jax import audio as audio_io
from echox_jax import files
from echox_jax.errors import DataError
import numpy as np

SHORTEST = 400  # samples: what one encoder state needs at least


def count_clips(source: Sequence[Mapping[str, Any]], role: str) -> tuple[int, int]:
  """Number of clips of `role` in a data set, and of their samples."""
  clips = samples = 0
  for i in range(len(source)):
    record = source[i]
    for turn, length in zip(schema.text_turns(record), record['audio_lengths']):
      if turn['role'] == role and length:
        clips, samples = clips + 1, samples + int(length)
  return clips, samples


def read_clips(source: Sequence[Mapping[str, Any]], role: str) -> Iterator[np.ndarray]:
  """The clips of `role`: float32[samples] each.

  Raises:
    DataError: a clip too short to encode, named.
  """
  for i in range(len(source)):
    example = schema.decode(source[i])
    for turn in example.turns:
      if turn.role != role or not len(turn.audio):
        continue
      if len(turn.audio) < SHORTEST:
        raise DataError(f'the audio of {example.id!r} has only {len(turn.audio)} samples: remove that example or record it again.')
      yield audio_io.from_int16(turn.audio)


def write_part(folder: Path, arrays: Iterable[np.ndarray], dtype: type) -> None:
  """Writes arrays [T] or [T,D] as they come, whole or not at all."""
  lengths, width = [], None
  with files.atomic_dir(folder) as beside:
    with open(beside / 'values', 'wb') as f:
      for array in arrays:
        width = array.shape[1:]
        lengths.append(len(array))
        np.ascontiguousarray(array, dtype).tofile(f)
    np.save(beside / 'lengths.npy', np.asarray(lengths, np.int64))
    files.atomic_write_json(beside / 'shape.json', {'dtype': np.dtype(dtype).name, 'width': list(width or ())})


def read_part(folder: Path) -> tuple[np.ndarray, np.ndarray]:
  """(values [N] or [N,D], memory-mapped; lengths int64[clips]) of a part."""
  shape = json.loads((folder / 'shape.json').read_text())
  lengths = np.load(folder / 'lengths.npy')
  return np.memmap(folder / 'values', shape['dtype'], 'r', shape=(int(lengths.sum()), *shape['width'])), lengths


def iterate_part(folder: Path) -> Iterator[np.ndarray]:
  """The array of each clip of a part."""
  values, lengths = read_part(folder)
  start = 0
  for length in lengths:
    yield values[start:start + length]
    start += length
