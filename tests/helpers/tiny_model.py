"""A tiny random model in the shape of a loaded bundle, for tests of answering."""

import dataclasses

from flax import linen as nn
import jax
import numpy as np

from echox_jax import config as config_lib
from echox_jax import model_folder
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.inference import chat
from echox_jax.models import params as params_lib
from echox_jax.models import trees
from echox_jax.prompts import NANO_IDS
from echox_jax.tokenizer import train_tokenizer
from echox_jax.units.unit_language import PlainModel, UnitLanguage

TRUNK = dict(
  hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16
)
WORDS = (
  'Capitals of countries are asked for here, one after another. Paris lies in France. '
  'What is two plus two?'
)


ENGINE = EngineConfig(
  max_prompt_tokens=48,
  prompt_step=22,
  max_new_tokens=20,
  max_unit_words=12,
  max_frames=160,
  loop_times=0,  # a random model says the same words over and over, and nothing in time
  retry_temperature=0.0,
  max_context=200,
  conversations=2,
  first_tokens=3,
  tokens=6,
  first_words=3,
  words=5,
  first_window=4,
  window=10,
  long_window=25,
)


def tiny_config(**llm) -> EchoXConfig:
  """Everything small; `llm`: fields of the LLM."""
  return config_lib.build(
    EchoXConfig,
    dict(
      special_ids=NANO_IDS,
      max_audio_seconds=3.0,
      whisper=dict(
        num_mel_bins=16,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        max_positions=1500,
      ),
      adapter=dict(num_heads=2, intermediate_size=32, shrink_budget=12),
      llm=dict(TRUNK, vocab_size=320) | llm,
      unit_decoder=dict(unit_vocab_size=40, trunk=TRUNK, denoising_intermediate_size=32),
      vocoder=dict(
        num_units=20,
        embedding_dim=16,
        model_in_dim=16,
        upsample_initial_channel=32,
        upsample_rates=(5, 4),
        upsample_kernel_sizes=(9, 8),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        istft_n_fft=64,
        istft_hop=16,
        duration=dict(hidden_size=16),
      ),
      units=dict(num_units=20),
      streaming=dict(
        look_ahead=1, peak_window=1, min_tokens=6, min_tokens_above_threshold=3, max_slice_tokens=6
      ),
    ),
  )


def pairs(words: int = 39) -> UnitLanguage:
  """A unit language in which each word stands for two units."""
  return UnitLanguage('plain', 20, PlainModel(tuple((w % 20, (w + 7) % 20) for w in range(words))))


def tiny_params(cfg: EchoXConfig) -> dict:
  """Random parameters, larger than at the start of training: greedy choices are far apart and
  depend on the question.
  """
  shapes = jax.eval_shape(
    lambda: nn.meta.unbox(params_lib.init_groups(jax.random.key(0), cfg, model_folder.ANSWERING))
  )
  rng = np.random.default_rng(3)  # its answers depend on the question and it overflows some budgets

  def fill(path, leaf):
    if path[-1].key == 'scale':
      return np.ones(leaf.shape, np.float32)
    if leaf.ndim == 1:
      return np.zeros(leaf.shape, np.float32)
    scale = 1.0 if path[-1].key == 'embedding' else leaf.shape[-2] ** -0.5
    return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def tiny_bundle(folder, **llm):
  """What `echox_jax.load` returns, in miniature; `llm`: fields of the LLM."""
  config = tiny_config(**llm)
  tokenizer = train_tokenizer([WORDS] * 3, folder / 'tokenizer.model', 320)
  return chat.Model(config, tiny_params(config), ENGINE, tokenizer, pairs())


def hears_words(folder, sharpness=1.0, adapter=(), **engine):
  """A bundle whose LLM gets words; the larger its frames, the surer it is of their labels."""
  made = tiny_bundle(folder)
  own = dict(tied_ctc=True, drop_blank=True, output='words') | dict(adapter)
  cfg = dataclasses.replace(made.config, adapter=dataclasses.replace(made.config.adapter, **own))
  params = tiny_params(cfg)
  params['adapter']['out_norm'] = {
    name: leaf * sharpness for name, leaf in params['adapter']['out_norm'].items()
  }
  budgets = dataclasses.replace(made.engine, **engine)
  return dataclasses.replace(made, config=cfg, params=params, engine=budgets)


def write_model(folder, cfg: EchoXConfig, copies=None, flat=None):
  """A model folder; `copies`: name in it -> file; `flat`: parameters by path, random if None."""
  flat = trees.flatten(tiny_params(cfg)) if flat is None else flat
  with model_folder.writing(folder) as beside:
    model_folder.write_params(
      beside,
      {path: (value.shape, value.dtype) for path, value in flat.items()},
      ((path, None, value) for path, value in flat.items()),
    )
    model_folder.write_rest(beside, cfg, ENGINE, copies or {})


def question(seconds: float = 1.5, seed: int = 0) -> np.ndarray:
  """A noisy tone, float32 at 16 kHz."""
  t = np.arange(round(16000 * seconds)) / 16000
  return (
    0.3 * np.sin(2 * np.pi * (300 + 50 * seed) * t)
    + 0.05 * np.random.default_rng(seed).normal(size=len(t))
  ).astype(np.float32)
