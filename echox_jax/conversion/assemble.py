"""Combines the finished stages of a working folder into one model that can answer."""

import json
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from echox_jax import config as config_lib
from echox_jax import errors, storage
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion import whisper_ct2
from echox_jax.storage import Path
from echox_jax.tokenizer import SENTENCEPIECE_FILE, find_tokenizer
from echox_jax.training import checkpoint, lineage
from echox_jax.training.experiment import ExperimentConfig

_FROM_ECHO = ('llm', 'adapter', 'unit_text_embedding', 't2c', 'echo', 'denoising_adapter')


def assemble(workdir: str | Path) -> tuple[EchoXConfig, EngineConfig, dict[str, Any], Path, Path]:
  """(model config, budgets, params, tokenizer file, unit language file) of the stages `echo` and
  `vocoder` in `workdir`.

  If the stages cached states of the frozen speech encoder, the encoder comes from its package.

  Raises:
    CheckpointError: a stage is not finished, or the two were trained with different model sizes.
  """
  workdir = storage.path(workdir)
  experiments = {stage: _experiment(workdir, stage) for stage in ('echo', 'vocoder')}
  for stage in experiments:
    lineage.warn(workdir, stage)
  config, other = (experiments[stage].model for stage in ('echo', 'vocoder'))
  if config.vocoder != other.vocoder or config.units != other.units:
    raise errors.CheckpointError(
      f'the stages echo and vocoder in {workdir} were trained with different units or vocoder '
      'sizes: train one of them again.'
    )
  params = checkpoint.load_groups(workdir / 'echo', _FROM_ECHO) | checkpoint.load_groups(
    workdir / 'vocoder', ('vocoder',)
  )
  if experiments['echo'].data.cached_states:
    _, whisper = whisper_ct2.load_packaged_whisper(experiments['echo'].speech_encoder)
    params['whisper'] = jax.tree.map(np.asarray, nn.meta.unbox(whisper))
  else:
    params |= checkpoint.load_groups(workdir / 'echo', ('whisper',))
  precomputed = workdir / 'precomputed'
  tokenizer = find_tokenizer(precomputed) or precomputed / SENTENCEPIECE_FILE
  return config, experiments['echo'].engine, params, tokenizer, precomputed / 'unit_language.json'


def _experiment(workdir: Path, stage: str) -> ExperimentConfig:
  folder = workdir / stage
  if checkpoint.read_finished(folder) is None:
    raise errors.CheckpointError(
      f'the stage {stage!r} in {workdir} is not finished: run `python -m launch.train '
      f'--config=...:{stage} --workdir={workdir}` first.'
    )
  values = json.loads((folder / 'config.json').read_text('utf-8'))
  return config_lib.build(ExperimentConfig, config_lib.upgrade_experiment(values))
