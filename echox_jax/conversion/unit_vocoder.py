"""Released unit vocoders (fairseq's code HiFi-GAN: a `g_*` file, entry `generator`, and its JSON
config) <-> our parameters.

All convolutions of a released generator are stored with weight norm. The import folds it and the
export splits it again (facts 10).
"""

from collections.abc import Mapping
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from echox_jax import errors, storage
from echox_jax.config import DurationPredictorConfig, EchoXConfig, VocoderConfig
from echox_jax.conversion import lazy, rules, torch_file, weight_norm
from echox_jax.conversion.imported import Imported
from echox_jax.conversion.rules import Rule
from echox_jax.models import params as params_lib
from echox_jax.models import trees
from echox_jax.models.params import param_shapes

ENTRY = 'generator'
CONFIG = 'config.json'
_TRANSPOSED = (2, 0, 1)  # torch ConvTranspose1d [in,out,k] -> kernel [k,in,out]


def config_from_json(values: Mapping[str, Any]) -> VocoderConfig:
  """Reads the config file beside a released checkpoint.

  Raises:
    ConfigError: the vocoder kind is not supported (resblock 2, pitch, an outside speaker embedder),
      or a field is missing.
  """
  if str(values.get('resblock', '1')) != '1' or values.get('f0') or values.get('embedder_params'):
    raise errors.ConfigError(
      'this vocoder config asks for resblock 2, f0 or an embedder: use one '
      'with resblock 1 and none of them.'
    )
  try:
    duration = values['dur_predictor_params']
    return VocoderConfig(
      num_units=values['num_embeddings'],
      embedding_dim=values['embedding_dim'],
      model_in_dim=values['model_in_dim'],
      upsample_rates=tuple(values['upsample_rates']),
      upsample_kernel_sizes=tuple(values['upsample_kernel_sizes']),
      upsample_initial_channel=values['upsample_initial_channel'],
      resblock_kernel_sizes=tuple(values['resblock_kernel_sizes']),
      resblock_dilation_sizes=tuple(tuple(d) for d in values['resblock_dilation_sizes']),
      num_speakers=values.get('num_speakers', 200) if values.get('multispkr') else 0,
      code_hop_size=values.get('code_hop_size', 320),
      sample_rate=values.get('sampling_rate', 16000),
      duration=DurationPredictorConfig(
        hidden_size=duration['var_pred_hidden_dim'],
        kernel_size=duration['var_pred_kernel_size'],
        dropout=duration['var_pred_dropout'],
      ),
    )
  except KeyError as error:
    raise errors.ConfigError(
      f'the vocoder config has no {error.args[0]!r}: give the complete JSON of the vocoder.'
    ) from error


def config_to_json(cfg: VocoderConfig) -> dict[str, Any]:
  """The inverse of `config_from_json`; `speaker_id` and `dtype` have no field there.

  Raises:
    ConfigError: the released layout has no keys for this vocoder.
  """
  _check_released(cfg)
  speakers = {'multispkr': '_', 'num_speakers': cfg.num_speakers} if cfg.num_speakers else {}
  return {
    'resblock': '1',
    'upsample_rates': list(cfg.upsample_rates),
    'upsample_kernel_sizes': list(cfg.upsample_kernel_sizes),
    'upsample_initial_channel': cfg.upsample_initial_channel,
    'resblock_kernel_sizes': list(cfg.resblock_kernel_sizes),
    'resblock_dilation_sizes': [list(d) for d in cfg.resblock_dilation_sizes],
    'num_embeddings': cfg.num_units,
    'embedding_dim': cfg.embedding_dim,
    'model_in_dim': cfg.model_in_dim,
    'code_hop_size': cfg.code_hop_size,
    'f0': False,
    'sampling_rate': cfg.sample_rate,
    **speakers,
    'dur_predictor_params': {
      'encoder_embed_dim': cfg.embedding_dim,
      'var_pred_hidden_dim': cfg.duration.hidden_size,
      'var_pred_kernel_size': cfg.duration.kernel_size,
      'var_pred_dropout': cfg.duration.dropout,
    },
  }


def vocoder_rules(cfg: VocoderConfig) -> list[Rule]:
  """The tensor (weight norm folded) of each parameter of `vocoder`."""
  duration, kernels = 'vocoder/duration_predictor', len(cfg.resblock_kernel_sizes)
  found = [Rule('vocoder/unit_embedding/embedding', 'dict.weight')]
  if cfg.num_speakers:
    found.append(Rule('vocoder/speaker_embedding/embedding', 'spkr.weight'))
  for i in (1, 2):
    found += rules.conv(f'{duration}/conv{i}', f'dur_predictor.conv{i}.0') + rules.norm(
      f'{duration}/ln{i}', f'dur_predictor.ln{i}'
    )
  found += rules.linear(f'{duration}/proj', 'dur_predictor.proj')
  for path in ('conv_pre', 'conv_post'):
    found += rules.conv(f'vocoder/{path}', path)
  for stage in range(len(cfg.upsample_rates)):
    found += [
      Rule(f'vocoder/ups_{stage}/kernel', f'ups.{stage}.weight', axes=_TRANSPOSED),
      Rule(f'vocoder/ups_{stage}/bias', f'ups.{stage}.bias'),
    ]
    for block, dilations in enumerate(cfg.resblock_dilation_sizes):
      for convs in ('convs1', 'convs2'):
        for i in range(len(dilations)):
          found += rules.conv(
            f'vocoder/resblocks_{stage}_{block}/{convs}_{i}',
            f'resblocks.{stage * kernels + block}.{convs}.{i}',
          )
  return found


def convert(state: Mapping[str, np.ndarray], cfg: VocoderConfig) -> dict[str, Any]:
  """Builds the vocoder parameters from the checkpoint's arrays.

  Args:
    state: the `generator` entry, with `weight_g` / `weight_v` pairs or plain weights.
    cfg: the sizes, see `config_from_json`.

  Raises:
    CheckpointError: names every key that is missing, unused or of another shape.
    ConfigError: the released layout has no keys for this vocoder.
  """
  tensors = generator_tensors(state, cfg)
  return rules.convert(tensors, vocoder_rules(cfg), 'a unit vocoder of this config', _shapes(cfg))[
    'vocoder'
  ]


def generator_tensors(state: Mapping[str, np.ndarray], cfg: VocoderConfig) -> lazy.LazyTensors:
  """The tensors of a `generator` entry; weight norm is folded when they are read. Raises as
  `convert`.
  """
  entries = lazy.entries(state)
  wanted = {}
  for name, shape in _tensor_shapes(cfg).items():
    pair = weight_norm.parts(name, entries) if _has_weight_norm(name) else None
    wanted |= (
      {name: shape} if pair is None else {pair[0]: weight_norm.shape_of_g(shape), pair[1]: shape}
    )
  params_lib.check_shapes(
    {name: tensor.shape for name, tensor in entries.items()},
    wanted,
    'a unit vocoder of this config',
  )
  for name in filter(_has_weight_norm, _tensor_shapes(cfg)):
    entries = weight_norm.folded(entries, name)
  return lazy.LazyTensors(entries)


def export_tensors(params: Mapping[str, Any], cfg: VocoderConfig) -> dict[str, np.ndarray]:
  """The `generator` entry of our parameters (float32), each convolution as `weight_g` and
  `weight_v`; `convert` restores them bit for bit.

  Raises:
    ConfigError: the released layout has no keys for this vocoder.
  """
  _check_released(cfg)
  tensors = {}
  for name, value in rules.export(trees.flatten({'vocoder': params}), vocoder_rules(cfg)):
    if _has_weight_norm(name):
      tensors[f'{name}_g'], tensors[f'{name}_v'] = weight_norm.unfold(value)
    else:
      tensors[name] = np.asarray(value, np.float32)
  return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def open_unit_vocoder(source: Path, config: Path | None = None) -> Imported:
  """Opens a released unit vocoder.

  Args:
    source: the `g_*` file, or a folder with one.
    config: its JSON; by default config.json beside it.

  Raises:
    CheckpointError: the file is missing or damaged, its pickle names more than tensors, or its
      tensors do not fit the config.
    ConfigError: another kind of vocoder.
  """
  source = _generator_file(Path(source))
  config = Path(config) if config else source.parent / CONFIG
  if not config.is_file():
    raise errors.CheckpointError(
      f'{config} is missing: give the JSON config of the vocoder or put it there.'
    )
  try:
    values = json.loads(config.read_text('utf-8'))
  except ValueError as error:
    raise errors.ConfigError(f'{config} is not JSON: give the config of the vocoder.') from error
  if not isinstance(values, dict):
    raise errors.ConfigError(f'{config} is not a JSON object: give the config of the vocoder.')
  cfg = config_from_json(values)
  state = torch_file.tensors_of(
    source, torch_file.load_torch(source, torch_file.FAIRSEQ_RECORDS), ENTRY
  )
  return Imported(
    f'the unit vocoder in {source}',
    EchoXConfig(vocoder=cfg),
    ('vocoder',),
    vocoder_rules(cfg),
    generator_tensors(state, cfg),
  )


def save_released(
  folder: Path, params: Mapping[str, Any], cfg: VocoderConfig, name: str = 'g_00500000'
) -> None:
  """Writes a released checkpoint: the `generator` file and its JSON. Raises as `export_tensors`."""
  torch_file.write_torch(Path(folder) / name, {ENTRY: export_tensors(params, cfg)})
  storage.atomic_write_json(Path(folder) / CONFIG, config_to_json(cfg))


def _generator_file(source: Path) -> Path:
  if not source.is_dir():
    return source
  found = sorted(source.glob('g_*'))
  if len(found) != 1:
    listed = ', '.join(path.name for path in found) or 'none'
    raise errors.CheckpointError(
      f'{source} must hold one vocoder file g_* ({listed} found): give the file itself.'
    )
  return found[0]


def _check_released(cfg: VocoderConfig) -> None:
  if cfg.istft_hop or cfg.context_dilations or cfg.duration.dilations:
    raise errors.ConfigError(
      'The released layout has no keys for a vocoder with istft_hop, context_dilations or '
      'duration.dilations: export it as safetensors.'
    )


@functools.lru_cache(maxsize=4)  # tracing the model takes longer than reading the file
def _shapes(cfg: VocoderConfig) -> Mapping[str, tuple[int, ...]]:
  return param_shapes(EchoXConfig(vocoder=cfg), ('vocoder',))


def _tensor_shapes(cfg: VocoderConfig) -> dict[str, tuple[int, ...]]:
  """Shapes of the tensors, weight norm folded."""
  _check_released(cfg)
  return rules.tensor_shapes(vocoder_rules(cfg), _shapes(cfg))


def _has_weight_norm(name: str) -> bool:
  return name.endswith('.weight') and name.startswith(
    ('conv_pre.', 'conv_post.', 'ups.', 'resblocks.')
  )
