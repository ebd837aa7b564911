"""HuBERT base weights under transformers' or fairseq's names -> our parameters (facts 11)."""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from echox_jax.config import EchoXConfig, HubertConfig
from echox_jax.conversion import rules
from echox_jax.errors import CheckpointError
from echox_jax.models.params import param_shapes

_NOT_NEEDED = ('masked_spec_embed', 'mask_emb', 'final_proj.', 'label_embs_concat')  # parts of pre-training only

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
    CheckpointError: a variant other than HuBERT base (pre-norm layers, layer norm in the convolutions, conv biases).
  """
  variant = (hf_config.get('do_stable_layer_norm', False), hf_config.get('feat_extract_norm', 'group'),
             hf_config.get('conv_bias', False))
  if variant != (False, 'group', False):
    raise CheckpointError('This HuBERT is not of the base kind (post-norm, group norm, no conv biases): use a base model.')
  return HubertConfig(
      hidden_size=hf_config['hidden_size'], intermediate_size=hf_config['intermediate_size'],
      num_layers=hf_config['num_hidden_layers'], num_heads=hf_config['num_attention_heads'],
      conv_dim=tuple(hf_config['conv_dim']), conv_kernel=tuple(hf_config['conv_kernel']),
      conv_stride=tuple(hf_config['conv_stride']), num_conv_pos_embeddings=hf_config['num_conv_pos_embeddings'],
      num_conv_pos_embedding_groups=hf_config['num_conv_pos_embedding_groups'],
      layer_norm_eps=hf_config['layer_norm_eps'], dtype=dtype)


def encoder_params(tensors: Mapping[str, np.ndarray], cfg: HubertConfig) -> dict:
  """Parameters of `models.hubert.HubertEncoder`.

  Raises:
    CheckpointError: tensors that are missing or too many, listed.
  """
  tensors = rules.strip_prefix(tensors, ('hubert.', 'w2v_model.'))
  tensors = {_transformers_name(k): v for k, v in tensors.items() if not k.startswith(_NOT_NEEDED)}
  tensors = _without_weight_norm(tensors, 'encoder.pos_conv_embed.conv')
  shapes = param_shapes(EchoXConfig(hubert=cfg), ('hubert',))
  return rules.convert(tensors, encoder_rules(cfg), 'a HuBERT base encoder of these sizes', shapes)['hubert']


def encoder_rules(cfg: HubertConfig) -> list[rules.Rule]:
  """Which tensor each parameter of `hubert` comes from (transformers' names, weight norm folded)."""
  n = cfg.num_layers
  layer = 'encoder.layers.{}'
  return [
      *(rule for i in range(len(cfg.conv_dim)) for rule in
        rules.conv(f'hubert/feature_extractor/conv_{i}', f'feature_extractor.conv_layers.{i}.conv', bias=False)),
      *rules.norm('hubert/feature_extractor/group_norm', 'feature_extractor.conv_layers.0.layer_norm'),
      *rules.norm('hubert/feature_layer_norm', 'feature_projection.layer_norm'),
      *rules.linear('hubert/feature_projection', 'feature_projection.projection'),
      *rules.conv('hubert/pos_conv', 'encoder.pos_conv_embed.conv'),
      *rules.norm('hubert/encoder_layer_norm', 'encoder.layer_norm'),
      *(rule for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj') for rule in
        rules.linear(f'hubert/layers/attention/{name}', f'{layer}.attention.{name}', n)),
      *rules.norm('hubert/layers/layer_norm', f'{layer}.layer_norm', n),
      *rules.linear('hubert/layers/intermediate_dense', f'{layer}.feed_forward.intermediate_dense', n),
      *rules.linear('hubert/layers/output_dense', f'{layer}.feed_forward.output_dense', n),
      *rules.norm('hubert/layers/final_layer_norm', f'{layer}.final_layer_norm', n),
  ]


def _transformers_name(name: str) -> str:
  for pattern, replacement in _FAIRSEQ_NAMES:
    renamed = re.sub(pattern, replacement, name)
    if renamed != name:
      return renamed
  return name


def _without_weight_norm(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """Folds w = g v / ||v|| of the positional convolution; the norm is over all axes but the kernel's (the last)."""
  tensors = dict(tensors)
  for g_name, v_name in (('weight_g', 'weight_v'), ('parametrizations.weight.original0', 'parametrizations.weight.original1')):
    if f'{prefix}.{g_name}' in tensors and f'{prefix}.{v_name}' in tensors:
      g, v = tensors.pop(f'{prefix}.{g_name}'), tensors.pop(f'{prefix}.{v_name}')
      tensors[f'{prefix}.weight'] = g * v / np.sqrt(np.sum(np.square(v), axis=(0, 1), keepdims=True))
  return tensors
