"""transformers' config.json of a language model <-> `LlamaConfig`, and the families that are known.

A Qwen2 and a Qwen3 are Llamas with a few more parameters; the field `model_type` names the family.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from echox_jax import errors
from echox_jax.config import EchoXConfig, LlamaConfig, RopeScaling


@dataclasses.dataclass(frozen=True)
class Family:
  """What sets a family apart from a Llama.

  Attributes:
    architecture: the class in transformers.
    qkv_bias, qk_norm: fields of `LlamaConfig`.
  """

  architecture: str
  qkv_bias: bool = False
  qk_norm: bool = False


LLAMA = 'llama'
# By `model_type`.
FAMILIES = {
  LLAMA: Family('LlamaForCausalLM'),
  'qwen2': Family('Qwen2ForCausalLM', qkv_bias=True),  # Qwen2 and Qwen2.5
  'qwen3': Family('Qwen3ForCausalLM', qk_norm=True),
}


def from_json(values: Mapping[str, Any], model_type: str | None = None) -> LlamaConfig:
  """The config of an LLM.

  Args:
    values: transformers' config.json, of version 4, or 5 with `rope_parameters`.
    model_type: the family, a key of `FAMILIES`; None = as `values` say, by default a Llama.

  Raises:
    ConfigError: the family is unknown, or the model has other biases, another activation, another
      rotary scaling or a sliding window.
    KeyError: a size is missing.
  """
  kind = model_type or values.get('model_type', LLAMA)
  if kind not in FAMILIES:
    raise errors.ConfigError(
      f'model_type is {kind!r}, which is not supported: use an LLM of one of {", ".join(FAMILIES)}.'
    )
  family = FAMILIES[kind]
  _refuse_others(values)
  heads, rope = values['num_attention_heads'], _rope(values)
  return LlamaConfig(
    vocab_size=values['vocab_size'],
    hidden_size=values['hidden_size'],
    intermediate_size=values['intermediate_size'],
    num_layers=values['num_hidden_layers'],
    num_heads=heads,
    num_kv_heads=values.get('num_key_value_heads') or heads,
    head_dim=values.get('head_dim') or values['hidden_size'] // heads,
    rms_norm_eps=values['rms_norm_eps'],
    rope_theta=float(rope.get('rope_theta') or values['rope_theta']),
    rope_scaling=_scaling(rope),
    tie_embeddings=values.get('tie_word_embeddings', False),
    qkv_bias=family.qkv_bias,
    qk_norm=family.qk_norm,
    max_positions=values.get('max_position_embeddings', LlamaConfig.max_positions),
  )


def to_json(cfg: LlamaConfig) -> dict[str, Any]:
  """The fields that `from_json` reads, except the vocabulary size and `model_type`."""
  rope = cfg.rope_scaling
  return {
    'hidden_size': cfg.hidden_size,
    'intermediate_size': cfg.intermediate_size,
    'num_hidden_layers': cfg.num_layers,
    'num_attention_heads': cfg.num_heads,
    'num_key_value_heads': cfg.num_kv_heads,
    'head_dim': cfg.head_dim,
    'max_position_embeddings': cfg.max_positions,
    'rms_norm_eps': cfg.rms_norm_eps,
    'rope_theta': cfg.rope_theta,
    'rope_scaling': rope
    and {
      'rope_type': 'llama3',
      'factor': rope.factor,
      'low_freq_factor': rope.low_freq_factor,
      'high_freq_factor': rope.high_freq_factor,
      'original_max_position_embeddings': rope.original_max_positions,
    },
    'tie_word_embeddings': cfg.tie_embeddings,
  }


def of_model(cfg: EchoXConfig, model_type: str, dtype: str) -> dict[str, Any]:
  """The part of config.json that an LLM and a released model have in common.

  Args:
    cfg: without LoRA.
    model_type: as transformers calls it.
    dtype: dtype of the tensors.
  """
  special = cfg.special_ids
  return {
    'model_type': model_type,
    'torch_dtype': dtype,
    **to_json(cfg.llm),
    'vocab_size': cfg.llm.vocab_size,
    'bos_token_id': special.bos,
    'eos_token_id': special.eot,
    'pad_token_id': special.pad,
    'hidden_act': 'silu',
  }


def family_of(cfg: LlamaConfig) -> str | None:
  """The family, a key of `FAMILIES`, whose parameters a model has; None = no family has them."""
  found = (cfg.qkv_bias, cfg.qk_norm)
  return next((n for n, one in FAMILIES.items() if (one.qkv_bias, one.qk_norm) == found), None)


def _refuse_others(values: Mapping[str, Any]) -> None:
  """Raises ConfigError for what no model here computes."""
  if (
    values.get('attention_bias')
    or values.get('mlp_bias')
    or values.get('hidden_act', 'silu') != 'silu'
  ):
    raise errors.ConfigError(
      'this LLM has biases that its family lacks, or an activation other than silu: use a Llama, '
      'Qwen2 or Qwen3 as they are published.'
    )
  if values.get('use_sliding_window') or set(values.get('layer_types') or ()) - {'full_attention'}:
    raise errors.ConfigError(
      'this LLM has layers with a sliding window (use_sliding_window, layer_types), which are not '
      'supported: use a model whose layers see the whole context.'
    )


def _rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
  return values.get('rope_parameters') or values.get('rope_scaling') or {}


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in ('default', 'llama3'):
    raise errors.ConfigError(f"rope_scaling is {rope!r}: only rope_type 'llama3' is supported.")
  if kind == 'default':
    return None
  return RopeScaling(
    factor=rope['factor'],
    low_freq_factor=rope['low_freq_factor'],
    high_freq_factor=rope['high_freq_factor'],
    original_max_positions=rope['original_max_position_embeddings'],
  )
