"""Checkpoints of torch.save without torch: read without running anything in them, and written.

Two layouts exist. Since torch 1.6 a checkpoint is a zip archive: `NAME/data.pkl` and the stored
bytes `NAME/data/KEY`, nothing compressed. Before, it was a row of pickles (magic number, version,
system, the objects, the storage keys) and then, for each key, the number of elements (int64) and
the bytes. In both a tensor is a call that names its storage by a persistent id.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math
import os
from pathlib import Path
import pickle
import struct
import sys
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from echox_jax import errors, files
from echox_jax.conversion import lazy, pickles

_DTYPES = {
  'float64': np.dtype('<f8'),
  'float32': np.dtype('<f4'),
  'float16': np.dtype('<f2'),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'int64': np.dtype('<i8'),
  'int32': np.dtype('<i4'),
  'int16': np.dtype('<i2'),
  'int8': np.dtype('i1'),
  'uint8': np.dtype('u1'),
  'bool': np.dtype('?'),
}
_STORAGES = {
  'FloatStorage': 'float32',
  'DoubleStorage': 'float64',
  'HalfStorage': 'float16',
  'BFloat16Storage': 'bfloat16',
  'LongStorage': 'int64',
  'IntStorage': 'int32',
  'ShortStorage': 'int16',
  'CharStorage': 'int8',
  'ByteStorage': 'uint8',
  'BoolStorage': 'bool',
  'UntypedStorage': 'uint8',
}
_STORAGE_DTYPES = {f'torch.{name}': _DTYPES[dtype] for name, dtype in _STORAGES.items()} | {
  'torch.storage.UntypedStorage': _DTYPES['uint8']
}

# What stands beside the tensors in checkpoints of fairseq: configs, vocabularies, meters. Only
# recorded.
FAIRSEQ_RECORDS = (
  'argparse.Namespace',
  'fairseq.',
  'omegaconf.',
  'hydra.',
  'typing.',
  'pathlib.PosixPath',
  'collections.Counter',
  *(
    f'builtins.{name}'
    for name in ('bool', 'bytes', 'dict', 'float', 'int', 'list', 'object', 'str', 'tuple')
  ),
)

_ZIP_MAGIC = b'PK\x03\x04'
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_ALIGNMENT = 64


@dataclasses.dataclass
class _Root:
  """Bytes of a file that storages are views of; older files tell the place only after the
  objects.
  """

  size: int
  start: int | None = None


@dataclasses.dataclass(frozen=True)
class _Storage:
  root: _Root
  dtype: np.dtype
  first: int  # byte of the root


def load_torch(path: str | os.PathLike[str], records: Sequence[str] = ()) -> Any:
  """What a torch checkpoint holds: dicts, lists, numbers, text, and a `lazy.Tensor` for each
  tensor.

  Args:
    path: the file.
    records: names of classes (or of modules, with a `.` at the end) that may occur; each object
      becomes a `pickles.Record`.

  Raises:
    CheckpointError: not a torch checkpoint, truncated or damaged, or it names something outside
      plain tensors and `records`.
  """
  path = Path(path)
  try:
    with open(path, 'rb') as f:
      if f.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
        return _load_zip(path, records)
      f.seek(0)
      return _load_legacy(path, f, records)
  except FileNotFoundError as error:
    raise errors.CheckpointError(f'{path} does not exist: give the checkpoint file.') from error


def tensors_of(path: str | os.PathLike[str], loaded: Any, entry: str) -> lazy.LazyTensors:
  """The tensors under `entry` of what `load_torch` gave.

  Raises:
    CheckpointError: no such entry, or something in it is not a tensor, named.
  """
  found = loaded.get(entry) if isinstance(loaded, dict) else None
  if not isinstance(found, dict):
    there = ', '.join(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
    raise errors.CheckpointError(
      f'{path} has no entry {entry!r} with tensors ({there:.200}): give a checkpoint that has it.'
    )
  others = sorted(
    str(name)
    for name, value in found.items()
    if not isinstance(value, lazy.Tensor) or not isinstance(name, str)
  )
  if others:
    raise errors.CheckpointError(
      f'{path} has entries under {entry!r} that are no tensors ({", ".join(others)}): remove them.'
    )
  return lazy.LazyTensors(found)


def write_torch(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> Path:
  """Writes nested dicts of arrays as a zip checkpoint that `torch.load(path, weights_only=True)`
  opens.

  The whole file is put together in memory. Arrays of another layout or byte order than C and little
  endian are copied.

  Raises:
    CheckpointError: an array of a type that torch has no storage for.
  """
  storages: list[np.ndarray] = []
  program = b'\x80\x02' + _pickled(tree, '', storages) + pickle.STOP
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    for name, data in [
      ('data.pkl', program),
      ('byteorder', b'little'),
      *((f'data/{i}', array) for i, array in enumerate(storages)),
      ('version', b'3\n'),
    ]:
      info = zipfile.ZipInfo(f'archive/{name}')
      start = file.tell() + 30 + len(info.filename) + 4
      padding = -start % _ALIGNMENT  # as torch does, so that it can map the file
      info.extra = b'FB' + struct.pack('<H', padding) + bytes(padding)
      archive.writestr(info, data if isinstance(data, bytes) else data.tobytes())
  return files.atomic_write_bytes(path, file.getbuffer())


class _TorchUnpickler(pickles.SafeUnpickler):
  """Reads the objects; `root` tells where the bytes of a storage are: (key, bytes) -> _Root."""

  def __init__(self, stream, path, records, root):
    makers = dict(pickles.PLAIN) | {
      'torch._utils._rebuild_tensor': self._tensor,
      'torch._utils._rebuild_tensor_v2': self._tensor,
      'torch._utils._rebuild_tensor_v3': self._typed_tensor,
      'torch._utils._rebuild_parameter': lambda data, *_: data,
      'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
      'torch.Size': pickles.check_sizes,
    }
    known = ['torch.device', *_STORAGE_DTYPES, *(f'torch.{name}' for name in _DTYPES)]
    super().__init__(stream, path, makers, (*records, *known))
    self._root = root

  def persistent_load(self, pid: Any) -> _Storage:
    """A storage: ('storage', class, key, device, elements[, view])."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != 'storage':
      raise pickle.UnpicklingError('a persistent id that is no storage')
    _, cls, key, _, elements, *view = pid
    dtype = _STORAGE_DTYPES.get(cls.name) if isinstance(cls, pickles.Global) else None
    if dtype is None or type(key) not in (str, int) or type(elements) is not int or elements < 0:
      raise pickle.UnpicklingError('a storage of no known type')
    first = (
      pickles.check_sizes(view[0][1:])[0] * dtype.itemsize if view and view[0] is not None else 0
    )
    return _Storage(self._root(str(key), elements * dtype.itemsize), dtype, first)

  def _tensor(
    self, storage, offset, shape, strides, requires_grad=False, hooks=None, bits=None, dtype=None
  ) -> lazy.Tensor:
    del requires_grad, hooks
    if not isinstance(storage, _Storage) or bits:
      raise pickle.UnpicklingError('a tensor of no plain storage')
    dtype = dtype or storage.dtype
    offset, *_ = pickles.check_sizes((offset,))
    shape, strides = pickles.check_sizes(shape), pickles.check_sizes(strides)
    if len(shape) != len(strides) or math.prod(shape) * dtype.itemsize > sys.maxsize:
      raise pickle.UnpicklingError('a tensor whose sizes cannot be')
    # Bytes from the first value of the tensor to behind its last.
    span = (
      0 if 0 in shape else dtype.itemsize * (1 + sum((n - 1) * s for n, s in zip(shape, strides)))
    )
    first = storage.first + offset * dtype.itemsize
    if first + span > storage.root.size:
      raise pickle.UnpicklingError('a tensor that is larger than its storage')
    strides = tuple(s * dtype.itemsize for s in strides)

    def read() -> np.ndarray:
      if not span:
        return np.zeros(shape, dtype)
      return np.ndarray(
        shape, dtype, _bytes(self.where, storage.root.start + first, span), strides=strides
      )

    return lazy.Tensor(shape, dtype, read)

  def _typed_tensor(
    self, storage, offset, shape, strides, requires_grad, hooks, dtype, bits=None
  ) -> lazy.Tensor:
    known = (
      _DTYPES.get(dtype.name.removeprefix('torch.')) if isinstance(dtype, pickles.Global) else None
    )
    if known is None:
      raise pickle.UnpicklingError('a tensor of no known type')
    return self._tensor(storage, offset, shape, strides, requires_grad, hooks, bits, known)


def _bytes(path: Path, start: int, size: int) -> bytes:
  with open(path, 'rb') as f:
    f.seek(start)
    data = f.read(size)
  if len(data) < size:
    raise _truncated(path)
  return data


def _load_zip(path: Path, records: Sequence[str]) -> Any:
  try:
    with zipfile.ZipFile(path) as archive:
      infos = {info.filename: info for info in archive.infolist()}
  except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError) as error:
    raise _truncated(path) from error
  folders = [
    name.removesuffix('data.pkl')
    for name in infos
    if name.endswith('/data.pkl') and name.count('/') == 1
  ]
  if len(folders) != 1:
    raise errors.CheckpointError(
      f'{path} is a zip archive without a data.pkl of torch: give a file written by torch.save.'
    )
  with open(path, 'rb') as f:
    roots = {
      name.removeprefix(folders[0]): _entry(path, f, info)
      for name, info in infos.items()
      if name.startswith(folders[0])
    }
  contents = {
    name: _bytes(path, roots[name].start, roots[name].size)
    for name in ('data.pkl', 'byteorder')
    if name in roots
  }
  if contents.get('byteorder', b'little') != b'little':
    raise errors.CheckpointError(
      f'{path} was written on a big-endian machine: write it again on another.'
    )

  def root(key: str, size: int) -> _Root:
    found = roots.get(f'data/{key}')
    if found is None or found.size < size:
      raise pickle.UnpicklingError(f'storage {key:.40} is missing or too short')
    return found

  return _TorchUnpickler(
    pickles.Stream(io.BytesIO(contents['data.pkl'])), path, records, root
  ).load()


def _entry(path: Path, f: io.BufferedIOBase, info: zipfile.ZipInfo) -> _Root:
  """Where the bytes of an archive entry lie."""
  if info.compress_type != zipfile.ZIP_STORED:
    raise errors.CheckpointError(
      f'{path} is compressed, which torch.save never does: unpack and write it again with torch.'
    )
  size = os.fstat(f.fileno()).st_size
  if not 0 <= info.header_offset < size - 30:
    raise _truncated(path)
  f.seek(info.header_offset)
  header = f.read(30)
  start = info.header_offset + 30 + sum(struct.unpack('<HH', header[26:]))
  if not header.startswith(_ZIP_MAGIC) or start + info.file_size > size:
    raise _truncated(path)
  return _Root(info.file_size, start)


def _load_legacy(path: Path, f: io.BufferedIOBase, records: Sequence[str]) -> Any:
  stream = pickles.Stream(f)
  roots: dict[str, _Root] = {}
  widths: dict[str, int] = {}

  def root(key: str, size: int) -> _Root:
    return roots.setdefault(key, _Root(size))

  class Unpickler(_TorchUnpickler):
    """Notes the element size of each storage, which its length in the file counts."""

    def persistent_load(self, pid: Any) -> _Storage:
      storage = super().persistent_load(pid)
      widths[str(pid[2])] = storage.dtype.itemsize
      return storage

  def load() -> Any:
    return Unpickler(stream, path, records, root).load()

  if load() != _LEGACY_MAGIC or load() != _LEGACY_VERSION:
    raise errors.CheckpointError(
      f'{path} is not a checkpoint of torch: give a file written by torch.save.'
    )
  system, tree, keys = load(), load(), load()
  if not isinstance(system, dict) or not system.get('little_endian'):
    raise errors.CheckpointError(
      f'{path} was written on a big-endian machine: write it again on another.'
    )
  try:
    for key in keys:
      (elements,) = struct.unpack('<q', stream.read(8))
      if elements * widths[key] != roots[key].size:
        raise ValueError(key)
      roots[key].start = stream.tell()
      stream.skip(roots[key].size)
  except (EOFError, KeyError, TypeError, ValueError) as error:
    raise _truncated(path) from error
  if any(found.start is None for found in roots.values()):
    raise _truncated(path)
  return tree


def _truncated(path: Path) -> errors.CheckpointError:
  return errors.CheckpointError(f'{path} is truncated or damaged: get the checkpoint again.')


def _pickled(value: Any, where: str, storages: list[np.ndarray]) -> bytes:
  """The steps that make a dict or a tensor; `storages` takes the arrays up, the index is the
  storage's key.
  """
  if isinstance(value, Mapping):
    pairs = b''.join(
      _text(name) + _pickled(part, f'{where}{name}/', storages) for name, part in value.items()
    )
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS
  array = np.asarray(value)
  names = {dtype: name for name, dtype in _DTYPES.items()}
  name = names.get(array.dtype.newbyteorder('<'))
  if name is None:
    raise errors.CheckpointError(
      f'{where.rstrip("/")} is of type {array.dtype}, which torch files cannot hold: convert it.'
    )
  storage = next(cls for cls, dtype in _STORAGES.items() if dtype == name)
  array = np.asarray(array, _DTYPES[name], order='C')
  strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
  key = _text(str(len(storages)))
  storages.append(array)
  pid = (
    pickle.MARK
    + _text('storage')
    + _name('torch', storage)
    + key
    + _text('cpu')
    + _integer(array.size)
    + pickle.TUPLE
  )
  return (
    _name('torch._utils', '_rebuild_tensor_v2')
    + pickle.MARK
    + pid
    + pickle.BINPERSID
    + _integer(0)
    + _integers(array.shape)
    + _integers(strides)
    + pickle.NEWFALSE
    + _name('collections', 'OrderedDict')
    + pickle.EMPTY_TUPLE
    + pickle.REDUCE
    + pickle.TUPLE
    + pickle.REDUCE
  )


def _text(value: str) -> bytes:
  data = value.encode('utf-8')
  return pickle.BINUNICODE + struct.pack('<I', len(data)) + data


def _name(module: str, name: str) -> bytes:
  return pickle.GLOBAL + f'{module}\n{name}\n'.encode('ascii')


def _integer(value: int) -> bytes:
  if value < 1 << 31:
    return pickle.BININT + struct.pack('<i', value)
  return pickle.LONG1 + b'\x08' + struct.pack('<q', value)


def _integers(values: Sequence[int]) -> bytes:
  return pickle.MARK + b''.join(map(_integer, values)) + pickle.TUPLE
