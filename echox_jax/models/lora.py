"""Low-rank adapters as leaves `lora_a`, `lora_b` beside a `kernel`: which they are, and folding
them in.
"""

import dataclasses

import jax
import jax.numpy as jnp

from echox_jax.config import EchoXConfig, LoraConfig

LEAVES = ('lora_a', 'lora_b')


def mask(params: dict) -> dict:
  """Gives the same tree with True at LoRA leaves and False elsewhere."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in LEAVES, params)


def merge(params: dict, cfg: LoraConfig) -> dict:
  """Drops the LoRA leaves, and adds alpha / rank * lora_a lora_b to each kernel (computed in
  float32).
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
  """Gives the config of the model whose LLM has its LoRA folded in."""
  return dataclasses.replace(cfg, llm=dataclasses.replace(cfg.llm, lora=LoraConfig()))
