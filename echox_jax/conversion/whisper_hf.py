"""Whisper encoder weights under transformers' names (`model.encoder.*`, `encoder.*` or bare) -> our parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from echox_jax.config import WhisperConfig
from echox_jax.conversion import rules


def encoder_config(hf_config: Mapping[str, Any], dtype: str = 'float32') -> WhisperConfig:
  """The config of the encoder from transformers' config.json."""
  return WhisperConfig(
      num_mel_bins=hf_config['num_mel_bins'], hidden_size=hf_config['d_model'],
      intermediate_size=hf_config['encoder_ffn_dim'], num_layers=hf_config['encoder_layers'],
      num_heads=hf_config['encoder_attention_heads'], max_positions=hf_config['max_source_positions'], dtype=dtype)


def encoder_params(tensors: Mapping[str, np.ndarray], cfg: WhisperConfig) -> dict:
  """Parameters of `models.whisper.WhisperEncoder`; decoder tensors are passed over.

  Raises:
    CheckpointError: encoder tensors that are missing or too many, listed.
  """
  n = cfg.num_layers
  attention = 'layers.{}.self_attn'
  return rules.convert(rules.strip_prefix(tensors, ('model.encoder.', 'encoder.')), [
      *rules.conv('conv1', 'conv1'),
      *rules.conv('conv2', 'conv2'),
      rules.Rule('embed_positions', 'embed_positions.weight'),
      *rules.norm('layers/self_attn_layer_norm', 'layers.{}.self_attn_layer_norm', n),
      *rules.linear('layers/self_attn/q_proj', f'{attention}.q_proj', n),
      *rules.linear('layers/self_attn/k_proj', f'{attention}.k_proj', n, bias=False),
      *rules.linear('layers/self_attn/v_proj', f'{attention}.v_proj', n),
      *rules.linear('layers/self_attn/out_proj', f'{attention}.out_proj', n),
      *rules.norm('layers/final_layer_norm', 'layers.{}.final_layer_norm', n),
      *rules.linear('layers/fc1', 'layers.{}.fc1', n),
      *rules.linear('layers/fc2', 'layers.{}.fc2', n),
      *rules.norm('layer_norm', 'layer_norm'),
  ], 'a Whisper encoder')
