"""HuBERT base from a fairseq checkpoint (`.pt`: tensors under `model`, beside the training config;
facts 11).
"""

from collections.abc import Mapping
from pathlib import Path
import re
from typing import Any

import numpy as np

from echox_jax import errors
from echox_jax.config import HubertConfig
from echox_jax.conversion import hubert_hf, pickles, torch_file
from echox_jax.conversion.imported import Imported

_HEAD_SIZE = 64  # of HuBERT base, for checkpoints without a config
_STRIDES = HubertConfig().conv_stride


def open_hubert_fairseq(source: Path) -> Imported:
  """A HuBERT base saved by fairseq. Sizes come from the tensors; heads and strides come from the
  config in the file.

  Raises:
    CheckpointError: the file is missing or damaged, its pickle names more than tensors and configs,
      or it is another kind of model.
  """
  source = Path(source)
  loaded = torch_file.load_torch(source, torch_file.FAIRSEQ_RECORDS)
  tensors = torch_file.tensors_of(source, loaded, 'model')
  return hubert_hf.from_tensors(tensors, config_of(source, tensors, settings(loaded)), source)


def settings(loaded: Mapping[str, Any]) -> dict[str, Any]:
  """The settings of the model and the task by name, in any form that fairseq has saved them in;
  {} if there are none.
  """
  found = _fields(loaded.get('args'))
  cfg = _fields(loaded.get('cfg'))
  return found | _fields(cfg.get('task')) | _fields(cfg.get('model'))


def _fields(value: Any) -> dict[str, Any]:
  """A namespace, an OmegaConf node or a dict as a dict of plain values, one level deep."""
  if isinstance(value, pickles.Record):
    value = value.state
  if isinstance(value, dict) and '_content' in value:
    value = value['_content']
  return {name: _plain(field) for name, field in value.items()} if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
  """The value in an OmegaConf leaf or an enum; any other value is returned unchanged."""
  if isinstance(value, pickles.Record) and isinstance(value.state, dict) and '_val' in value.state:
    value = value.state['_val']
  if isinstance(value, pickles.Record) and value.state is None and len(value.args) == 1:
    return value.args[0]
  return value


def config_of(
  source: Path, tensors: Mapping[str, np.ndarray], values: Mapping[str, Any]
) -> HubertConfig:
  if (
    values.get('layer_norm_first')
    or values.get('conv_bias')
    or values.get('normalize')
    or values.get('extractor_mode', 'default') != 'default'
  ):
    raise errors.CheckpointError(
      f'{source} is not of the base kind (post-norm, group norm, no conv biases, audio without '
      'normalisation): use a base model.'
    )
  shapes = hubert_hf.encoder_tensors(tensors).shapes
  convs = sorted(
    (int(match[1]), shape)
    for match, shape in (
      (re.fullmatch(r'feature_extractor\.conv_layers\.(\d+)\.conv\.weight', name), shape)
      for name, shape in shapes.items()
    )
    if match
  )
  layers = {
    match[1] for match in (re.match(r'encoder\.layers\.(\d+)\.', name) for name in shapes) if match
  }
  try:
    (hidden,) = shapes['feature_projection.projection.bias']
    (intermediate,) = shapes['encoder.layers.0.feed_forward.intermediate_dense.bias']
    _, group_width, taps = shapes['encoder.pos_conv_embed.conv.weight']
    kernels = tuple(shape[2] for _, shape in convs)
    groups = hidden // group_width
  except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
    raise errors.CheckpointError(
      f'{source} holds no HuBERT under `model`: give a HuBERT checkpoint of fairseq.'
    ) from error
  strides = _strides(values.get('conv_feature_layers'))
  if strides is None or len(strides) != len(kernels):
    raise errors.CheckpointError(
      f'{source} does not say the strides of its {len(kernels)} convolutions: give one with its '
      'config.'
    )
  heads = values.get('encoder_attention_heads')
  return HubertConfig(
    hidden_size=hidden,
    intermediate_size=intermediate,
    num_layers=len(layers),
    num_heads=heads if isinstance(heads, int) else max(1, hidden // _HEAD_SIZE),
    conv_dim=tuple(shape[0] for _, shape in convs),
    conv_kernel=kernels,
    conv_stride=strides,
    num_conv_pos_embeddings=taps,
    num_conv_pos_embedding_groups=groups,
  )


def _strides(layers: Any) -> tuple[int, ...] | None:
  """Strides from `[(512,10,5)] + [(512,3,2)] * 4 + ...`. Without settings those of HuBERT base;
  None if the text has another form.
  """
  if layers is None:
    return _STRIDES
  text = ''.join(layers.split()) if isinstance(layers, str) else ''
  triple = r'\(\d{1,5},\d{1,5},\d{1,5}\)'
  term = rf'\[{triple}(?:,{triple})*,?\](?:\*\d{{1,2}})?'
  if not re.fullmatch(rf'{term}(?:\+{term})*', text):
    return None
  strides = []
  for listed, times in re.findall(r'\[(.*?)\](?:\*(\d+))?', text):
    strides += [int(stride) for stride in re.findall(r'(\d+)\)', listed)] * int(times or 1)
  return tuple(strides)
