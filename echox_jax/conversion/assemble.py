"""Combines the finished stages of a working folder into one model that can answer."""

import dataclasses
import json
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from echox_jax import config as config_lib
from echox_jax import errors, model_folder, storage
from echox_jax.config import EchoXConfig, EngineConfig, UnitsConfig
from echox_jax.conversion import whisper_ct2
from echox_jax.storage import Path
from echox_jax.tokenizer import SENTENCEPIECE_FILE, find_tokenizer, precomputed_tokenizer
from echox_jax.training import checkpoint, lineage, stages
from echox_jax.training.experiment import ExperimentConfig

# stage -> the groups that a new voice needs of it
_OF_VOICE = {'t2c': ('t2c',), 'echo': ('echo',), 'vocoder': ('vocoder',)}
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
  text-to-codec model is its echo decoder, and its denoising adapter changes no state, or where text
  is read beside the states, adds nothing to it.

  Raises:
    CheckpointError: as `assemble`; or the denoising adapter is too narrow for that.
  """
  workdir = storage.path(workdir)
  for stage in ('s2t', 't2c'):
    _experiment(workdir, stage)  # it is finished
  params = checkpoint.load_groups(workdir / 's2t', ('llm', 'adapter'))
  params |= checkpoint.load_groups(workdir / 't2c', ('unit_text_embedding', 't2c'))
  cfg = _experiment(workdir, 's2t').model
  width, inner = cfg.llm.hidden_size, cfg.unit_decoder.denoising_intermediate_size
  adapter = _identity(width, inner)
  if cfg.unit_decoder.text_fusion:
    adapter['gate'] = np.zeros(width, np.float32)
  params |= {'echo': params['t2c'], 'denoising_adapter': adapter}
  return _with_vocoder(workdir, 's2t', params)


def voice(workdir: str | Path) -> dict[str, Any]:
  """The groups that speak, of the stages t2c, echo and vocoder in `workdir`; they fit the model
  that these were trained from (`source.with_voice`).

  Raises:
    CheckpointError: a stage is not finished.
  """
  workdir, params = storage.path(workdir), {}
  for stage, groups in _OF_VOICE.items():
    _experiment(workdir, stage)  # it is finished
    lineage.warn(workdir, stage)
    params |= checkpoint.load_groups(workdir / stage, groups)
  return params


def assemble_hearing(stage: str | Path) -> model_folder.Bundle:
  """What hears and reads, of the folder of a finished stage: align, s2t or echo. It cannot speak.

  Raises:
    CheckpointError: the stage does not hear, or is not finished.
  """
  stage = storage.path(stage)
  row = stages.STAGES.get(stage.name)
  if row is None or not row.uses_speech:
    hearing = ', '.join(name for name, own in stages.STAGES.items() if own.uses_speech)
    raise errors.CheckpointError(
      f'{stage} is neither a model folder nor the folder of a stage that hears ({hearing}): name '
      'one of them.'
    )
  experiment = _experiment(stage.parent, stage.name)
  own = {'llm', *model_folder.hearing(experiment.model)} - {'whisper'}
  params = checkpoint.load_groups(stage, sorted(own)) | _speech_encoder(stage, experiment)
  tokenizer = precomputed_tokenizer(stage.parent / 'precomputed')
  return model_folder.Bundle(experiment.model, params, experiment.engine, tokenizer, None)


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
  params |= _speech_encoder(workdir / stage, experiments[stage])
  precomputed = workdir / 'precomputed'
  tokenizer = find_tokenizer(precomputed) or precomputed / SENTENCEPIECE_FILE
  return config, experiments[stage].engine, params, tokenizer, precomputed / 'unit_language.json'


def _speech_encoder(folder: Path, experiment: ExperimentConfig) -> dict[str, Any]:
  """The group `whisper` of a finished stage, from its package if states were cached."""
  if not experiment.data.cached_states:
    return checkpoint.load_groups(folder, ('whisper',))
  _, whisper = whisper_ct2.load_packaged_whisper(experiment.speech_encoder)
  return {'whisper': jax.tree.map(np.asarray, nn.meta.unbox(whisper))}


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
