"""A model folder: one folder with everything inference needs and no training state.

  config.json          the EchoXConfig
  engine.json          the EngineConfig: inference budgets
  model.safetensors    parameters, keys like `llm/trunk/layers/mlp/up_proj/kernel`
  tokenizer.model      SentencePiece text tokenizer, or tokenizer.json: a byte-pair one
  unit_language.json   units <-> unit words
  kmeans.safetensors   centroids of the units, for whoever makes units of more speech

An imported folder may hold fewer parts, e.g. only an encoder. Code that needs a missing part raises
an error (`require`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from echox_jax import config as config_lib
from echox_jax import errors, kept, storage, tensor_files
from echox_jax import tokenizer as tokenizer_lib
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.models import params as params_lib
from echox_jax.models import trees
from echox_jax.storage import Path
from echox_jax.units.unit_language import UnitLanguage

# Parts of a model needed for text answers, for spoken questions (`hearing`) and for spoken answers.
TEXT, HEARING = ('llm', 'tokenizer'), ('whisper', 'adapter')
SPEAKING = ('unit_text_embedding', 'echo', 'denoising_adapter', 'vocoder', 'unit_language')
# The parameter groups among them.
ANSWERING = tuple(part for part in (*HEARING, *TEXT, *SPEAKING) if part in params_lib.GROUPS)
CONFIG, ENGINE, WEIGHTS = 'config.json', 'engine.json', 'model.safetensors'
UNIT_LANGUAGE, KMEANS = 'unit_language.json', 'kmeans.safetensors'


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A loaded model. `params` maps groups to nested dicts of arrays. `tokenizer` and `unit_language`
  are None if the folder lacks them.
  """

  config: EchoXConfig
  params: Mapping[str, Any]
  engine: EngineConfig = EngineConfig()
  tokenizer: tokenizer_lib.Tokenizer | None = None
  unit_language: UnitLanguage | None = None


def hearing(cfg: EchoXConfig) -> tuple[str, ...]:
  """Returns the parts that a model needs for spoken questions."""
  return HEARING + (('unit_text_embedding',) if cfg.adapter.spelled_ctc else ())


def require(model: Any, parts: Iterable[str], purpose: str = '', remedy: str = '') -> None:
  """Checks that a model has all required parts.

  Args:
    model: a `Bundle`.
    parts: parameter groups, `tokenizer`, `unit_language`.
    purpose: for the message: what the model cannot do without them.
    remedy: for the message: what the user can do without them, if anything.

  Raises:
    CheckpointError: the model lacks parts; the message names them.
  """
  absent = _absent(model, parts)
  if absent:
    raise errors.CheckpointError(
      f'the model lacks {", ".join(absent)} (it holds {", ".join(model.params)})'
      f'{purpose and f", so it cannot {purpose}"}: '
      f'{remedy and f"{remedy}, or "}import or export one with these parts.'
    )


def has(model: Any, parts: Iterable[str]) -> bool:
  """Whether a model has all of `parts`, see `require`."""
  return not _absent(model, parts)


def _absent(model: Any, parts: Iterable[str]) -> list[str]:
  return [part for part in parts if part not in model.params and getattr(model, part, None) is None]


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary local folder to write a model into. It replaces `folder` if the block
  succeeds; otherwise it is removed.

  Raises:
    CheckpointError: `folder` exists and is neither empty nor a model.
  """
  check_replaceable(folder)
  with storage.atomic_dir(folder, CONFIG) as beside:
    yield beside


def is_model(folder: str | os.PathLike[str]) -> bool:
  """Returns whether `folder` holds an EchoX config."""
  return config_has(folder, 'special_ids')


def config_has(folder: str | os.PathLike[str], field: str) -> bool:
  """Returns whether `folder` holds a config.json with the field `field`."""
  try:
    return field in json.loads((storage.path(folder) / CONFIG).read_text('utf-8'))
  except (OSError, ValueError, TypeError):
    return False


def check_replaceable(
  folder: str | os.PathLike[str],
  is_own: Callable[[Path], bool] = is_model,
  what: str = 'an exported model',
) -> None:
  """Raises CheckpointError if `folder` exists, is not empty and is not recognised by `is_own`.
  `what` names the expected kind in the message.
  """
  folder = storage.path(folder)
  if storage.is_incomplete(folder):
    return
  if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_own(folder))):
    raise errors.CheckpointError(f'{folder} exists and is not {what}: choose another folder.')


def write_params(
  folder: Path,
  specs: Mapping[str, tensor_files.Spec],
  arrays: Iterable[tuple[str, int | None, np.ndarray]],
) -> None:
  """Writes parameters one by one.

  Args:
    folder: the model folder.
    specs: `group/path` -> (shape, dtype).
    arrays: (`group/path`, row of the first axis or None = all rows, values). They must cover all of
      `specs`.
  """
  with tensor_files.TensorWriter(folder / WEIGHTS, specs) as writer:
    for path, row, value in arrays:
      writer.write(path, value, row)


def write_rest(
  folder: Path,
  config: EchoXConfig,
  engine: EngineConfig,
  copies: Mapping[str, Path | bytes],
  unit_language: UnitLanguage | None = None,
) -> None:
  """Writes the configs and the other files. `copies` maps a name in the folder to a file or to its
  content.
  """
  storage.atomic_write_json(folder / CONFIG, config_lib.to_dict(config))
  storage.atomic_write_json(folder / ENGINE, config_lib.to_dict(engine))
  for name, file in copies.items():
    content = file if isinstance(file, bytes) else file.read_bytes()
    storage.atomic_write_bytes(folder / name, content)
  if unit_language is not None:
    unit_language.save(folder / UNIT_LANGUAGE)


def load(folder: str | os.PathLike[str]) -> Bundle:
  """Opens a model folder with whatever parts it holds.

  Raises:
    CheckpointError: the folder or a part of it is missing, damaged or does not match the config.
    ConfigError: its config has fields that this version does not know.
  """
  folder = storage.path(folder)
  params, language = load_params(folder), folder / UNIT_LANGUAGE
  return Bundle(
    read_config(folder),
    params,
    read_engine_config(folder),
    tokenizer_lib.load_tokenizer(folder),
    UnitLanguage.load(language) if storage.is_file(language) else None,
  )


def load_params(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the parameters of a model folder as a dict of groups; raises like `load`."""
  return trees.unflatten(dict(open_weights(folder)))


def open_weights(folder: str | os.PathLike[str]) -> tensor_files.TensorFiles:
  """Opens the parameters of a model folder, which are read on access; raises like `load`."""
  tensors = tensor_files.open_tensors(_file(folder, WEIGHTS))
  check_shapes(read_config(folder), tensors.shapes, str(tensors.path))
  return tensors


def read_config(folder: str | os.PathLike[str]) -> EchoXConfig:
  """Returns the config of a model folder; raises like `load`."""
  model, _ = config_lib.split_model(_read_json(_file(folder, CONFIG)))
  return config_lib.build(EchoXConfig, model)


def read_engine_config(folder: str | os.PathLike[str]) -> EngineConfig:
  """Returns the inference budgets of a model folder; raises like `load`.

  Earlier versions kept the budgets in config.json.
  """
  file = storage.path(folder) / ENGINE
  if storage.is_file(file):
    values = _read_json(file)
  else:
    _, moved = config_lib.split_model(_read_json(_file(folder, CONFIG)))
    values = moved.get('engine', {})
  return config_lib.build(EngineConfig, values, 'engine')


def _read_json(file: Path) -> dict[str, Any]:
  try:
    values = json.loads(file.read_text('utf-8'))
  except ValueError as error:
    raise errors.CheckpointError(
      f'{file} is not valid JSON ({error}): export the model again.'
    ) from error
  if not isinstance(values, dict):
    raise errors.CheckpointError(f'{file} is not a config: export the model again.')
  return values


def _file(folder: str | os.PathLike[str], name: str) -> Path:
  """Returns the path of a file that every model folder must have."""
  file = storage.path(folder) / name
  if not storage.is_file(file):
    raise errors.CheckpointError(
      f'{folder} is not an exported model ({name} is missing): '
      'make one with `python -m launch.convert export --checkpoint WORKDIR --to safetensors '
      '--out DIR`.'
    )
  return file


def check_shapes(config: EchoXConfig, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
  """Checks that every group is complete and matches the config.

  Raises:
    CheckpointError: parameters are missing, unknown or have another shape.
  """
  groups = {path.split('/')[0] for path in shapes} & set(params_lib.GROUPS)
  params_lib.check_shapes(shapes, _wanted_shapes(config, sorted(groups)), what)


def _wanted_shapes(config: EchoXConfig, groups: list[str]) -> dict[str, tuple[int, ...]]:
  """Shapes of all parameters of some groups; they are kept, since finding them takes seconds."""
  where = kept.place('shapes', config, groups)
  before = where and kept.read(where)
  if before:
    return {path: tuple(shape) for path, shape in json.loads(before).items()}
  found = params_lib.param_shapes(config, groups)
  if where:
    kept.write(where, json.dumps(found).encode())
  return found
