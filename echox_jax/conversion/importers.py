"""Foreign checkpoints -> model folders: the supported kinds, and writing one tensor by tensor."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import importlib
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from tqdm import tqdm

from echox_jax import errors, model_folder, tensor_files
from echox_jax.config import EchoXConfig
from echox_jax.conversion import lazy, rules
from echox_jax.conversion.imported import Imported
from echox_jax.models import params as params_lib
from echox_jax.models import positions, trees
from echox_jax.models.params import param_shapes
from echox_jax.storage import Path

# Kind -> (module of echox_jax.conversion, function `(source, **options) -> Imported`, its options).
# A module is imported only when its kind is requested.
_KINDS = {
  'echox': ('echox_hf', 'open_echox', ('config', 'base', 'unit_vocab')),
  'llm': ('llm_hf', 'open_llm', ('config', 'base', 'profile')),
  'llm-gguf': ('llm_gguf', 'open_llm_gguf', ('profile',)),
  'whisper': ('whisper_hf', 'open_whisper', ('config',)),
  'hubert': ('hubert_hf', 'open_hubert', ('config',)),
  'hubert-fairseq': ('hubert_fairseq', 'open_hubert_fairseq', ()),
  'unit-vocoder': ('unit_vocoder', 'open_unit_vocoder', ('config',)),
  'whisper-ct2': ('whisper_ct2', 'open_whisper_ct2', ()),
}
# Names that earlier versions gave to kinds.
_KINDS |= {'llama': _KINDS['llm'], 'llama-gguf': _KINDS['llm-gguf']}
KMEANS = 'kmeans'  # writes a separate file instead of parameters
KINDS = (*_KINDS, KMEANS)
# groups that `echox` may take from other checkpoints, because its own lacks them
PARTS = ('whisper', 'vocoder')
DTYPES = {'keep': None, 'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}

# Group -> its kind in another format, and in safetensors.
_FOREIGN = {
  'whisper': ('whisper-ct2', 'whisper'),
  'hubert': ('hubert-fairseq', 'hubert'),
  'vocoder': ('unit-vocoder', 'unit-vocoder'),
}

# (path, row of the first axis or None = all rows, values)
Rows = Iterator[tuple[str, int | None, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Model:
  """Opened checkpoints that make up one model: their common config, and what each one gives."""

  config: EchoXConfig
  parts: Sequence[Imported]

  @property
  def groups(self) -> tuple[str, ...]:
    return tuple(group for part in self.parts for group in part.groups)

  @property
  def notes(self) -> tuple[str, ...]:
    """Sentences for the user."""
    return tuple(note for part in self.parts for note in part.notes)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters.

    Raises:
      CheckpointError: lists tensors that are missing, unexpected or of the wrong shape.
    """
    found = {}
    for part in self.parts:
      own = param_shapes(self.config, part.groups)
      params_lib.check_shapes(
        rules.shapes_of(part.tensors), rules.tensor_shapes(part.rules, own), part.what
      )
      found |= own
    return found

  def dtypes(self) -> dict[str, np.dtype]:
    """The stored dtype of each parameter."""
    found = {}
    for part in self.parts:
      stored = {name: tensor.dtype for name, tensor in lazy.entries(part.tensors).items()}
      for rule in part.rules:
        found[rule.path] = functools.reduce(
          jnp.promote_types, {stored[source] for source in rule.sources()}
        )
    return found

  def read(self) -> Rows:
    """All parameters, with one tensor in memory at a time."""
    for part in self.parts:
      yield from rules.read(part.tensors, part.rules)


def open_model(kind: str, source: Path, **options: Path | str | None) -> Model:
  """Opens a checkpoint without reading large tensors.

  Args:
    kind: one of `KINDS` except k-means.
    source: file, folder or name of a package.
    **options: `config`, `base`, `unit_vocab`, `profile` as in the function of the kind;
      `vocoder_config`; for `echox` also `whisper` and `vocoder`: sources of these groups, any kind
      of checkpoint that has them.

  Raises:
    EchoXError: an unknown kind, an option that the kind does not accept, or a checkpoint that is
      missing, damaged or unsuitable.
  """
  given = {name: value for name, value in options.items() if value is not None}
  outside = (
    {group: given.pop(group) for group in PARTS if group in given} if kind == 'echox' else {}
  )
  vocoder_config = given.pop('vocoder_config', None) if outside.get('vocoder') else None
  main = _open(kind, source, **given)
  parts, config = [main], main.config
  for group, where in outside.items():
    part = open_group(group, where, vocoder_config if group == 'vocoder' else None)
    _check_fit(main, part, group)
    config = dataclasses.replace(config, **{group: getattr(part.config, group)})
    parts.append(dataclasses.replace(part, groups=(group,)))
  model = Model(config, parts)
  if kind == 'echox':  # the other kinds are parts; their config has defaults for the rest
    positions.check(config, main.engine, model.groups)
  return model


def open_group(group: str, source: Path, config: Path | None = None) -> Imported:
  """One group (`whisper`, `hubert` or `vocoder`) from any source that holds it: a model folder of
  ours, or a foreign checkpoint.
  """
  if model_folder.is_model(source):
    return _open_own(group, source)
  return _open(
    _FOREIGN[group][_is_safetensors(source)], source, **({'config': config} if config else {})
  )


def load_group(group: str, source: Path) -> tuple[Any, dict]:
  """(config section, parameters as stored) of one group; see `open_group`."""
  part = open_group(group, source)
  return getattr(part.config, group), trees.unflatten(read_flat(Model(part.config, [part])))[group]


def read_flat(model: Model) -> dict[str, np.ndarray]:
  """All parameters of a foreign checkpoint, as stored, by `group/path`."""
  shapes, dtypes, flat = model.shapes(), model.dtypes(), {}
  for path, row, value in model.read():
    if row is None:
      flat[path] = np.ascontiguousarray(value)
    else:
      flat.setdefault(path, np.empty(shapes[path], dtypes[path]))[row] = value
  return flat


def write_model(model: Model, out: Path, dtype: str = 'keep', progress: bool = True) -> int:
  """Writes a model folder completely or not at all, with a few tensors in memory at a time.

  Args:
    model: opened checkpoints.
    out: the folder.
    dtype: dtype of the stored parameters; a key of `DTYPES`.
    progress: whether to show a bar.

  Returns:
    Bytes of parameters.

  Raises:
    CheckpointError: tensors do not fit, a file is damaged, or `out` exists and is not a model.
  """
  specs = specs_of(model, dtype)
  with model_folder.writing(out) as beside:
    model_folder.write_params(beside, specs, watched(model.read(), specs, progress))
    write_rest(model, beside)
  return sum(_bytes(*spec) for spec in specs.values())


def write_kmeans(source: Path, out: Path) -> tuple[int, int]:
  """Writes the centroids of a k-means to `out`/kmeans.safetensors; returns (units, width)."""
  from echox_jax.conversion import joblib_file
  from echox_jax.units import kmeans

  centroids = joblib_file.open_kmeans(source)
  kmeans.save(out / 'kmeans.safetensors', centroids)
  return centroids.shape


def write_rest(model: Model, folder: Path) -> None:
  """Writes config, tokenizer and unit language of a model folder."""
  copies = {name: file for part in reversed(model.parts) for name, file in part.files.items()}
  main = model.parts[0]
  model_folder.write_rest(folder, model.config, main.engine, copies, main.unit_language)


def specs_of(model: Model, dtype: str) -> dict[str, tensor_files.Spec]:
  """Shape and dtype of each parameter; checks all tensors."""
  shapes, stored = model.shapes(), {} if DTYPES[dtype] else model.dtypes()
  return {path: (shape, DTYPES[dtype] or stored[path]) for path, shape in shapes.items()}


def watched(rows: Rows, specs: dict[str, tensor_files.Spec], progress: bool) -> Rows:
  """Yields `rows` and shows a bar of the bytes consumed."""
  total = sum(_bytes(*spec) for spec in specs.values())
  with tqdm(
    total=total,
    unit='B',
    unit_scale=True,
    desc='importing',
    disable=None if progress else True,
    mininterval=1.0,
  ) as bar:
    for path, row, value in rows:
      yield path, row, value
      bar.update(value.size * specs[path][1].itemsize)


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
  return int(np.prod(shape)) * dtype.itemsize


def _open(kind: str, source: Path, **options: Path | str) -> Imported:
  if kind not in _KINDS:
    raise errors.EchoXError(f'there is no kind {kind!r}: use one of {", ".join(KINDS)}.')
  module, function, known = _KINDS[kind]
  foreign = [f'--{name.replace("_", "-")}' for name in options if name not in known]
  if foreign:
    raise errors.EchoXError(f'kind {kind!r} does not accept {", ".join(foreign)}: leave it out.')
  return _function(module, function)(source, **options)


def _function(module: str, name: str) -> Callable[..., Imported]:
  return getattr(importlib.import_module(f'echox_jax.conversion.{module}'), name)


def _open_own(group: str, folder: Path) -> Imported:
  """A group of our own model folder: every tensor is the parameter of the same name."""
  config = model_folder.read_config(folder)
  entries = {
    name: tensor
    for name, tensor in lazy.entries(tensor_files.open_tensors(folder)).items()
    if name.startswith(group + '/')
  }
  if not entries:
    raise errors.CheckpointError(
      f'{folder} has no parameters of {group}: give a folder that holds them.'
    )
  own = [rules.Rule(path, path) for path in param_shapes(config, (group,))]
  return Imported(f'the {group} in {folder}', config, (group,), own, lazy.LazyTensors(entries))


def _is_safetensors(source: Path) -> bool:
  """True also for transformers folders, so that the error names what is missing in them."""
  return source.suffix == '.safetensors' or (
    source.is_dir() and not (source / 'model.bin').is_file()
  )


def _check_fit(main: Imported, part: Imported, group: str) -> None:
  """Checks that an outside encoder has the width that the adapter expects."""
  wanted, found = main.config.whisper.hidden_size, part.config.whisper.hidden_size
  if group == 'whisper' and 'adapter' in main.groups and wanted != found:
    raise errors.CheckpointError(
      f'{part.what} gives states of width {found}, but {main.what} '
      f'expects {wanted}: give the encoder it was trained with.'
    )
