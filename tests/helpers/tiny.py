"""A model small enough for tests that train it."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import (
  AdapterConfig,
  DurationPredictorConfig,
  EchoXConfig,
  LlamaConfig,
  PitchPredictorConfig,
  StreamingConfig,
  UnitDecoderConfig,
  VocoderConfig,
  WhisperConfig,
)
from echox_jax.models import trees
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
  rng = np.random.default_rng(seed)
  groups = trees.unflatten({path: _draw(rng, path, shape) for path, shape in _shapes(cfg).items()})
  return groups | {
    'unit_text_embedding': {'embedding': jnp.array(groups['llm']['embed_tokens']['embedding'])}
  }


@functools.lru_cache(maxsize=32)
def _shapes(cfg: EchoXConfig) -> dict[str, tuple[int, ...]]:
  made = jax.eval_shape(lambda: _create(cfg, jax.random.key(0)))
  return {path: leaf.shape for path, leaf in trees.flatten(made).items()}


def _draw(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> jax.Array:
  """An array as models begin with it, those with several axes five times as large. To compile how
  models themselves draw theirs takes seconds for each config.
  """
  name, size = path.split('/')[-1], 5.0 if len(shape) > 1 else 1.0
  if name == 'scale':
    return jnp.full(shape, size)
  if name in ('bias', 'gate', 'lora_b'):
    return jnp.zeros(shape)
  return jnp.asarray(0.02 * size * rng.normal(size=shape), jnp.float32)


def _create(cfg: EchoXConfig, key: jax.Array) -> dict:
  return nn.meta.unbox(
    {
      'llm': init_llm(key, cfg),
      'adapter': init_adapter(key, cfg),
      't2c': init_unit_decoder(key, cfg),
      'echo': init_unit_decoder(key, cfg),
      'denoising_adapter': init_denoising_adapter(key, cfg),
    }
  )


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
SOURCE_FILTER = dataclasses.replace(
  VOCODER,
  source_filter=True,
  pitch=PitchPredictorConfig(hidden_size=8, kernel_size=3, dilations=(1, 2), dropout=0.0),
)
COUNTED = dataclasses.replace(
  SOURCE_FILTER,
  duration=DurationPredictorConfig(hidden_size=8, dropout=0.0, dilations=(1, 2), longest=5),
)
