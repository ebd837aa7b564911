"""Low-rank adapters, stored as leaves `lora_a` and `lora_b` beside a `kernel`: finds and merges
them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from echox_jax.config import EchoXConfig, LoraConfig

LEAVES = ('lora_a', 'lora_b')


def mask(params: dict) -> dict:
  """Returns the same tree with True at LoRA leaves and False elsewhere."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in LEAVES, params)


def merge(params: dict, cfg: LoraConfig) -> dict:
  """Adds alpha / rank * lora_a lora_b to each kernel, computed in float32, and drops the LoRA
  leaves.
  """
  merged = {
    k: merge(v, cfg) if isinstance(v, dict) else v for k, v in params.items() if k not in LEAVES
  }
  if 'lora_a' in params:
    a, b = (params[leaf].astype(jnp.float32) for leaf in LEAVES)
    kernel = params['kernel']
    merged['kernel'] = (
      kernel + jnp.matmul(a, b, precision='highest') * (cfg.alpha / a.shape[-1])
    ).astype(kernel.dtype)
  return merged


def merged_config(cfg: EchoXConfig) -> EchoXConfig:
  """Returns the config of the model after LoRA is merged into the LLM."""
  return dataclasses.replace(cfg, llm=dataclasses.replace(cfg.llm, lora=LoraConfig()))
