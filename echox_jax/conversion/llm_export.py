"""The LLM of a model -> a folder of its family as transformers reads it: the reverse of
`import --kind llm`.

  config.json         sizes and special ids; `model_type` names the family
  model*.safetensors  the LLM under transformers' names, LoRA merged
  tokenizer files     as in the model folder
"""

from pathlib import Path
from typing import Any

from echox_jax import errors, storage
from echox_jax.config import EchoXConfig
from echox_jax.conversion import llm_config, released, released_export
from echox_jax.conversion.source import TOKENIZER_FILES, ModelSource
from echox_jax.models import lora

MARK = 'exported_by'  # a field of config.json that no other tool writes


def write(folder: Path, source: ModelSource, dtype: str | None, max_shard_bytes: int) -> list[str]:
  """Writes all files.

  Args:
    folder: an empty folder.
    source: has at least the group `llm`.
    dtype: dtype of the tensors, a key of `released_export.DTYPES`; None = that of the embeddings.
    max_shard_bytes: size of one file of tensors.

  Returns:
    Sentences about what was left out.

  Raises:
    CheckpointError: there is no LLM, no family has its parameters, or a value is too large for
      `dtype`.
  """
  source.require(('llm',), 'a folder of the LLM alone')
  cfg = lora.merged_config(source.config)
  family = llm_config.family_of(cfg.llm)
  if family is None:
    raise errors.CheckpointError(
      f'{source.name} has an LLM with biases on q, k, v and norms on q, k, as no family of '
      f'{", ".join(llm_config.FAMILIES)} has it: export it with --to safetensors.'
    )
  dtype = dtype or source.specs['llm/embed_tokens/embedding'][1].name
  own = released.llm_rules(cfg)
  released_export.write_tensors(folder, source, cfg, own, dtype, max_shard_bytes)
  storage.atomic_write_json(folder / released_export.CONFIG, config_json(cfg, family, dtype))
  for name in TOKENIZER_FILES:
    if name in source.files:
      storage.atomic_write_bytes(folder / name, source.files[name].read_bytes())
  left = [group for group in source.groups if group != 'llm']
  return [f'A folder of the LLM has no place for {", ".join(left)}: left out.'] if left else []


def config_json(cfg: EchoXConfig, family: str, dtype: str) -> dict[str, Any]:
  """transformers' config.json of the LLM.

  Args:
    cfg: without LoRA.
    family: a key of `llm_config.FAMILIES`.
    dtype: dtype of the tensors.
  """
  return {
    'architectures': [llm_config.FAMILIES[family].architecture],
    **llm_config.of_model(cfg, family, dtype),
    MARK: 'echox_jax',
  }
