"""Reads k-means models of scikit-learn dumped by joblib, without either package and without running
any code in the file (facts 11).

joblib writes a pickle with a `NumpyArrayWrapper` for each array. The array's bytes follow within
the stream, right after the step that gives the wrapper its state. The whole file may be compressed.
"""

import bz2
from collections.abc import Callable
import gzip
import io
import lzma
import math
import os
from pathlib import Path
import pickle
from typing import Any, BinaryIO
import zlib

import numpy as np

from echox_jax import errors
from echox_jax.conversion import pickles
from echox_jax.units import kmeans

_WRAPPERS = (
  'joblib.numpy_pickle.NumpyArrayWrapper',
  'sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper',
)
_MODELS = tuple(
  f'sklearn.cluster.{module}.{cls}'
  for module in ('_kmeans', 'k_means_')
  for cls in ('KMeans', 'MiniBatchKMeans')
)
# What a model may hold besides its arrays: the state of its random generator.
_RECORDS = (
  *_WRAPPERS,
  *_MODELS,
  'numpy.random._mt19937.MT19937',
  'numpy.random.__RandomState_ctor',
  'numpy.random._pickle.__randomstate_ctor',
  'numpy.random._pickle.__bit_generator_ctor',
  'numpy.random.mtrand.RandomState',
  'numpy.random.bit_generator.SeedSequence',
)
_MAX_BYTES = 1 << 30  # of a decompressed model; mHuBERT's has 3 MB


def open_kmeans(source: Path) -> np.ndarray:
  """float32[K,D] centroids of a k-means model: a joblib dump, an `.npy` file, or our own
  `.safetensors`.

  Raises:
    CheckpointError: the file is missing or damaged, is not a k-means model, or its pickle names
      something else.
  """
  source = Path(source)
  if not source.is_file():
    raise errors.CheckpointError(f'{source} does not exist: give the file of the k-means model.')
  if source.suffix == '.safetensors':
    centroids = kmeans.load(source)
  elif source.suffix == '.npy':
    try:
      centroids = np.load(source, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
      raise errors.CheckpointError(
        f'{source} is not an array of plain numbers: give an .npy file of centroids.'
      ) from error
  else:
    model = load_joblib(source)
    state = model.state if isinstance(model, pickles.Record) and model.name in _MODELS else None
    centroids = state.get('cluster_centers_') if isinstance(state, dict) else None
    if not isinstance(centroids, np.ndarray):
      raise errors.CheckpointError(
        f'{source} holds no fitted k-means model of scikit-learn: give '
        'one that has cluster_centers_.'
      )
  with np.errstate(over='ignore'):
    numbers = (
      centroids.astype(np.float32) if centroids.dtype.kind in 'fiu' else np.zeros(0, np.float32)
    )
  if numbers.ndim != 2 or not numbers.size or not np.isfinite(numbers).all():
    raise errors.CheckpointError(
      f'{source} holds no centroids [K,D] of finite numbers: give the k-means model again.'
    )
  return np.ascontiguousarray(numbers)


def load_joblib(path: str | os.PathLike[str]) -> Any:
  """The content of a joblib dump: dicts, lists, numbers, arrays; other objects as
  `pickles.Record`s.

  Raises:
    CheckpointError: the file is damaged, or names something that k-means models do not have.
  """
  path = Path(path)
  with open(path, 'rb') as f:
    file = _decompressed(path, f)
    return _JoblibUnpickler(file, path, pickles.PLAIN, _RECORDS).load()


class _JoblibUnpickler(pickles.SafeUnpickler):
  """Replaces wrappers by their arrays."""

  def build(self, target: Any, state: Any) -> Any:
    """As for all objects, but a wrapper becomes the array whose bytes follow."""
    target = super().build(target, state)
    if isinstance(target, pickles.Record) and target.name in _WRAPPERS:
      return self._array(target.state)
    return target

  def _array(self, state: dict[str, Any]) -> np.ndarray:
    dtype, shape = pickles.dtype_of(state['dtype']), pickles.check_sizes(state['shape'])
    if state['order'] not in ('C', 'F'):
      raise pickle.UnpicklingError('an array of no order')
    # since joblib 1.2: one byte gives the length of the padding after it
    if state.get('numpy_array_alignment_bytes') is not None:
      self.stream.read(self.stream.read(1)[0])
    data = self.stream.read(math.prod(shape) * dtype.itemsize)
    return (
      np.frombuffer(data, dtype)
      .reshape(shape, order=state['order'])
      .astype(dtype.newbyteorder('='))
    )


def _zlib_open(f: BinaryIO) -> io.BytesIO:
  unpacker = zlib.decompressobj()
  data = unpacker.decompress(f.read(), _MAX_BYTES + 1)
  if len(data) <= _MAX_BYTES and not unpacker.eof:
    raise EOFError
  return io.BytesIO(data)


_FORMATS: dict[bytes, Callable[[BinaryIO], Any]] = {
  b'\x1f\x8b': gzip.open,
  b'BZ': bz2.open,
  b'\xfd7zXZ': lzma.open,
  b']\x00': lzma.open,
  b'\x78': _zlib_open,
}
_UNREADABLE = {
  b'\x04\x22\x4d\x18': 'compressed by lz4',
  b'ZF': 'of joblib before 0.10',
  b'PK\x03\x04': 'a zip archive',
}


def _decompressed(path: Path, f: BinaryIO) -> BinaryIO:
  """The stream of a file that may be compressed."""
  start = f.read(8)
  f.seek(0)
  for magic, what in _UNREADABLE.items():
    if start.startswith(magic):
      raise errors.CheckpointError(
        f'{path} is {what}, which is not read here: load it with joblib and dump it again.'
      )
  opener = next((opener for magic, opener in _FORMATS.items() if start.startswith(magic)), None)
  if opener is None:
    return f
  try:
    data = opener(f).read(_MAX_BYTES + 1)
  except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
    raise errors.CheckpointError(
      f'{path} is truncated or damaged: get the k-means model again.'
    ) from error
  if len(data) > _MAX_BYTES:
    raise errors.CheckpointError(
      f'{path} unpacks to more than {_MAX_BYTES >> 20} MiB, which no '
      'k-means model has: check the file.'
    )
  return io.BytesIO(data)
