"""Released EchoX weights, speech-to-text part (keys: facts 9) -> groups `llm` and `adapter`."""

from collections.abc import Mapping

import numpy as np

from echox_jax.config import EchoXConfig, LlamaConfig
from echox_jax.conversion import rules
from echox_jax.conversion.rules import Rule
from echox_jax.models.params import param_shapes

UNIT_PREFIX = 'unit_translator.'


def import_s2t(weights: Mapping[str, np.ndarray], cfg: EchoXConfig) -> dict:
  """Converts the LLM and the adapter; skips tensors of the unit decoder (`unit_translator.*`).

  Args:
    weights: released key -> array.
    cfg: has the sizes of the checkpoint, and an LLM without LoRA.

  Returns:
    {'llm': ..., 'adapter': ...}, float32 numpy.

  Raises:
    CheckpointError: lists every tensor that is missing, unused or of another shape.
  """
  own = {name: value for name, value in weights.items() if not name.startswith(UNIT_PREFIX)}
  return rules.convert(
    own, s2t_rules(cfg), 'this EchoX model', param_shapes(cfg, ('llm', 'adapter'))
  )


def s2t_rules(cfg: EchoXConfig) -> list[Rule]:
  """Which released tensor each parameter of `llm` and `adapter` comes from."""
  aligner = 'model.asr_transformer_encoder.layers.0'
  return [
    *llm_rules(cfg),
    *rules.linear('adapter/projection', 'model.mm_projector1'),
    *_attention_rules('adapter/alignment/self_attn', f'{aligner}.self_attn'),
    *rules.linear('adapter/alignment/linear1', f'{aligner}.linear1'),
    *rules.linear('adapter/alignment/linear2', f'{aligner}.linear2'),
    *rules.norm('adapter/alignment/norm1', f'{aligner}.norm1'),
    *rules.norm('adapter/alignment/norm2', f'{aligner}.norm2'),
    *rules.norm('adapter/out_norm', 'model.out_norm'),
    Rule('adapter/ctc_head/embedding', 'model.audio_feature_head.weight'),
    *_attention_rules('adapter/look_back/attention', 'model.lbm.encoder_attn'),
    *rules.norm('adapter/look_back/norm', 'model.lbm.atten_layer_norm'),
  ]


def llm_rules(cfg: EchoXConfig) -> list[Rule]:
  """The rules of the LLM alone, under transformers' names."""
  head = [] if cfg.llm.tie_embeddings else [Rule('llm/lm_head/embedding', 'lm_head.weight')]
  return [
    Rule('llm/embed_tokens/embedding', 'model.embed_tokens.weight'),
    *trunk_rules('llm/trunk', 'model', cfg.llm),
    *head,
  ]


def trunk_rules(path: str, name: str, cfg: LlamaConfig) -> list[Rule]:
  """The layers and the final norm of a Llama, Qwen2 or Qwen3 under `name` (also used for the unit
  decoder).
  """
  found = [Rule(f'{path}/norm/scale', f'{name}.norm.weight')]
  layer, layer_there = f'{path}/layers', f'{name}.layers.{{}}'
  for letter in 'qkvo':
    found += rules.linear(
      f'{layer}/self_attn/{letter}_proj',
      f'{layer_there}.self_attn.{letter}_proj',
      cfg.num_layers,
      bias=cfg.qkv_bias and letter != 'o',
    )
  for part in ('gate', 'up', 'down'):
    found += rules.linear(
      f'{layer}/mlp/{part}_proj', f'{layer_there}.mlp.{part}_proj', cfg.num_layers, bias=False
    )
  norms = ['input_layernorm', 'post_attention_layernorm']
  norms += ['self_attn.q_norm', 'self_attn.k_norm'] if cfg.qk_norm else []
  for norm in norms:
    found.append(
      Rule(
        f'{layer}/{norm.replace(".", "/")}/scale', f'{layer_there}.{norm}.weight', cfg.num_layers
      )
    )
  return found


def _attention_rules(path: str, name: str) -> list[Rule]:
  """torch's MultiheadAttention stacks query, key and value into `in_proj`."""
  found = rules.linear(f'{path}/out_proj', f'{name}.out_proj')
  for part, letter in enumerate('qkv'):
    found.append(
      Rule(
        f'{path}/{letter}_proj/kernel',
        f'{name}.in_proj_weight',
        axes=rules.REVERSED_2D,
        part=(part, 3),
      )
    )
    found.append(Rule(f'{path}/{letter}_proj/bias', f'{name}.in_proj_bias', part=(part, 3)))
  return found
