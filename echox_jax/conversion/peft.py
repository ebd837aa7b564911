"""LoRA in PEFT's format: a folder with adapter_config.json and adapter_model.safetensors, merged
into its base while reading.

The merged weight is W + B A alpha / r, computed tensor by tensor. Tensors that PEFT saved whole
(`modules_to_save`) replace those of the base.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import re

import numpy as np

from echox_jax import errors
from echox_jax.conversion import hf_folder, lazy
from echox_jax.tensor_files import TensorFiles, open_tensors

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
_LORA = re.compile(r'^(?P<module>.+)\.lora_(?P<letter>[AB])(\.default)?\.weight$')
# wrapper modules that PEFT puts around a saved one
_WRAPPED = re.compile(r'\.(modules_to_save(\.default)?|base_layer)\.')


def is_adapter(folder: Path) -> bool:
  """True if PEFT wrote `folder`."""
  return (folder / CONFIG).is_file()


def merged(base: Mapping[str, np.ndarray], folder: Path) -> lazy.LazyTensors:
  """The tensors of `base` with the adapter in `folder` merged in, in the dtype of the base.

  Raises:
    CheckpointError: it is not plain LoRA, is for other sizes or for modules that the base lacks, or
      is damaged; names file and key.
  """
  settings = _Settings.read(folder / CONFIG)
  adapter = open_tensors(folder / WEIGHTS)
  entries, whole, pairs = lazy.entries(base), lazy.entries(adapter), {}
  for name in adapter:
    key = name.removeprefix(PREFIX)
    match = _LORA.match(key)
    if match:
      pairs.setdefault(match['module'], {})[match['letter']] = name
    elif '.lora_' in key:
      raise errors.CheckpointError(
        f'{adapter.path}: {name!r} belongs to a kind of adapter other '
        'than plain LoRA on linear layers: merge it with PEFT first.'
      )
    else:  # saved whole; may have more rows than the base, for new tokens
      entries[_WRAPPED.sub('.', key)] = whole[name]
  for module, names in pairs.items():
    entries[f'{module}.weight'] = _merge(entries, adapter, module, names, settings)
  return lazy.LazyTensors(entries)


@dataclasses.dataclass(frozen=True)
class _Settings:
  """The scale settings of adapter_config.json."""

  alpha: float
  alphas: Mapping[str, float]  # by module pattern
  rslora: bool
  transposed: bool

  @classmethod
  def read(cls, path: Path) -> '_Settings':
    values = hf_folder.read_json(path)
    if values.get('peft_type', 'LORA') != 'LORA' or values.get('use_dora'):
      raise errors.CheckpointError(
        f'{path} describes an adapter other than plain LoRA: merge it '
        'into its base with PEFT first.'
      )
    if 'lora_alpha' not in values:
      raise errors.CheckpointError(f"{path} has no 'lora_alpha': copy or download it again.")
    return cls(
      values['lora_alpha'],
      values.get('alpha_pattern') or {},
      bool(values.get('use_rslora')),
      bool(values.get('fan_in_fan_out')),
    )

  def scale(self, module: str, rank: int) -> float:
    alpha = next(
      (a for pattern, a in self.alphas.items() if re.match(rf'(.*\.)?({pattern})$', module)),
      self.alpha,
    )
    return alpha / rank ** (0.5 if self.rslora else 1.0)


def _merge(
  entries: Mapping[str, lazy.Tensor],
  adapter: TensorFiles,
  module: str,
  names: Mapping[str, str],
  settings: _Settings,
) -> lazy.Tensor:
  """The weight of `module` with its pair of LoRA matrices added."""
  some = next(iter(names.values()))
  if len(names) < 2:
    raise _mismatch(adapter, some, 'without its other half')
  weight = entries.get(f'{module}.weight')
  if weight is None:
    raise _mismatch(adapter, some, f'for {module}.weight, which the base lacks')
  if any(len(adapter.shapes[name]) != 2 for name in names.values()):
    raise _mismatch(adapter, some, 'not a LoRA of a linear layer')
  (rank, inside), (outside, other_rank) = adapter.shapes[names['A']], adapter.shapes[names['B']]
  shape = (inside, outside) if settings.transposed else (outside, inside)
  if rank != other_rank or weight.shape != shape:
    raise _mismatch(
      adapter,
      some,
      f'a LoRA of {outside} x {other_rank} by {rank} x {inside}, but '
      f'{module}.weight of the base '
      f'has shape {list(weight.shape)}',
    )

  def read() -> np.ndarray:
    a, b = (adapter[names[letter]].astype(np.float32) for letter in 'AB')
    delta = np.float32(settings.scale(module, rank)) * (b @ a)
    return (weight.read().astype(np.float32) + (delta.T if settings.transposed else delta)).astype(
      weight.dtype
    )

  return lazy.Tensor(weight.shape, weight.dtype, read)


def _mismatch(adapter: TensorFiles, name: str, problem: str) -> errors.CheckpointError:
  return errors.CheckpointError(
    f'{adapter.path}: {name!r} is {problem}: give the base that this LoRA was trained on.'
  )
