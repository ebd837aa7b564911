"""The same sizes in transformers and torch, for `launch.bench respond`: random weights, and as many
threads as JAX has cores.
"""

from collections.abc import Callable
import importlib.util
from typing import Any

import jax
import numpy as np

from echox_jax.config import EchoXConfig, HubertConfig
from echox_jax.models import hubert
from echox_jax.parallel import sharding
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import extract
from launch.bench import timing, torch_models

_CLIP = 160000  # samples: 10 s


def is_installed() -> bool:
  """Whether there is a peer."""
  return all(importlib.util.find_spec(name) for name in ('torch', 'transformers'))


def measure(job: ExperimentConfig, runs: int) -> dict[str, float]:
  """Seconds of the LLM, of the encoder, and of HuBERT base, up to the layer of units, here and
  there.
  """
  import torch

  torch.set_num_threads(timing.cores())
  with torch.inference_mode():
    return {
      'text_only_s': timing.median(_llama(job), runs),
      'encoder_s': timing.median(_whisper(job), runs),
      'hubert_s': timing.median(_hubert(), runs),
      'our_hubert_s': timing.median(_our_hubert(job), runs),
    }


def _llama(job: ExperimentConfig) -> Callable[[], Any]:
  import torch
  import transformers

  llm, engine = job.model.llm, job.engine
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(**torch_models.llama_sizes(llm))
  ).eval()
  asked = torch.zeros((1, job.model.adapter.shrink_budget + 30), dtype=torch.long)
  number = engine.max_new_tokens
  return lambda: model.generate(
    asked, max_new_tokens=number, min_new_tokens=number, do_sample=False, pad_token_id=0
  ).numpy()


def _whisper(job: ExperimentConfig) -> Callable[[], Any]:
  import torch

  own = job.model.whisper
  encoder = torch_models.whisper_encoder(own)
  mel = torch.zeros((1, own.num_mel_bins, 2 * own.max_positions))
  return lambda: encoder(mel).last_hidden_state.numpy()


def _hubert() -> Callable[[], Any]:
  import torch
  import transformers

  model = transformers.HubertModel(transformers.HubertConfig()).eval()
  wave = torch.randn((1, _CLIP))
  return lambda: model(wave).last_hidden_state.numpy()


def _our_hubert(job: ExperimentConfig) -> Callable[[], Any]:
  """As precompute does it: no layer behind the one whose states get units."""
  layer, cfg = job.model.units.layer, EchoXConfig(hubert=HubertConfig(attention='auto'))
  params = sharding.unbox(jax.jit(lambda key: hubert.init_hubert(key, cfg))(jax.random.key(0)))
  wave = np.random.default_rng(0).normal(0, 0.1, (1, _CLIP)).astype(np.float32)
  encoder = extract.hubert_encoder(params, cfg.hubert, layer)
  samples = np.asarray([_CLIP], np.int32)
  return lambda: encoder.apply(wave, samples, ('layer',))
