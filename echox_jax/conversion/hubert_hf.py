"""Imports HuBERT base weights under transformers' or fairseq's names (facts 11)."""

from collections.abc import Mapping
from pathlib import Path
import re
from typing import Any

import numpy as np

from echox_jax import tensor_files
from echox_jax.config import EchoXConfig, HubertConfig
from echox_jax.conversion import hf_folder, lazy, rules, weight_norm
from echox_jax.conversion.imported import Imported
from echox_jax.errors import CheckpointError, ConfigError
from echox_jax.models.params import param_shapes

# tensors used only in pre-training
_NOT_NEEDED = ('masked_spec_embed', 'mask_emb', 'final_proj.', 'label_embs_concat')

# fairseq -> transformers, tried in order.
_FAIRSEQ_NAMES = (
  (r'^feature_extractor\.conv_layers\.(\d+)\.0\.', r'feature_extractor.conv_layers.\1.conv.'),
  (r'^feature_extractor\.conv_layers\.0\.2\.', r'feature_extractor.conv_layers.0.layer_norm.'),
  (r'^layer_norm\.', r'feature_projection.layer_norm.'),
  (r'^post_extract_proj\.', r'feature_projection.projection.'),
  (r'^encoder\.pos_conv\.0\.', r'encoder.pos_conv_embed.conv.'),
  (r'^(encoder\.layers\.\d+)\.self_attn\.', r'\1.attention.'),
  (r'^(encoder\.layers\.\d+)\.self_attn_layer_norm\.', r'\1.layer_norm.'),
  (r'^(encoder\.layers\.\d+)\.fc1\.', r'\1.feed_forward.intermediate_dense.'),
  (r'^(encoder\.layers\.\d+)\.fc2\.', r'\1.feed_forward.output_dense.'),
)


def encoder_config(hf_config: Mapping[str, Any], dtype: str = 'float32') -> HubertConfig:
  """The config from transformers' config.json.

  Raises:
    CheckpointError: a variant other than HuBERT base (pre-norm layers, layer norm in the
      convolutions, conv biases).
    ConfigError: a size is missing.
  """
  variant = (
    hf_config.get('do_stable_layer_norm', False),
    hf_config.get('feat_extract_norm', 'group'),
    hf_config.get('conv_bias', False),
  )
  if variant != (False, 'group', False):
    raise CheckpointError(
      'This HuBERT is not of the base kind (post-norm, group norm, no conv '
      'biases): use a base model.'
    )
  try:
    return HubertConfig(
      hidden_size=hf_config['hidden_size'],
      intermediate_size=hf_config['intermediate_size'],
      num_layers=hf_config['num_hidden_layers'],
      num_heads=hf_config['num_attention_heads'],
      conv_dim=tuple(hf_config['conv_dim']),
      conv_kernel=tuple(hf_config['conv_kernel']),
      conv_stride=tuple(hf_config['conv_stride']),
      num_conv_pos_embeddings=hf_config['num_conv_pos_embeddings'],
      num_conv_pos_embedding_groups=hf_config['num_conv_pos_embedding_groups'],
      layer_norm_eps=hf_config['layer_norm_eps'],
      dtype=dtype,
    )
  except KeyError as error:
    raise ConfigError(
      f'the config of the HuBERT has no {error.args[0]!r}: give its complete config.json.'
    ) from error


def open_hubert(source: Path, config: Path | None = None) -> Imported:
  """A HuBERT base in safetensors, under transformers' or fairseq's names.

  Args:
    source: folder with config.json and safetensors, or a safetensors file.
    config: replaces config.json.

  Raises:
    CheckpointError, ConfigError: something is missing or damaged, or it is another kind of HuBERT.
  """
  values = hf_folder.read_config(source, config)
  return from_tensors(
    tensor_files.open_tensors(source), encoder_config(values.get('hubert', values)), source
  )


def from_tensors(tensors: Mapping[str, np.ndarray], cfg: HubertConfig, source: Path) -> Imported:
  """Finds the encoder among `tensors`."""
  return Imported(
    f'the HuBERT in {source}',
    EchoXConfig(hubert=cfg),
    ('hubert',),
    encoder_rules(cfg),
    encoder_tensors(tensors),
  )


def encoder_params(tensors: Mapping[str, np.ndarray], cfg: HubertConfig) -> dict:
  """Parameters of `models.hubert.HubertEncoder`.

  Raises:
    CheckpointError: lists missing and unexpected tensors.
  """
  shapes = param_shapes(EchoXConfig(hubert=cfg), ('hubert',))
  return rules.convert(
    encoder_tensors(tensors), encoder_rules(cfg), 'a HuBERT base encoder of these sizes', shapes
  )['hubert']


def encoder_tensors(tensors: Mapping[str, np.ndarray]) -> lazy.LazyTensors:
  """The encoder tensors under transformers' names, with weight norm folded; skips tensors used only
  in pre-training.
  """
  entries = lazy.entries(rules.strip_prefix(tensors, ('hubert.', 'w2v_model.')))
  entries = {_transformers_name(k): v for k, v in entries.items() if not k.startswith(_NOT_NEEDED)}
  return lazy.LazyTensors(weight_norm.folded(entries, 'encoder.pos_conv_embed.conv.weight', axis=2))


def encoder_rules(cfg: HubertConfig) -> list[rules.Rule]:
  """The source tensor of each `hubert` parameter (transformers' names, weight norm folded)."""
  n = cfg.num_layers
  layer = 'encoder.layers.{}'
  return [
    *(
      rule
      for i in range(len(cfg.conv_dim))
      for rule in rules.conv(
        f'hubert/feature_extractor/conv_{i}', f'feature_extractor.conv_layers.{i}.conv', bias=False
      )
    ),
    *rules.norm(
      'hubert/feature_extractor/group_norm', 'feature_extractor.conv_layers.0.layer_norm'
    ),
    *rules.norm('hubert/feature_layer_norm', 'feature_projection.layer_norm'),
    *rules.linear('hubert/feature_projection', 'feature_projection.projection'),
    *rules.conv('hubert/pos_conv', 'encoder.pos_conv_embed.conv'),
    *rules.norm('hubert/encoder_layer_norm', 'encoder.layer_norm'),
    *(
      rule
      for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj')
      for rule in rules.linear(f'hubert/layers/attention/{name}', f'{layer}.attention.{name}', n)
    ),
    *rules.norm('hubert/layers/layer_norm', f'{layer}.layer_norm', n),
    *rules.linear(
      'hubert/layers/intermediate_dense', f'{layer}.feed_forward.intermediate_dense', n
    ),
    *rules.linear('hubert/layers/output_dense', f'{layer}.feed_forward.output_dense', n),
    *rules.norm('hubert/layers/final_layer_norm', f'{layer}.final_layer_norm', n),
  ]


def _transformers_name(name: str) -> str:
  for pattern, replacement in _FAIRSEQ_NAMES:
    renamed = re.sub(pattern, replacement, name)
    if renamed != name:
      return renamed
  return name
