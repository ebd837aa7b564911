"""A model small enough for tests that train it."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from echox_jax.config import (
  AdapterConfig,
  DurationPredictorConfig,
  EchoXConfig,
  LlamaConfig,
  StreamingConfig,
  UnitDecoderConfig,
  VocoderConfig,
  WhisperConfig,
)
from echox_jax.models.adapter import init_adapter
from echox_jax.models.llama import init_llm
from echox_jax.models.unit_decoder import init_denoising_adapter, init_unit_decoder
from echox_jax.prompts import NANO_IDS

TRUNK = LlamaConfig(
  vocab_size=40,
  hidden_size=24,
  intermediate_size=48,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=12,
)
CONFIG = EchoXConfig(
  special_ids=NANO_IDS,
  whisper=WhisperConfig(hidden_size=16),
  llm=TRUNK,
  adapter=AdapterConfig(num_heads=2, intermediate_size=32, shrink_budget=6),
  unit_decoder=UnitDecoderConfig(
    unit_vocab_size=30,
    trunk=dataclasses.replace(TRUNK, hidden_size=32, head_dim=16),
    denoising_intermediate_size=48,
  ),
  streaming=StreamingConfig(
    look_ahead=1, peak_window=2, min_tokens=5, min_tokens_above_threshold=3, max_slice_tokens=8
  ),
)


def params(cfg: EchoXConfig = CONFIG, seed: int = 0) -> dict:
  """Random parameters of all groups of the echo stage; weights are large, so that greedy choices
  are not ties.
  """
  groups = jax.jit(lambda key: _create(cfg, key))(jax.random.key(seed))
  return groups | {
    'unit_text_embedding': {'embedding': jnp.array(groups['llm']['embed_tokens']['embedding'])}
  }


def _create(cfg: EchoXConfig, key: jax.Array) -> dict:
  keys = jax.random.split(key, 5)
  groups = nn.meta.unbox(
    {
      'llm': init_llm(keys[0], cfg),
      'adapter': init_adapter(keys[1], cfg),
      't2c': init_unit_decoder(keys[2], cfg),
      'echo': init_unit_decoder(keys[3], cfg),
      'denoising_adapter': init_denoising_adapter(keys[4], cfg),
    }
  )
  return jax.tree.map(lambda x: x * 5 if x.ndim > 1 else x, groups)


VOCODER = VocoderConfig(
  num_units=20,
  embedding_dim=8,
  model_in_dim=8,
  upsample_rates=(5, 4),
  upsample_kernel_sizes=(11, 8),
  upsample_initial_channel=16,
  resblock_kernel_sizes=(3,),
  resblock_dilation_sizes=((1, 3),),
  context_dilations=(1, 2),
  istft_n_fft=64,
  istft_hop=16,
  duration=DurationPredictorConfig(hidden_size=8, dropout=0.0),
)
