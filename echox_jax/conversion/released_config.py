"""Sizes and ids of a released EchoX model in machine form -> `EchoXConfig`."""

from collections.abc import Mapping
from typing import Any

from echox_jax import errors
from echox_jax.config import (AdapterConfig, EchoXConfig, LlamaConfig, RopeScaling, StreamingConfig, UnitDecoderConfig,
                              UnitsConfig, VocoderConfig)
from echox_jax.conversion import unit_vocoder, whisper_hf
from echox_jax.prompts import SpecialIds

_SAME_NAME = ('vocab_size', 'hidden_size', 'intermediate_size', 'head_dim', 'rms_norm_eps', 'rope_theta')


def config_from_json(values: Mapping[str, Any]) -> EchoXConfig:
  """The config of a released model, profile `released`.

  Args:
    values: sections `ids`, `echox` (the LLM's config.json), `unit_translator`, `whisper_encoder`, and optionally `vocoder`
      (by name, '' = the default one) and `streaming`.

  Raises:
    ConfigError: a section or field is missing.
  """
  try:
    return _config(values)
  except KeyError as error:
    raise errors.ConfigError(f'the released config has no {error.args[0]!r}: give the complete file.') from error


def _config(values: Mapping[str, Any]) -> EchoXConfig:
  ids, echox, units = values['ids'], values['echox'], values['unit_translator']
  llm = llama_config(echox)
  streaming, vocoder = dict(values.get('streaming', {})), values.get('vocoder', {})
  limits = {'max_unit_words': streaming.pop('max_unit_tokens')} if 'max_unit_tokens' in streaming else {}
  known = {k: v for k, v in streaming.items() if k in StreamingConfig.__dataclass_fields__}
  # The released names of the special ids are ours, but for the audio placeholder.
  special = {k: v for k, v in ids.items() if k in SpecialIds.__dataclass_fields__}
  return EchoXConfig(
      profile='released',
      special_ids=SpecialIds(**special, audio=ids['audio_patch']),
      pad_audio_to_30_s=True,
      whisper=whisper_hf.encoder_config(values['whisper_encoder']),
      adapter=AdapterConfig(
          variant='released', num_heads=llm.num_heads, intermediate_size=2 * llm.hidden_size, dropout=0.1,
          shrink_budget=values['whisper_encoder']['max_source_positions'] // 2),
      llm=llm,
      unit_decoder=UnitDecoderConfig(
          unit_vocab_size=echox['unit_vocab_size'], trunk=llama_config(units),
          denoising_intermediate_size=units['aligner_intermediate_size'], denoising_dropout=0.1),
      vocoder=unit_vocoder.config_from_json(vocoder['']) if '' in vocoder else VocoderConfig(),
      units=UnitsConfig(encoder='hubert', layer=11, num_units=1000, vocab_size=echox['unit_vocab_size']),
      streaming=StreamingConfig(**known, **limits))


def llama_config(values: Mapping[str, Any]) -> LlamaConfig:
  """A Llama config from transformers' config.json."""
  scaling = values.get('rope_scaling')
  if scaling is not None and scaling.get('rope_type') != 'llama3':
    raise errors.ConfigError(f"rope_scaling is {scaling!r}: only rope_type 'llama3' is supported.")
  return LlamaConfig(
      **{name: values[name] for name in _SAME_NAME},
      num_layers=values['num_hidden_layers'], num_heads=values['num_attention_heads'],
      num_kv_heads=values['num_key_value_heads'], tie_embeddings=values.get('tie_word_embeddings', False),
      rope_scaling=scaling and RopeScaling(
          factor=scaling['factor'], low_freq_factor=scaling['low_freq_factor'], high_freq_factor=scaling['high_freq_factor'],
          original_max_positions=scaling['original_max_position_embeddings']))
