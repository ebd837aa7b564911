"""A Llama, Qwen2 or Qwen3 of transformers, with or without a PEFT LoRA -> the group `llm`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from echox_jax import errors
from echox_jax.config import EchoXConfig
from echox_jax.conversion import chat_template, hf_folder, lazy, llm_config, peft, released
from echox_jax.conversion.imported import Imported
from echox_jax.tensor_files import open_tensors

_COMPUTED = 'rotary_emb.inv_freq'  # a table in old files that every model computes


def open_llm(
  source: Path, config: Path | None = None, base: Path | None = None, profile: str | None = None
) -> Imported:
  """Opens a language model of a known family (`llm_config.FAMILIES`) in safetensors.

  Args:
    source: folder of the model, or of a LoRA for it.
    config: replaces config.json.
    base: the folder of the base model if `source` is a LoRA.
    profile: the prompt profile; None = as the chat template of its tokenizer says, see
      `chat_template`.

  Raises:
    CheckpointError, ConfigError: something is missing, damaged or unknown, or the family is.
    MissingExtraError: the chat template needs a package that is not installed.
  """
  tensors, folders = open_merged(source, base)
  try:
    llm = llm_config.from_json(read_config(folders, config))
  except KeyError as error:
    raise errors.ConfigError(
      f'the config of {source} has no {error.args[0]!r}: give the complete '
      'config.json of the model.'
    ) from error
  files = hf_folder.tokenizer_files(folders)
  foreign = hf_folder.foreign_tokenizer(files, f'the tokenizer in {source}')
  cfg, notes = chat_template.configured(EchoXConfig(llm=llm), foreign, profile)
  return Imported(
    f'the LLM in {source}',
    cfg,
    ('llm',),
    released.llm_rules(cfg),
    own_tensors(tensors, llm.tie_embeddings),
    files,
    notes=notes,
  )


def open_merged(source: Path, base: Path | None) -> tuple[Mapping[str, np.ndarray], list[Path]]:
  """(tensors of a model, with the LoRA merged in if `source` is one; folders in which to look for
  config and tokenizer).

  Raises:
    CheckpointError: a LoRA without a base, a base without a LoRA, or damaged files.
  """
  if not peft.is_adapter(source):
    if base is not None:
      raise errors.CheckpointError(
        f'{source} has no {peft.CONFIG}, so it needs no --base: leave '
        'it out, or give the folder of the LoRA.'
      )
    return open_tensors(source), [source]
  if base is None:
    named = hf_folder.read_json(source / peft.CONFIG).get('base_model_name_or_path')
    raise errors.CheckpointError(
      f'{source} is a LoRA: name the folder of its base {named or "model"} with --base.'
    )
  return peft.merged(open_tensors(base), source), [source, base]


def read_config(folders: list[Path], config: Path | None) -> dict[str, Any]:
  """The file `config`, or config.json of the first of `folders` that has one."""
  return hf_folder.read_config(
    next((f for f in folders if (f / 'config.json').is_file()), folders[-1]), config
  )


def own_tensors(tensors: Mapping[str, np.ndarray], tied: bool) -> lazy.LazyTensors:
  """`tensors` without computed tables and without a tied head (a copy of the embeddings)."""
  return lazy.LazyTensors(
    {
      name: tensor
      for name, tensor in lazy.entries(tensors).items()
      if not name.endswith(_COMPUTED) and not (tied and name == 'lm_head.weight')
    }
  )
