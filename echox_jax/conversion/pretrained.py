"""Models that come with this repository: `echox_jax.load('echox-nano')`.

A folder of `configs/pretrained` holds the trained parts of a model, small enough for a repository:

  manifest.json       checksums, and what the rest of the model is taken from
  packed.safetensors  the trained parts: kernels and tables as int8, each output channel with a
                      scale (`PATH.scale`); the vocoder, norms and biases as float16
  config.json, ...    the other files of a model folder (`echox_jax.model_folder`)
  README.md           the model card

The heads of the unit decoders have no rows of text in it, which they never say; these become zeros.
Parts that were not trained come from the packages that carry them. `find` puts a model together
when its name is first used, as a model folder in the cache.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from echox_jax import errors, model_folder, prompts, storage, tensor_files, tokenizer
from echox_jax.config import EchoXConfig
from echox_jax.conversion import packaged_llm, whisper_ct2
from echox_jax.models import quantize, trees
from echox_jax.units import spelling

MANIFEST, PACKED = 'manifest.json', 'packed.safetensors'
_FOLDER = Path(__file__).parents[2] / 'configs' / 'pretrained'
_FORMAT = 1
_SCALE = '.scale'
_SMALL = 4096  # numbers of an array that is not worth being rounded to int8
_EXACT = ('vocoder',)  # groups that stay float16: every rounding of theirs is heard
_UNIT_HEADS = ('t2c/lm_head/embedding', 'echo/lm_head/embedding')
_COPIED = ('tokenizer.model', 'tokenizer.json', model_folder.UNIT_LANGUAGE, model_folder.KMEANS)


@dataclasses.dataclass(frozen=True)
class Packaged:
  """Parameters that an installed package carries.

  Attributes:
    files: the files that they are in; raises MissingExtraError if the package is not installed.
    params: the parameters, by `group/path`.
  """

  files: Callable[[], list[Path]]
  params: Callable[[], Mapping[str, np.ndarray]]


def _whisper(size: str) -> Packaged:
  def params():
    return trees.flatten({'whisper': whisper_ct2.packaged_encoder(size)})

  return Packaged(functools.partial(whisper_ct2.packaged_files, size), params)


def _smollm2() -> Packaged:
  def params():
    from echox_jax.conversion import importers

    model = importers.open_model('llama-gguf', packaged_llm.packaged_file())
    return {path: np.asarray(x, np.float32) for path, x in importers.read_flat(model).items()}

  return Packaged(lambda: [packaged_llm.packaged_file()], params)


PACKAGES = {
  'whisper-tiny.en': _whisper('tiny.en'),
  'whisper-base': _whisper('base'),
  'smollm2-135m': _smollm2(),
}


def names() -> list[str]:
  """The models that this repository holds; none if the package was installed without it."""
  return sorted(path.parent.name.replace('_', '-') for path in _FOLDER.glob(f'*/{MANIFEST}'))


def find(folder: str | os.PathLike[str]) -> str | os.PathLike[str]:
  """The model folder that is meant: `folder` itself or, if that is one of `names` and no folder
  here, the one that the model is put together in.

  Raises:
    MissingExtraError: a package that carries a part of the model is not installed.
    CheckpointError: a file is damaged, or the package holds other weights.
  """
  name = os.fspath(folder)
  if name not in names() or os.path.exists(name):
    return folder
  packed = _FOLDER / name.replace('-', '_')
  manifest = _read_manifest(packed)
  made_from = hashlib.sha256((packed / MANIFEST).read_bytes()).hexdigest()[:16]
  whole = storage.cache_folder() / 'models' / f'{name}-{made_from}'
  if not model_folder.is_model(whole):
    put_together(packed, manifest, whole)
  return whole


def put_together(packed: Path, manifest: Mapping[str, Any], out: Path) -> None:
  """Writes the model folder `out`, float32; raises like `find`."""
  for name, checksum in manifest['files'].items():
    if not (packed / name).is_file() or _checksum([packed / name]) != checksum:
      raise errors.CheckpointError(
        f'{packed / name} is not the file that {MANIFEST} was written for: check it out again.'
      )
  arrays = dict(_decoded(tensor_files.open_tensors(packed / PACKED)))
  for name, checksum in manifest['packages'].items():
    files = PACKAGES[name].files()
    if _checksum(files) != checksum:
      raise errors.CheckpointError(
        f'{", ".join(map(str, files))} holds other weights of {name} than the model was trained '
        'with: install the version that setup.cfg names.'
      )
    params = PACKAGES[name].params()
    if name in manifest.get('rounded', ()):
      params = {path: _rounded(array) for path, array in params.items()}
    arrays |= params
  arrays |= {path: arrays[other] for path, other in manifest['same'].items()}
  cfg = model_folder.read_config(packed)
  if manifest.get('spelled'):
    arrays |= _spelled(packed, cfg)
  for path in manifest.get('unit_heads', ()):
    arrays[path] = _whole_head(arrays[path], cfg)
  with model_folder.writing(out) as beside:
    model_folder.write_params(
      beside,
      {path: (array.shape, np.float32) for path, array in arrays.items()},
      ((path, None, np.asarray(array, np.float32)) for path, array in arrays.items()),
    )
    model_folder.write_rest(
      beside,
      cfg,
      model_folder.read_engine_config(packed),
      {name: packed / name for name in _COPIED if (packed / name).is_file()},
    )


def pack(model: Path, out: Path, without: Collection[str] = ()) -> dict[str, Any]:
  """Writes the trained parts of a model folder, for `configs/pretrained`.

  Args:
    model: an exported model folder.
    out: folder to write; a README.md in it stays.
    without: groups that are left out, such as `t2c`, which only training needs.

  Returns:
    The manifest: `files` and `packages` with checksums; `rounded`, packages whose numbers the model
    has in bfloat16; `same`, paths of equal arrays; `spelled`, tables that the tokenizer gives;
    `unit_heads`, paths of heads without the rows of text that the decoder cannot say;
    `largest_error`, by group: the largest root mean square error of an array, relative to the
    array's own root mean square.

  Raises:
    CheckpointError: as `model_folder.load`.
    ConfigError: there is no such group.
  """
  tensors = model_folder.open_weights(model)
  groups = {path.split('/')[0] for path in tensors}
  if not groups > set(without):
    held = ', '.join(sorted(groups))
    raise errors.ConfigError(
      f'{model} cannot be packed without {", ".join(without)}: it holds {held}.'
    )
  paths = {path for path in tensors if path.split('/')[0] not in without}
  packages, rounded, left_out = {}, [], set()
  for name, source in PACKAGES.items():
    carried, is_rounded = _carried(source, tensors)
    if carried and carried <= paths:
      packages[name] = _checksum(source.files())
      if is_rounded:
        rounded.append(name)
      left_out |= carried
  cfg = model_folder.read_config(model)
  spelled = [
    path
    for path, array in _spelled(model, cfg).items()
    if path in paths and np.array_equal(tensors[path], array)
  ]
  left_out.update(spelled)
  same, first = {}, {}
  for path in [*sorted(left_out), *sorted(paths - left_out)]:
    array = tensors[path]
    other = first.setdefault(_content(array), path) if array.size >= _SMALL else path
    if other != path and path not in left_out:
      same[path] = other
  packed, largest, unit_heads = {}, {}, []
  for path in sorted(paths - left_out - set(same)):
    array = np.asarray(tensors[path])
    if path in _UNIT_HEADS and not prompts.get_profile(cfg.profile).free_unit_ids:
      unit_heads.append(path)
      array = array[_said(cfg)]
    parts = _encoded(path, array)
    packed |= parts
    group, error = path.split('/')[0], _error(array, dict(_decoded(parts))[path])
    largest[group] = max(largest.get(group, 0.0), error)
  out.mkdir(parents=True, exist_ok=True)
  with tensor_files.TensorWriter(
    out / PACKED, {name: (array.shape, array.dtype) for name, array in packed.items()}
  ) as writer:
    for name, array in packed.items():
      writer.write(name, array)
  model_folder.write_rest(
    out,
    cfg,
    model_folder.read_engine_config(model),
    {name: model / name for name in _COPIED if storage.is_file(model / name)},
  )
  names = (PACKED, model_folder.CONFIG, model_folder.ENGINE, *_COPIED)
  manifest = {
    'format': _FORMAT,
    'files': {name: _checksum([out / name]) for name in names if (out / name).is_file()},
    'packages': packages,
    'rounded': rounded,
    'same': same,
    'spelled': spelled,
    'unit_heads': unit_heads,
    'largest_error': {group: round(error, 5) for group, error in largest.items()},
  }
  storage.atomic_write_json(out / MANIFEST, manifest)
  return manifest


def _spelled(folder: Path, cfg: EchoXConfig) -> dict[str, np.ndarray]:
  """The text table of the unit decoders, if the tokenizer of a folder gives it."""
  known = tokenizer.load_tokenizer(folder)
  if cfg.unit_decoder.text_table != spelling.NAME or known is None:
    return {}
  return {'unit_text_embedding/embedding': spelling.table(tokenizer.pieces(known), cfg)}


def _read_manifest(packed: Path) -> dict[str, Any]:
  manifest = json.loads((packed / MANIFEST).read_text('utf-8'))
  if manifest.get('format') != _FORMAT:
    raise errors.CheckpointError(
      f'{packed / MANIFEST} has format {manifest.get("format")!r}, and this version reads '
      f'{_FORMAT}: check both out from one commit.'
    )
  return manifest


def _carried(source: Packaged, tensors: Mapping[str, np.ndarray]) -> tuple[set[str], bool]:
  """Paths of a model that an installed package holds, number by number; and whether the model's
  numbers are rounded to bfloat16, as frozen parameters may be in training.
  """
  try:
    params = source.params()
  except errors.MissingExtraError:
    return set(), False
  if params.keys() <= tensors.keys():
    for is_rounded in (False, True):
      if all(
        np.array_equal(tensors[path], _rounded(array) if is_rounded else array)
        for path, array in params.items()
      ):
        return set(params), is_rounded
  return set(), False


def _rounded(array: np.ndarray) -> np.ndarray:
  return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def _said(cfg: EchoXConfig) -> np.ndarray:
  """The rows of a unit decoder's head that can be chosen: EOT and the unit words."""
  unit_words = np.arange(cfg.unit_decoder.unit_vocab_size) + cfg.llm.vocab_size
  return np.append(cfg.special_ids.eot, unit_words)


def _whole_head(said: np.ndarray, cfg: EchoXConfig) -> np.ndarray:
  whole = np.zeros((cfg.llm.vocab_size + cfg.unit_decoder.unit_vocab_size, said.shape[1]))
  whole[_said(cfg)] = said
  return whole


def _encoded(path: str, array: np.ndarray) -> dict[str, np.ndarray]:
  array = np.asarray(array, np.float32)
  if array.ndim < 2 or array.size < _SMALL or path.split('/')[0] in _EXACT:
    return {path: array.astype(np.float16)}
  is_table = path.endswith('embedding')  # its output channels are rows, those of kernels columns
  kernel = jnp.asarray(np.swapaxes(array, -1, -2) if is_table else array)
  values, scale = quantize.quantize_kernel(kernel)
  values, scale = np.asarray(values), np.asarray(scale)[..., None, :]
  if is_table:
    values, scale = np.swapaxes(values, -1, -2), np.swapaxes(scale, -1, -2)
  return {path: values, path + _SCALE: scale}


def _decoded(packed: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
  for path in packed:
    if not path.endswith(_SCALE):
      array, scale = np.asarray(packed[path], np.float32), path + _SCALE
      yield path, array * packed[scale] if scale in packed else array


def _error(array: np.ndarray, decoded: np.ndarray) -> float:
  array = np.asarray(array, np.float64)
  size = float(np.sqrt(np.mean(np.square(array))))
  return float(np.sqrt(np.mean(np.square(decoded - array)))) / size if size else 0.0


def _content(array: np.ndarray) -> tuple:
  return array.shape, array.dtype.str, hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _checksum(files: list[Path]) -> str:
  digest = hashlib.sha256()
  for file in files:
    digest.update(file.read_bytes())
  return digest.hexdigest()
