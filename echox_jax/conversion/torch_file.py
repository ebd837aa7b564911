"""Reads checkpoints of torch.save without torch and without running code in them, and writes them.

There are two layouts. Since torch 1.6 a checkpoint is a zip archive of `NAME/data.pkl` and the
stored bytes `NAME/data/KEY`, all uncompressed. Before, it was a series of pickles (magic number,
version, system, the objects, the storage keys), followed for each key by the number of elements
(int64) and the bytes. In both a tensor is a call that names its storage by a persistent id.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import io
import math
import os
from pathlib import Path
import pickle
import re
import struct
import sys
import types
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from echox_jax import errors, storage
from echox_jax.conversion import lazy, pickles

# torch type -> (its storage class, numpy type).
_TYPES = {
  'float64': ('DoubleStorage', np.dtype('<f8')),
  'float32': ('FloatStorage', np.dtype('<f4')),
  'float16': ('HalfStorage', np.dtype('<f2')),
  'bfloat16': ('BFloat16Storage', np.dtype(ml_dtypes.bfloat16)),
  'int64': ('LongStorage', np.dtype('<i8')),
  'int32': ('IntStorage', np.dtype('<i4')),
  'int16': ('ShortStorage', np.dtype('<i2')),
  'int8': ('CharStorage', np.dtype('i1')),
  'uint8': ('ByteStorage', np.dtype('u1')),
  'bool': ('BoolStorage', np.dtype('?')),
}
_DTYPES = {f'torch.{name}': dtype for name, (_, dtype) in _TYPES.items()}
_STORAGES = {f'torch.{storage}': dtype for storage, dtype in _TYPES.values()} | dict.fromkeys(
  ('torch.UntypedStorage', 'torch.storage.UntypedStorage'), np.dtype('u1')
)

# What fairseq checkpoints hold beside the tensors: configs, vocabularies, meters. They are only
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
    f'builtins.{cls.__name__}' for cls in (bool, bytes, dict, float, int, list, object, str, tuple)
  ),
)

_ZIP_MAGIC = b'PK\x03\x04'
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_ALIGNMENT = 64


@dataclasses.dataclass
class _Root:
  """Bytes of a file that storages are views of; older files give the position only after the
  objects.
  """

  size: int
  start: int | None = None
  width: int = 1  # bytes per element, the unit of sizes in older files


@dataclasses.dataclass(frozen=True)
class _Storage:
  root: _Root
  dtype: np.dtype
  first: int  # first byte in the root


def load_torch(path: str | os.PathLike[str], records: Sequence[str] = ()) -> Any:
  """The content of a torch checkpoint: dicts, lists, numbers, text, and a `lazy.Tensor` for each
  tensor.

  Args:
    path: the file.
    records: names of classes (or of modules, with a `.` at the end) that may occur; each such
      object becomes a `pickles.Record`.

  Raises:
    CheckpointError: it is not a torch checkpoint, is truncated or damaged, or names something
      other than plain tensors and `records`.
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
  """The tensors under `entry` of the result of `load_torch`.

  Raises:
    CheckpointError: there is no such entry, or something in it is not a tensor (named).
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
      f'{path} has entries under {entry!r} that are not tensors ({", ".join(others)}): remove them.'
    )
  return lazy.LazyTensors(found)


def write_torch(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> Path:
  """Writes nested dicts of arrays as a zip checkpoint that `torch.load(path, weights_only=True)`
  opens.

  The whole file is assembled in memory. Arrays that are not C-contiguous and little-endian are
  copied.

  Raises:
    CheckpointError: torch has no storage for the type of an array.
  """
  program, file = io.BytesIO(), io.BytesIO()
  pickler = _Pickler(program)
  with _names_of_torch():
    pickler.dump(_writable(tree, ''))
  with zipfile.ZipFile(file, 'w') as archive:
    for name, data in [
      ('data.pkl', program.getvalue()),
      ('byteorder', b'little'),
      *((f'data/{i}', array.tobytes()) for i, array in enumerate(pickler.storages)),
      ('version', b'3\n'),
    ]:
      info = zipfile.ZipInfo(f'archive/{name}')
      start = file.tell() + 30 + len(info.filename) + 4
      padding = -start % _ALIGNMENT  # as torch does, so that it can map the file
      info.extra = b'FB' + struct.pack('<H', padding) + bytes(padding)
      archive.writestr(info, data)
  return storage.atomic_write_bytes(path, file.getbuffer())


class _TorchUnpickler(pickles.SafeUnpickler):
  """Reads the objects; `root` finds a storage: (key, elements, width) -> _Root."""

  def __init__(self, stream, path, records, root):
    makers = dict(pickles.PLAIN) | {
      'torch._utils._rebuild_tensor': self._tensor,
      'torch._utils._rebuild_tensor_v2': self._tensor,
      'torch._utils._rebuild_tensor_v3': self._typed_tensor,
      'torch._utils._rebuild_parameter': lambda data, *_: data,
      'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
      'torch.Size': pickles.check_sizes,
    }
    super().__init__(stream, path, makers, (*records, 'torch.device', *_STORAGES, *_DTYPES))
    self._root = root

  def persistent_load(self, pid: Any) -> _Storage:
    """A storage: ('storage', class, key, device, elements[, view])."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != 'storage':
      raise pickle.UnpicklingError('a persistent id that is not a storage')
    _, cls, key, _, elements, *view = pid
    dtype = _STORAGES.get(cls.name) if isinstance(cls, pickles.Global) else None
    if dtype is None or type(key) not in (str, int) or type(elements) is not int or elements < 0:
      raise pickle.UnpicklingError('a storage of no known type')
    first = pickles.check_sizes(view[0][1:])[0] if view and view[0] is not None else 0
    return _Storage(self._root(str(key), elements, dtype.itemsize), dtype, first * dtype.itemsize)

  def _tensor(
    self, storage, offset, shape, strides, requires_grad=False, hooks=None, bits=None
  ) -> lazy.Tensor:
    del requires_grad, hooks
    if not isinstance(storage, _Storage) or bits:
      raise pickle.UnpicklingError('a tensor of no plain storage')
    dtype, width = storage.dtype, storage.dtype.itemsize
    offset, *_ = pickles.check_sizes((offset,))
    shape, strides = pickles.check_sizes(shape), pickles.check_sizes(strides)
    if len(shape) != len(strides) or math.prod(shape) * width > sys.maxsize:
      raise pickle.UnpicklingError('a tensor whose sizes cannot be')
    # Bytes from the first value of the tensor to the end of its last.
    span = 0 if 0 in shape else width * (1 + sum((n - 1) * s for n, s in zip(shape, strides)))
    first = storage.first + offset * width
    if first + span > storage.root.size:
      raise pickle.UnpicklingError('a tensor that is larger than its storage')

    def read() -> np.ndarray:
      if not span:
        return np.zeros(shape, dtype)
      data = _bytes(self.where, storage.root.start + first, span)
      return np.ndarray(shape, dtype, data, strides=tuple(s * width for s in strides))

    return lazy.Tensor(shape, dtype, read)

  def _typed_tensor(
    self, storage, offset, shape, strides, requires_grad, hooks, dtype, bits=None
  ) -> lazy.Tensor:
    known = _DTYPES.get(dtype.name) if isinstance(dtype, pickles.Global) else None
    if known is None or not isinstance(storage, _Storage):
      raise pickle.UnpicklingError('a tensor of no known type')
    storage = dataclasses.replace(storage, dtype=known)
    return self._tensor(storage, offset, shape, strides, requires_grad, hooks, bits)


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
    name.removesuffix('data.pkl') for name in infos if re.fullmatch('[^/]*/data.pkl', name)
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

  def content(name: str) -> bytes:
    return _bytes(path, roots[name].start, roots[name].size)

  def root(key: str, elements: int, width: int) -> _Root:
    found = roots.get(f'data/{key}')
    if found is None or found.size < elements * width:
      raise pickle.UnpicklingError(f'storage {key:.40} is missing or too short')
    return found

  if 'byteorder' in roots and content('byteorder') != b'little':
    raise _big_endian(path)
  stream = io.BytesIO(content('data.pkl'))
  return _TorchUnpickler(stream, path, records, root).load()


def _entry(path: Path, f: io.BufferedIOBase, info: zipfile.ZipInfo) -> _Root:
  """Where the bytes of an archive entry are."""
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
  size = os.fstat(f.fileno()).st_size
  roots: dict[str, _Root] = {}

  def root(key: str, elements: int, width: int) -> _Root:
    return roots.setdefault(key, _Root(elements * width, width=width))

  def load() -> Any:
    return _TorchUnpickler(f, path, records, root).load()

  if load() != _LEGACY_MAGIC or load() != _LEGACY_VERSION:
    raise errors.CheckpointError(
      f'{path} is not a checkpoint of torch: give a file written by torch.save.'
    )
  system, tree, keys = load(), load(), load()
  if not isinstance(system, dict) or not system.get('little_endian'):
    raise _big_endian(path)
  try:
    for key in keys:
      (elements,) = struct.unpack('<q', f.read(8))
      if type(key) is not str:  # hashing it may never end
        raise ValueError
      found = roots[key]
      found.start = f.tell()
      if elements * found.width != found.size or f.seek(found.size, os.SEEK_CUR) > size:
        raise ValueError
  except (struct.error, KeyError, OverflowError, OSError, TypeError, ValueError) as error:
    raise _truncated(path) from error
  if any(found.start is None for found in roots.values()):
    raise _truncated(path)
  return tree


def _truncated(path: Path) -> errors.CheckpointError:
  return errors.CheckpointError(f'{path} is truncated or damaged: get the checkpoint again.')


def _big_endian(path: Path) -> errors.CheckpointError:
  return errors.CheckpointError(
    f'{path} was written on a big-endian machine: write it again on another.'
  )


@dataclasses.dataclass(frozen=True)
class _Written:
  """An array that is pickled as the call that makes a tensor from its bytes."""

  array: np.ndarray

  def __reduce__(self) -> tuple:
    shape = self.array.shape
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    rebuild = sys.modules['torch._utils']._rebuild_tensor_v2
    return rebuild, (self.array, 0, shape, strides, False, collections.OrderedDict())


class _Pickler(pickle.Pickler):
  """Collects the arrays in `storages` and writes the index of each instead."""

  def __init__(self, file: io.BytesIO):
    super().__init__(file, protocol=2)
    self.storages: list[np.ndarray] = []

  def persistent_id(self, value: Any) -> tuple | None:
    """Overrides how arrays are written: as ids of storages."""
    if not isinstance(value, np.ndarray):
      return None
    self.storages.append(value)
    name = next(storage for storage, dtype in _TYPES.values() if dtype == value.dtype)
    key = str(len(self.storages) - 1)
    return 'storage', getattr(sys.modules['torch'], name), key, 'cpu', value.size


def _writable(value: Any, where: str) -> Any:
  """The tree with each array in the form that the file stores."""
  if isinstance(value, Mapping):
    return {name: _writable(part, f'{where}{name}/') for name, part in value.items()}
  array = np.asarray(value)
  dtype = array.dtype.newbyteorder('<')
  if dtype not in _DTYPES.values():
    raise errors.CheckpointError(
      f'{where.rstrip("/")} is of type {array.dtype}, which torch files cannot hold: convert it.'
    )
  return _Written(np.asarray(array, dtype, order='C'))


@contextlib.contextmanager
def _names_of_torch() -> Iterator[None]:
  """Lets pickle find the names of torch while torch is not loaded: pickle refuses to write a name
  that it cannot find.
  """
  names = {'torch': [name for name, _ in _TYPES.values()], 'torch._utils': ['_rebuild_tensor_v2']}
  added = {module: types.ModuleType(module) for module in names.keys() - sys.modules.keys()}
  for module, stand_in in added.items():
    for name in names[module]:
      setattr(stand_in, name, type(name, (), {'__module__': module}))
  sys.modules.update(added)
  try:
    yield
  finally:
    for module in added:
      sys.modules.pop(module, None)
