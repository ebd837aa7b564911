"""An exported model: one folder that holds all it takes to answer, and nothing of training.

  config.json          the EchoXConfig
  model.safetensors    parameters, keys like `llm/trunk/layers/mlp/up_proj/kernel`
  tokenizer.model      SentencePiece text tokenizer
  unit_language.json   units <-> unit words
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from echox_jax import config as config_lib
from echox_jax import errors
from echox_jax import files
from echox_jax import trees
from echox_jax.config import EchoXConfig
from echox_jax.tokenizer import TextTokenizer
from echox_jax.units.unit_language import UnitLanguage

GROUPS = ('whisper', 'adapter', 'llm', 'unit_text_embedding', 'echo', 'denoising_adapter', 'vocoder')
CONFIG, WEIGHTS, TOKENIZER, UNIT_LANGUAGE = 'config.json', 'model.safetensors', 'tokenizer.model', 'unit_language.json'


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A loaded model. `params` is a dict of groups (see `GROUPS`) of nested dicts of arrays."""
  config: EchoXConfig
  params: Mapping[str, Any]
  tokenizer: TextTokenizer
  unit_language: UnitLanguage


def save(folder: str | os.PathLike[str], config: EchoXConfig, params: Mapping[str, Any], tokenizer_file: Path,
         unit_language_file: Path) -> Path:
  """Writes a bundle, whole or not at all.

  Args:
    folder: where to; an earlier bundle there is replaced.
    config: of the model.
    params: dict of groups.
    tokenizer_file: copied in.
    unit_language_file: copied in.

  Returns:
    The folder.

  Raises:
    CheckpointError: a group is missing, or the folder exists and is no bundle.
  """
  folder = Path(folder)
  missing = [g for g in GROUPS if g not in params]
  if missing:
    raise errors.CheckpointError(f'cannot export without the parameters of {", ".join(missing)}: train the stages that make them first.')
  if folder.exists() and any(folder.iterdir()) and not (folder / WEIGHTS).exists():
    raise errors.CheckpointError(f'{folder} exists and is not an exported model: choose another folder.')
  with files.atomic_dir(folder) as beside:
    flat = trees.flatten({g: params[g] for g in GROUPS})
    flat = {key: np.ascontiguousarray(value) for key, value in flat.items()}
    safetensors.numpy.save_file(flat, beside / WEIGHTS)
    files.atomic_write_json(beside / CONFIG, config_lib.to_dict(config))
    shutil.copyfile(tokenizer_file, beside / TOKENIZER)
    shutil.copyfile(unit_language_file, beside / UNIT_LANGUAGE)
  return folder


def load(folder: str | os.PathLike[str]) -> Bundle:
  """Opens an exported model.

  Raises:
    CheckpointError: the folder or a part of it is missing or damaged.
    ConfigError: its config has fields that this version does not know.
  """
  folder = Path(folder)
  for name in (CONFIG, WEIGHTS, TOKENIZER, UNIT_LANGUAGE):
    if not (folder / name).is_file():
      raise errors.CheckpointError(
          f'{folder} is not an exported model ({name} is missing): '
          'make one with `python -m launch.convert export --checkpoint WORKDIR --to safetensors --out DIR`.')
  try:
    values = json.loads((folder / CONFIG).read_text('utf-8'))
  except ValueError as error:
    raise errors.CheckpointError(f'{folder / CONFIG} is not valid JSON ({error}): export the model again.') from error
  config = config_lib.build(EchoXConfig, values)
  try:
    flat = safetensors.numpy.load_file(folder / WEIGHTS)
  except safetensors.SafetensorError as error:
    raise errors.CheckpointError(f'{folder / WEIGHTS} is damaged ({error}): export the model again.') from error
  params = trees.unflatten(flat)
  missing = [g for g in GROUPS if g not in params]
  if missing:
    raise errors.CheckpointError(f'{folder / WEIGHTS} lacks the parameters of {", ".join(missing)}: export the model again.')
  return Bundle(config, params, TextTokenizer(folder / TOKENIZER), UnitLanguage.load(folder / UNIT_LANGUAGE))
