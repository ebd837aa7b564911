"""Loads the two frozen encoders of precompute."""

from collections.abc import Callable
import dataclasses

from echox_jax import errors, storage
from echox_jax.conversion import importers, whisper_ct2
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import extract
from echox_jax.units.extract import SpeechEncoder


@dataclasses.dataclass(frozen=True)
class Encoders:
  """Loaders of the two frozen encoders: the unit encoder, and the speech encoder of the LLM."""

  units: Callable[[], SpeechEncoder]
  speech: Callable[[], SpeechEncoder]


def pretrained_encoders(experiment: ExperimentConfig) -> Encoders:
  """The encoders that the config names; their weights are read on first use."""
  model = experiment.model

  def whisper(layer: int, padding_seconds: float) -> SpeechEncoder:
    cfg, params = whisper_ct2.load_packaged_whisper(experiment.speech_encoder, model.whisper.dtype)
    if dataclasses.replace(cfg, attention=model.whisper.attention) != model.whisper:
      raise errors.ConfigError(
        f'model.whisper does not have the sizes of {experiment.speech_encoder!r}: set it to {cfg}.'
      )
    return extract.speech_encoder(
      params,
      model.whisper,
      dataclasses.replace(
        model.units, encoder='whisper', layer=layer, padding_seconds=padding_seconds
      ),
    )

  def units() -> SpeechEncoder:
    if model.units.encoder != 'hubert':
      return whisper(model.units.layer, model.units.padding_seconds)
    cfg, params = _load_hubert(experiment.precompute.hubert)
    return extract.speech_encoder(params, cfg, model.units)

  return Encoders(
    units, speech=lambda: whisper(model.whisper.num_layers, model.audio_padding_seconds)
  )


def _load_hubert(folder: str):
  """Config and parameters of a HuBERT, from an imported or a transformers folder."""
  if not folder:
    raise errors.ConfigError(
      'there is no HuBERT in precompute.hubert, which is empty: name a '
      'folder with config.json and safetensors.'
    )
  with storage.local(folder) as here:
    return importers.load_group('hubert', here)
