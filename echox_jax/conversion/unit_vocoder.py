"""Released unit-vocoder checkpoints (`g_*` files, entry `generator`) to our parameters; weight norm is folded (facts 10)."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from echox_jax import errors
from echox_jax.config import DurationPredictorConfig, VocoderConfig
from echox_jax.models.vocoder import UnitVocoder


def config_from_json(values: Mapping[str, Any]) -> VocoderConfig:
  """Reads the config file that lies beside a released checkpoint.

  Raises:
    ConfigError: a vocoder kind that is not supported (resblock 2, pitch, an outside speaker embedder).
  """
  if str(values.get('resblock', '1')) != '1' or values.get('f0') or values.get('embedder_params'):
    raise errors.ConfigError('this vocoder config asks for resblock 2, f0 or an embedder: use one with resblock 1 and none of them.')
  duration = values['dur_predictor_params']
  return VocoderConfig(
      num_units=values['num_embeddings'], embedding_dim=values['embedding_dim'], model_in_dim=values['model_in_dim'],
      upsample_rates=tuple(values['upsample_rates']), upsample_kernel_sizes=tuple(values['upsample_kernel_sizes']),
      upsample_initial_channel=values['upsample_initial_channel'],
      resblock_kernel_sizes=tuple(values['resblock_kernel_sizes']),
      resblock_dilation_sizes=tuple(tuple(d) for d in values['resblock_dilation_sizes']),
      num_speakers=values.get('num_speakers', 200) if values.get('multispkr') else 0,
      code_hop_size=values.get('code_hop_size', 320), sample_rate=values.get('sampling_rate', 16000),
      duration=DurationPredictorConfig(
          hidden_size=duration['var_pred_hidden_dim'], kernel_size=duration['var_pred_kernel_size'],
          dropout=duration['var_pred_dropout']))


def convert(state: Mapping[str, np.ndarray], cfg: VocoderConfig) -> dict[str, Any]:
  """Builds the vocoder parameters from the checkpoint's arrays.

  Args:
    state: the `generator` entry as numpy arrays, with `weight_g` / `weight_v` pairs.
    cfg: the sizes, see `config_from_json`.

  Raises:
    CheckpointError: names every key that is missing, unexpected or of another shape.
  """
  ids = jax.ShapeDtypeStruct((1, 8), np.int32)
  mask = jax.ShapeDtypeStruct((1, 8), bool)
  shapes = nn.meta.unbox(jax.eval_shape(UnitVocoder(cfg).init, jax.random.key(0), ids, ids, mask)['params'])
  shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}
  problems, used, params = [], set(), {}
  for path, shape in shapes.items():
    name = _torch_name(path, len(cfg.resblock_kernel_sizes))
    value = _read(state, name, path, used, problems)
    if value is not None and value.shape != shape:
      problems.append(f'mis-shaped {name} {value.shape} for {shape}')
    params[path] = value
  problems += [f'unexpected {key}' for key in sorted(set(state) - used)]
  if problems:
    raise errors.CheckpointError(f'the unit vocoder does not fit its config ({"; ".join(problems)}): use the config of that checkpoint.')
  return traverse_util.unflatten_dict(params)


def _torch_name(path: tuple[str, ...], kernels: int) -> str:
  """Our parameter path as the checkpoint's key, for the plain (not weight-normed) tensor; `kernels` residual blocks a stage."""
  head, *rest = path[:-1]
  index = head.split('_')[1:]
  if head == 'duration_predictor':
    modules = ['dur_predictor', rest[0] + ('.0' if rest[0].startswith('conv') else '')]
  elif head.startswith('resblocks_'):
    modules = ['resblocks', str(int(index[0]) * kernels + int(index[1])), rest[0].replace('_', '.')]
  elif head.startswith('ups_'):
    modules = ['ups', index[0]]
  else:
    modules = [{'unit_embedding': 'dict', 'speaker_embedding': 'spkr'}.get(head, head)]
  return '.'.join([*modules, 'bias' if path[-1] == 'bias' else 'weight'])


def _read(
    state: Mapping[str, np.ndarray], name: str, path: tuple[str, ...], used: set[str], problems: list[str],
) -> np.ndarray | None:
  """One parameter in our layout, weight norm folded; or None with its problem noted."""
  keys = [f'{name}_g', f'{name}_v'] if f'{name}_g' in state or f'{name}_v' in state else [name]
  used.update(keys)
  missing = [key for key in keys if key not in state]
  if missing:
    problems += [f'missing {key}' for key in missing]
    return None
  value = np.asarray(state[keys[-1]], np.float32)
  if len(keys) == 2:
    norm = np.sqrt(np.sum(value.astype(np.float64) ** 2, axis=tuple(range(1, value.ndim)), keepdims=True))
    value = (state[keys[0]] * value / norm).astype(np.float32)
  if path[-1] != 'kernel':
    return value
  if value.ndim == 2:
    return value.T
  return value.transpose((2, 0, 1) if path[0].startswith('ups_') else (2, 1, 0))  # torch: [out, in, k], transposed [in, out, k]
