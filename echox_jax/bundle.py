"""An exported model: one folder that holds all it takes to answer, and nothing of training.

  config.json          the EchoXConfig
  model.safetensors    parameters, keys like `llm/trunk/layers/mlp/up_proj/kernel`
  tokenizer.model      SentencePiece text tokenizer
  unit_language.json   units <-> unit words
"""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
from pathlib import Path
import shutil
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from echox_jax import config as config_lib
from echox_jax import errors
from echox_jax import files
from echox_jax.config import EchoXConfig
from echox_jax.tokenizer import TextTokenizer
from echox_jax.units import unit_language as unit_language_lib

GROUPS = ('whisper', 'adapter', 'llm', 'unit_text_embedding', 'echo', 'denoising_adapter', 'vocoder')
CONFIG, WEIGHTS, TOKENIZER, UNIT_LANGUAGE = 'config.json', 'model.safetensors', 'tokenizer.model', 'unit_language.json'


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A loaded model. `params` is a dict of groups (see `GROUPS`) of nested dicts of arrays."""
  config: EchoXConfig
  params: Mapping[str, Any]
  tokenizer: TextTokenizer
  unit_language: Any


def save(folder: str | os.PathLike[str], config: EchoXConfig, params: Mapping[str, Any], tokenizer_file: Path,
         unit_language_files: list[Path]) -> Path:
  """Writes a bundle, whole or not at all.

  Args:
    folder: where to; an earlier bundle there is replaced.
    config: of the model.
    params: dict of groups.
    tokenizer_file: copied in.
    unit_language_files: `unit_language.json` and what it refers to, copied in.

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
    flat = {key: np.ascontiguousarray(value) for key, value in flatten({g: params[g] for g in GROUPS})}
    safetensors.numpy.save_file(flat, beside / WEIGHTS)
    files.atomic_write_json(beside / CONFIG, config_lib.to_dict(config))
    shutil.copyfile(tokenizer_file, beside / TOKENIZER)
    for file in unit_language_files:
      shutil.copyfile(file, beside / file.name)
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
  params = unflatten(flat)
  missing = [g for g in GROUPS if g not in params]
  if missing:
    raise errors.CheckpointError(f'{folder / WEIGHTS} lacks the parameters of {", ".join(missing)}: export the model again.')
  return Bundle(config, params, TextTokenizer(folder / TOKENIZER), unit_language_lib.load(folder / UNIT_LANGUAGE))


def flatten(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """Pairs of `a/b/c` and leaf."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    yield '/'.join(str(p.key) for p in path), leaf


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The nested dict of `a/b/c` keys."""
  tree: dict[str, Any] = {}
  for key, value in flat.items():
    *parents, last = key.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree
