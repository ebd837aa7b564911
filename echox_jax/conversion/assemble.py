"""Combines the finished stages of a working folder into one model that can answer."""

import dataclasses
import json
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from echox_jax import config as config_lib
from echox_jax import errors, storage
from echox_jax.config import EchoXConfig, EngineConfig, UnitsConfig
from echox_jax.conversion import whisper_ct2
from echox_jax.storage import Path
from echox_jax.tokenizer import SENTENCEPIECE_FILE, find_tokenizer
from echox_jax.training import checkpoint, lineage
from echox_jax.training.experiment import ExperimentConfig

_FROM_ECHO = ('llm', 'adapter', 'unit_text_embedding', 't2c', 'echo', 'denoising_adapter')

# (model config, budgets, params, tokenizer file, unit language file)
Assembled = tuple[EchoXConfig, EngineConfig, dict[str, Any], Path, Path]


def assemble(workdir: str | Path) -> Assembled:
  """The model of the stages `echo` and `vocoder` in `workdir`.

  If the stages cached states of the frozen speech encoder, the encoder comes from its package.

  Raises:
    CheckpointError: a stage is not finished, or the two were trained with different model sizes.
  """
  workdir = storage.path(workdir)
  return _with_vocoder(workdir, 'echo', checkpoint.load_groups(workdir / 'echo', _FROM_ECHO))


def assemble_untrained(workdir: str | Path) -> Assembled:
  """The model of the stages `s2t`, `t2c` and `vocoder` in `workdir`, before echo training: the
  text-to-codec model is its echo decoder, and its denoising adapter changes no state.

  Raises:
    CheckpointError: as `assemble`; or the denoising adapter is too narrow for that.
  """
  workdir = storage.path(workdir)
  for stage in ('s2t', 't2c'):
    _experiment(workdir, stage)  # it is finished
  params = checkpoint.load_groups(workdir / 's2t', ('llm', 'adapter'))
  params |= checkpoint.load_groups(workdir / 't2c', ('unit_text_embedding', 't2c'))
  cfg = _experiment(workdir, 's2t').model
  params |= {
    'echo': params['t2c'],
    'denoising_adapter': _identity(
      cfg.llm.hidden_size, cfg.unit_decoder.denoising_intermediate_size
    ),
  }
  return _with_vocoder(workdir, 's2t', params)


def _identity(width: int, inner: int) -> dict[str, Any]:
  """A denoising adapter that gives what it takes: relu(x) - relu(-x) = x.

  Raises:
    CheckpointError: it takes two inner channels for each outer one.
  """
  if inner < 2 * width:
    raise errors.CheckpointError(
      f'a denoising adapter of {inner} inner channels cannot pass on {width}: make '
      f'model.unit_decoder.denoising_intermediate_size at least {2 * width}.'
    )
  first = np.zeros((width, inner), np.float32)
  first[:, : 2 * width] = np.concatenate([np.eye(width), -np.eye(width)], axis=1)
  return {
    'fc1': {'kernel': first, 'bias': np.zeros(inner, np.float32)},
    'fc2': {'kernel': first.T.copy(), 'bias': np.zeros(width, np.float32)},
  }


def _with_vocoder(workdir: Path, stage: str, params: dict[str, Any]) -> Assembled:
  """Adds to the `params` of a stage that hears what comes from elsewhere."""
  experiments = {name: _experiment(workdir, name) for name in (stage, 'vocoder')}
  for name in experiments:
    lineage.warn(workdir, name)
  config, other = (experiment.model for experiment in experiments.values())
  if config.vocoder != other.vocoder or _sound(config.units) != _sound(other.units):
    raise errors.CheckpointError(
      f'the stages {stage} and vocoder in {workdir} were trained with different units or vocoder '
      'sizes: train one of them again.'
    )
  params = params | checkpoint.load_groups(workdir / 'vocoder', ('vocoder',))
  if experiments[stage].data.cached_states:
    _, whisper = whisper_ct2.load_packaged_whisper(experiments[stage].speech_encoder)
    params['whisper'] = jax.tree.map(np.asarray, nn.meta.unbox(whisper))
  else:
    params |= checkpoint.load_groups(workdir / stage, ('whisper',))
  precomputed = workdir / 'precomputed'
  tokenizer = find_tokenizer(precomputed) or precomputed / SENTENCEPIECE_FILE
  return config, experiments[stage].engine, params, tokenizer, precomputed / 'unit_language.json'


def _sound(units: UnitsConfig) -> UnitsConfig:
  """The units as the vocoder hears them: how they are written as words does not matter to it."""
  words = ('language', 'max_word_units', 'vocab_size')
  default = UnitsConfig()
  return dataclasses.replace(units, **{name: getattr(default, name) for name in words})


def _experiment(workdir: Path, stage: str) -> ExperimentConfig:
  folder = workdir / stage
  if checkpoint.read_finished(folder) is None:
    raise errors.CheckpointError(
      f'the stage {stage!r} in {workdir} is not finished: run `python -m launch.train '
      f'--config=...:{stage} --workdir={workdir}` first.'
    )
  values = json.loads((folder / 'config.json').read_text('utf-8'))
  return config_lib.build(ExperimentConfig, config_lib.upgrade_experiment(values))
