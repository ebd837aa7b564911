"""Imports Whisper encoder weights under transformers' names (`model.encoder.*`, `encoder.*` or
bare).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from echox_jax import errors, tensor_files
from echox_jax.config import EchoXConfig, WhisperConfig
from echox_jax.conversion import hf_folder, rules
from echox_jax.conversion.imported import Imported
from echox_jax.models.params import param_shapes

PREFIXES = ('model.encoder.', 'encoder.')


def open_whisper(source: Path, config: Path | None = None) -> Imported:
  """Opens the encoder of a Whisper in transformers' format; skips its decoder.

  Args:
    source: folder with config.json and safetensors, or a safetensors file.
    config: replaces config.json.

  Raises:
    CheckpointError, ConfigError: something is missing or damaged.
  """
  values = hf_folder.read_config(source, config)
  return from_tensors(
    tensor_files.open_tensors(source), encoder_config(values.get('whisper_encoder', values)), source
  )


def from_tensors(tensors: Mapping[str, np.ndarray], cfg: WhisperConfig, source: Path) -> Imported:
  """Finds the encoder among `tensors`."""
  tensors = rules.strip_prefix(tensors, PREFIXES)
  return Imported(
    f'the Whisper encoder in {source}',
    EchoXConfig(whisper=cfg),
    ('whisper',),
    encoder_rules(cfg),
    tensors,
  )


def encoder_config(hf_config: Mapping[str, Any], dtype: str = 'float32') -> WhisperConfig:
  """The config of the encoder from transformers' config.json.

  Raises:
    ConfigError: a size is missing.
  """
  try:
    return WhisperConfig(
      num_mel_bins=hf_config['num_mel_bins'],
      hidden_size=hf_config['d_model'],
      intermediate_size=hf_config['encoder_ffn_dim'],
      num_layers=hf_config['encoder_layers'],
      num_heads=hf_config['encoder_attention_heads'],
      max_positions=hf_config['max_source_positions'],
      dtype=dtype,
    )
  except KeyError as error:
    raise errors.ConfigError(
      f'the config of the Whisper encoder has no {error.args[0]!r}: give its complete config.json.'
    ) from error


def encoder_params(tensors: Mapping[str, np.ndarray], cfg: WhisperConfig) -> dict:
  """Parameters of `models.whisper.WhisperEncoder`; skips decoder tensors.

  Raises:
    CheckpointError: lists missing and unexpected encoder tensors.
  """
  tensors = rules.strip_prefix(tensors, PREFIXES)
  shapes = param_shapes(EchoXConfig(whisper=cfg), ('whisper',))
  return rules.convert(tensors, encoder_rules(cfg), 'a Whisper encoder of these sizes', shapes)[
    'whisper'
  ]


def encoder_rules(cfg: WhisperConfig) -> list[rules.Rule]:
  """Which tensor each parameter of `whisper` comes from (names after `encoder.`)."""
  n = cfg.num_layers
  attention = 'layers.{}.self_attn'
  return [
    *rules.conv('whisper/conv1', 'conv1'),
    *rules.conv('whisper/conv2', 'conv2'),
    rules.Rule('whisper/embed_positions', 'embed_positions.weight'),
    *rules.norm('whisper/layers/self_attn_layer_norm', 'layers.{}.self_attn_layer_norm', n),
    *rules.linear('whisper/layers/self_attn/q_proj', f'{attention}.q_proj', n),
    *rules.linear('whisper/layers/self_attn/k_proj', f'{attention}.k_proj', n, bias=False),
    *rules.linear('whisper/layers/self_attn/v_proj', f'{attention}.v_proj', n),
    *rules.linear('whisper/layers/self_attn/out_proj', f'{attention}.out_proj', n),
    *rules.norm('whisper/layers/final_layer_norm', 'layers.{}.final_layer_norm', n),
    *rules.linear('whisper/layers/fc1', 'layers.{}.fc1', n),
    *rules.linear('whisper/layers/fc2', 'layers.{}.fc2', n),
    *rules.norm('whisper/layer_norm', 'layer_norm'),
  ]
