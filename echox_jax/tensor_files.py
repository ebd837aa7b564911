"""Reads and writes safetensors files tensor by tensor, so a checkpoint can be larger than memory.

The `safetensors` library checks the headers and reads whole tensors. It uses pread, not mmap,
because mapped pages count as process memory. The library cannot read only some rows of a tensor or
write tensors that are not in memory, and it knows no buckets; this module adds all three. File
format: header length (u64, little-endian); header (JSON: name -> dtype, shape, data_offsets); data
without gaps.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import tempfile
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from echox_jax import errors, storage
from echox_jax.storage import Path

SINGLE = '{}.safetensors'
INDEX = '{}.safetensors.index.json'
Spec = tuple[tuple[int, ...], Any]  # shape and dtype of a tensor

_DTYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
  'F8_E4M3': ml_dtypes.float8_e4m3fn,
  'F8_E5M2': ml_dtypes.float8_e5m2,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U64': np.uint64,
  'U32': np.uint32,
  'U16': np.uint16,
  'U8': np.uint8,
  'BOOL': np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_FLOAT8 = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))
_MAX_HEADER = 100 << 20  # the format's own limit
_CHUNK = 32 << 20  # bytes converted and written, or read from a bucket, at a time
_FIRST = 1 << 16  # bytes read first from a file in a bucket; most headers are shorter


@dataclasses.dataclass(frozen=True)
class _Place:
  """Location of one tensor's bytes."""

  file: Path
  offset: int
  shape: tuple[int, ...]
  dtype: np.dtype


class TensorFiles(Mapping[str, np.ndarray]):
  """Tensors of one or several files, in storage order. Each access reads from disk.

  Attributes:
    path: the opened path, for messages.
    shapes: name -> shape.
    dtypes: name -> numpy dtype.
  """

  def __init__(self, path: Path, places: Mapping[str, _Place]):
    self.path, self._places = path, dict(places)
    self.shapes = {name: place.shape for name, place in self._places.items()}
    self.dtypes = {name: place.dtype for name, place in self._places.items()}

  def __getitem__(self, name: str) -> np.ndarray:
    """Returns the tensor; raises like `rows`."""
    place = self._places[name]
    # The library expects these dtypes in numpy, which lacks them.
    if place.dtype in _FLOAT8 or storage.is_remote(place.file):
      return self.rows(name)
    try:
      with _library(place.file) as opened:  # closed right away: there may be many shards
        return opened.get_tensor(name)
    except safetensors.SafetensorError as error:
      raise _cut_off(place.file, name) from error

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)

  def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Returns the tensor, or its rows `start` to `stop` on the first axis; reads only those rows.

    Raises:
      KeyError: there is no such tensor.
      CheckpointError: the file is shorter than it was when opened.
    """
    place = self._places[name]
    shape, offset = place.shape, place.offset
    if shape:
      start, stop, _ = slice(start, stop).indices(shape[0])
      shape = (max(0, stop - start), *shape[1:])
      offset += start * _size(shape[1:], place.dtype)
    size = _size(shape, place.dtype)
    data = _read(place.file, offset, size)
    if len(data) < size:
      raise _cut_off(place.file, name)
    return data.view(place.dtype).reshape(shape)


def open_tensors(path: str | os.PathLike[str]) -> TensorFiles:
  """Opens a safetensors file, or a folder with model.safetensors or model.safetensors.index.json
  and its shards.

  It reads only the headers.

  Raises:
    CheckpointError: there is no such file, a file is truncated or has another format, or a shard is
      missing or lacks a tensor of the index.
  """
  path = storage.path(path)
  if not path.is_dir():
    return TensorFiles(path, _index(path) if path.name.endswith('.index.json') else _places(path))
  single, index = path / SINGLE.format('model'), path / INDEX.format('model')
  if storage.is_file(single):
    return TensorFiles(path, _places(single))
  if storage.is_file(index):
    return TensorFiles(path, _index(index))
  raise errors.CheckpointError(
    f'{path} holds neither {single.name} nor {index.name}: give the '
    'folder of a checkpoint in safetensors.'
  )


class TensorWriter:
  """Writes the known tensors of a safetensors file in any order.

  Use as a context manager. `path` appears once everything is written; otherwise no file is left.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str] | None = None,
  ):
    """`specs`: name -> (shape, dtype); `metadata`: texts for the header."""
    self.path = storage.path(path)
    self._specs = {
      name: (tuple(map(int, shape)), np.dtype(dtype)) for name, (shape, dtype) in specs.items()
    }
    self._metadata = dict(metadata or {})
    self._written: dict[str, set[int | None]] = {name: set() for name in self._specs}

  def __enter__(self) -> 'TensorWriter':
    # Largest dtypes first, like the safetensors library, so that every tensor is aligned.
    order = sorted(self._specs, key=lambda name: -self._specs[name][1].itemsize)
    header, end, starts = {'__metadata__': self._metadata} if self._metadata else {}, 0, {}
    for name in order:
      shape, dtype = self._specs[name]
      starts[name], end = end, end + _size(shape, dtype)
      header[name] = {
        'dtype': _NAMES[dtype],
        'shape': list(shape),
        'data_offsets': [starts[name], end],
      }
    text = json.dumps(header, separators=(',', ':')).encode('utf-8')
    text += b' ' * (-len(text) % 8)
    self._offsets = {name: 8 + len(text) + start for name, start in starts.items()}
    self._open = contextlib.ExitStack()
    self._file = self._open.enter_context(
      open(self._open.enter_context(storage.staged(self.path)), 'wb')
    )
    self._file.write(len(text).to_bytes(8, 'little') + text)
    self._file.flush()
    os.truncate(self._file.fileno(), 8 + len(text) + end)
    return self

  def write(self, name: str, array: np.ndarray, layer: int | None = None) -> None:
    """Writes a whole tensor or, with `layer`, one row of its first axis; converts values to the
    tensor's dtype.

    Raises:
      KeyError: the specs have no such tensor.
      ValueError: the array has another shape.
    """
    shape, dtype = self._specs[name]
    offset = self._offsets[name]
    if layer is not None:
      shape = shape[1:]
      offset += layer * _size(shape, dtype)
    array = np.asarray(array)
    if array.shape != shape:
      raise ValueError(f'{name} has shape {shape}, not {array.shape}')
    for part in _parts(array):
      data = _bytes(np.ascontiguousarray(part, dtype))
      _write_at(self._file.fileno(), offset, data)
      offset += len(data)
    self._written[name].add(layer)

  def check(self) -> None:
    """Raises ValueError unless every tensor has been written."""
    for name, (shape, _) in self._specs.items():
      rows = self._written[name]
      if None not in rows and rows != set(range(shape[0] if shape else 1)):
        raise ValueError(f'{self.path}: {name} has not been written whole')

  def __exit__(self, kind, error, trace) -> None:
    with self._open:
      if error is not None:
        raise error
      self.check()


def write_sharded(
  folder: str | os.PathLike[str],
  specs: Mapping[str, Spec],
  arrays: Iterable[tuple[str, np.ndarray]],
  max_shard_bytes: int = 5 * 10**9,
  prefix: str = 'model',
) -> list[Path]:
  """Writes tensors like transformers: one file, or shards model-0000i-of-0000n.safetensors and an
  index.

  Args:
    folder: output folder.
    specs: name -> (shape, dtype) of every tensor; shards are filled in this order.
    arrays: (name, tensor) pairs in any order, each tensor once.
    max_shard_bytes: limit of tensor data per file; a larger tensor gets its own file.
    prefix: prefix of the file names.

  Returns:
    The files written.
  """
  folder, shards, size = storage.path(folder), [{}], 0
  for name, (shape, dtype) in specs.items():
    own = _size(shape, np.dtype(dtype))
    if shards[-1] and size + own > max_shard_bytes:
      shards.append({})
      size = 0
    shards[-1][name] = (shape, dtype)
    size += own
  names = (
    [SINGLE.format(prefix)]
    if len(shards) == 1
    else [
      SINGLE.format(f'{prefix}-{i:05d}-of-{len(shards):05d}') for i in range(1, len(shards) + 1)
    ]
  )
  with contextlib.ExitStack() as stack:
    writers = [
      stack.enter_context(TensorWriter(folder / name, shard, {'format': 'pt'}))
      for name, shard in zip(names, shards)
    ]
    where = {name: writer for writer, shard in zip(writers, shards) for name in shard}
    for name, array in arrays:
      where[name].write(name, array)
    for writer in writers:  # check all of them before the first file appears
      writer.check()
  written = [folder / name for name in names]
  if len(shards) > 1:
    total = sum(_size(shape, np.dtype(dtype)) for shape, dtype in specs.values())
    weight_map = {name: file for file, shard in zip(names, shards) for name in shard}
    index = {'metadata': {'total_size': total}, 'weight_map': dict(sorted(weight_map.items()))}
    written.append(storage.atomic_write_json(folder / INDEX.format(prefix), index))
  return written


def _index(path: Path) -> dict[str, _Place]:
  """Locates all tensors of an index from the headers of its shards."""
  try:
    weight_map = json.loads(path.read_text('utf-8'))['weight_map']
    shards = sorted(set(weight_map.values()))
    if any(pathlib.PurePath(shard).name != shard for shard in shards):
      raise ValueError('a shard that is not a file name')
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.CheckpointError(
      f'{path} is not an index of safetensors shards ({error}): copy or download it again.'
    ) from error
  places = {}
  for shard in shards:
    file = path.parent / shard
    wanted = {name for name, where in weight_map.items() if where == shard}
    if not storage.is_file(file):
      raise errors.CheckpointError(
        f'{path} names the shard {shard}, which is missing ({min(wanted)!r} and '
        f'{len(wanted) - 1} more tensors are in it): '
        'copy or download it too.'
      )
    found = _places(file)
    absent, unnamed = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
    if absent or unnamed:
      name, problem = (
        (absent[0], f'lacks it, but {path.name} lists it there')
        if absent
        else (unnamed[0], f'holds it, but {path.name} does not list it there')
      )
      raise errors.CheckpointError(
        f'the tensor {name!r} does not match the index ({file} {problem}): '
        'copy or download both files again.'
      )
    places |= found
  return places


def _places(path: Path) -> dict[str, _Place]:
  """Locates all tensors of a file, in the order of their data."""
  if not storage.is_file(path):
    raise errors.CheckpointError(
      f'{path} does not exist: give a safetensors file or the folder of one.'
    )
  with _with_header(path) as copy:
    try:
      with _library(copy) as opened:
        slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
        specs = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except safetensors.SafetensorError as error:
      raise errors.CheckpointError(_refusal(path, copy, str(error))) from error
    with open(copy, 'rb') as file:
      offset = 8 + int.from_bytes(file.read(8), 'little')
  places = {}
  for name, (shape, kind) in specs.items():
    if kind not in _DTYPES:
      raise errors.CheckpointError(_unknown(path, name, kind))
    dtype = np.dtype(_DTYPES[kind])
    places[name] = _Place(path, offset, shape, dtype)
    offset += _size(shape, dtype)
  return places


@contextlib.contextmanager
def _with_header(path: Path) -> Iterator[pathlib.Path]:
  """Yields a local file with the header and the length of `path`: `path` itself, or a copy whose
  tensors are a hole.
  """
  if not storage.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    copy, start = pathlib.Path(folder) / path.name, storage.read_range(path, 0, _FIRST)
    rest = 8 + min(int.from_bytes(start[:8], 'little'), _MAX_HEADER) - len(start)
    copy.write_bytes(start + storage.read_range(path, len(start), max(0, rest)))
    os.truncate(copy, storage.size(path))
    yield copy


def _read(file: Path, offset: int, size: int) -> np.ndarray:
  """Reads uint8[size]; less if the file ends before."""
  if not storage.is_remote(file):
    return np.fromfile(file, np.uint8, size, offset=offset)
  found = np.empty(size, np.uint8)
  for start in range(0, size, _CHUNK):
    part = storage.read_range(file, offset + start, min(_CHUNK, size - start))
    found[start : start + len(part)] = np.frombuffer(part, np.uint8)
    if len(part) < min(_CHUNK, size - start):
      return found[: start + len(part)]
  return found


def _library(path: pathlib.Path) -> safetensors.safe_open:
  return safetensors.safe_open(path, framework='np', backend='pread')


def _refusal(path: Path, copy: pathlib.Path, reason: str) -> str:
  """Explains why the library refuses a file; its own `reason` does not name the tensor. `copy` has
  its header.
  """
  with open(copy, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    text = file.read(min(length, _MAX_HEADER))
  room = copy.stat().st_size - 8 - length
  try:
    entries = json.loads(text if room >= 0 else b'')
    entries.pop('__metadata__', None)
    problem, end = _first_problem(path, entries, room)
  except (ValueError, KeyError, TypeError, AttributeError):
    return (
      f'{path} is not a safetensors file (its header is not a table of tensors) or is cut short '
      'within its header: copy or download it again, or give a file in that format.'
    )
  if end < room:
    reason = 'there are bytes after its last tensor'
  return problem or f'{path} is damaged: {reason}; copy or download the file again.'


def _first_problem(path: Path, entries: Mapping[str, Any], room: int) -> tuple[str, int]:
  """Returns the problem of the first header entry that does not fit into `room` bytes of data
  (empty if all fit), and the end offset of the last good tensor before it.
  """
  end = 0
  for name, entry in sorted(entries.items(), key=lambda item: item[1]['data_offsets']):
    (start, stop), shape, dtype = entry['data_offsets'], entry['shape'], entry['dtype']
    if dtype not in _DTYPES:
      return _unknown(path, name, dtype), end
    size = _size(shape, np.dtype(_DTYPES[dtype]))
    if start != end or stop - start != size or min(shape, default=0) < 0:
      problem = f'is damaged: the header misplaces the tensor {name!r}'
    elif stop > room:
      problem = f'is cut short: it ends before the tensor {name!r} does'
    else:
      end = stop
      continue
    return f'{path} {problem}; copy or download the file again.', end
  return '', end


def _unknown(path: Path, name: str, dtype: str) -> str:
  return (
    f'{path} stores the tensor {name!r} in an unsupported dtype ({dtype}): '
    'convert the file to a usual dtype.'
  )


def _cut_off(path: Path, name: str) -> errors.CheckpointError:
  return errors.CheckpointError(
    f'{path} ends within the tensor {name!r}: copy or download the file again.'
  )


def _size(shape: Sequence[int], dtype: np.dtype) -> int:
  """Returns the size of a tensor in bytes."""
  return math.prod(shape) * dtype.itemsize


def _bytes(value: np.ndarray) -> memoryview:
  """Returns the memory of a contiguous array."""
  return memoryview(value.reshape(-1).view(np.uint8))


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the array in groups of rows of at most about `_CHUNK` bytes."""
  if not array.ndim or array.nbytes <= _CHUNK:
    yield array
    return
  rows = max(1, _CHUNK // (array.nbytes // len(array)))
  for start in range(0, len(array), rows):
    yield array[start : start + rows]


def _write_at(descriptor: int, offset: int, data: memoryview) -> None:
  while data:
    count = os.pwrite(descriptor, data, offset)
    data, offset = data[count:], offset + count
