"""Reads the sizes and ids of a released EchoX model into an `EchoXConfig`, and the limits of its
answers into an `EngineConfig`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from echox_jax import errors
from echox_jax.config import (
  AdapterConfig,
  EchoXConfig,
  EngineConfig,
  LlamaConfig,
  StreamingConfig,
  UnitDecoderConfig,
  UnitsConfig,
  VocoderConfig,
)
from echox_jax.conversion import llm_config, unit_vocoder, whisper_hf
from echox_jax.prompts import RELEASED_SYSTEM_MESSAGE, SpecialIds


def config_from_json(values: Mapping[str, Any]) -> EchoXConfig:
  """The config of a released model, profile `released`.

  Args:
    values: sections `ids`, `echox` (the LLM's config.json), `unit_translator`, `whisper_encoder`,
      and optionally `vocoder` (by name, '' = the default) and `streaming`.

  Raises:
    ConfigError: a section or field is missing.
  """
  try:
    return _config(values)
  except KeyError as error:
    raise errors.ConfigError(
      f'the released config has no {error.args[0]!r}: give the complete file.'
    ) from error


def engine_from_json(values: Mapping[str, Any]) -> EngineConfig:
  """The budgets of a released model, from the same sections as `config_from_json`."""
  limits = {_LIMITS.get(name, name): value for name, value in values.get('streaming', {}).items()}
  return EngineConfig(
    **{name: value for name, value in limits.items() if name in EngineConfig.__dataclass_fields__}
  )


_LIMITS = {'max_unit_tokens': 'max_unit_words'}  # released name -> ours


def _config(values: Mapping[str, Any]) -> EchoXConfig:
  ids, echox, units = values['ids'], values['echox'], values['unit_translator']
  llm = llm_config.from_json(echox, llm_config.LLAMA)
  streaming, vocoder = values.get('streaming', {}), values.get('vocoder', {})
  known = {k: v for k, v in streaming.items() if k in StreamingConfig.__dataclass_fields__}
  # The released names of the special ids are our names, except for the audio placeholder.
  special = {k: v for k, v in ids.items() if k in SpecialIds.__dataclass_fields__}
  return EchoXConfig(
    profile='released',
    special_ids=SpecialIds(**special | {'audio': ids['audio_patch']}),
    system_message=values.get('system_message', ''),
    pad_audio_to_30_s=True,
    whisper=whisper_hf.encoder_config(values['whisper_encoder']),
    adapter=AdapterConfig(
      variant='released',
      num_heads=llm.num_heads,
      intermediate_size=2 * llm.hidden_size,
      dropout=0.1,
      shrink_budget=values['whisper_encoder']['max_source_positions'] // 2,
    ),
    llm=llm,
    unit_decoder=UnitDecoderConfig(
      unit_vocab_size=echox['unit_vocab_size'],
      trunk=llm_config.from_json(units, llm_config.LLAMA),
      text_table='lm_head',
      denoising_intermediate_size=units['aligner_intermediate_size'],
      denoising_dropout=0.1,
    ),
    vocoder=unit_vocoder.config_from_json(vocoder['']) if '' in vocoder else VocoderConfig(),
    units=UnitsConfig(
      encoder='hubert', layer=11, num_units=1000, vocab_size=echox['unit_vocab_size']
    ),
    streaming=StreamingConfig(**known),
  )


def complete(
  values: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], ids: Mapping[str, int]
) -> dict[str, Any]:
  """The sections that `config_from_json` reads, from the config.json of a released folder (facts
  6).

  Args:
    values: the LLM's config.json with EchoX's fields, or already sections. Sections among the
      fields are kept.
    shapes: shapes of the checkpoint's tensors, which give the sizes that no config names.
    ids: special ids from its vocabulary; the others are Llama 3.1's.

  Raises:
    ConfigError: a field is missing.
  """
  if 'echox' in values:
    return dict(values)
  try:
    llm = llm_config.from_json(values, llm_config.LLAMA)
  except KeyError as error:
    raise errors.ConfigError(
      f'the config of the LLM has no {error.args[0]!r}: give its complete config.json.'
    ) from error
  size = values.get('unit_vocab_size', shapes.get('unit_translator.unit_embedding.weight', (0,))[0])
  width = (
    shapes['model.mm_projector1.weight'][1] // 2
    if 'model.mm_projector1.weight' in shapes
    else values.get('adapter_size', 1280)
  )
  default_ids = dataclasses.asdict(SpecialIds())
  sections = {
    'ids': default_ids | {'audio_patch': default_ids['audio']} | dict(ids),
    'echox': {**values, 'unit_vocab_size': size},
    'unit_translator': _unit_translator(values, llm),
    'whisper_encoder': _LARGE_V3 | {'d_model': width},
    # the released rule lets slices grow beyond 50 tokens
    'streaming': {'max_slice_tokens': 128, 'max_frames': 2048},
    'system_message': RELEASED_SYSTEM_MESSAGE,
  }
  return sections | {
    name: values[name] for name in (*sections, 'vocoder') if name in values and name != 'echox'
  }


# Layers, width, heads and mlp width of the unit decoder by `unit_model`; None = as many key-value
# heads as the LLM.
_UNIT_MODELS = {'small': (4, 512, 8, None, 2048), None: (6, 512, 8, None, 2048)}
_OTHER_UNIT_MODEL = (8, 768, 12, 12, 2048)
_UNIT_POSITIONS = 2048  # independent of the LLM
_LARGE_V3 = {
  'd_model': 1280,
  'encoder_layers': 32,
  'encoder_attention_heads': 20,
  'encoder_ffn_dim': 5120,
  'num_mel_bins': 128,
  'max_source_positions': 1500,
}


def _unit_translator(values: Mapping[str, Any], llm: LlamaConfig) -> dict[str, Any]:
  """Sizes of the unit decoder in config.json form; it inherits everything else from the LLM."""
  large = (2, llm.hidden_size, llm.num_heads, None, llm.intermediate_size)
  kind = values.get('unit_model')
  layers, width, heads, kv_heads, mlp = (
    large if kind == 'large' else _UNIT_MODELS.get(kind, _OTHER_UNIT_MODEL)
  )
  return {
    **values,
    'num_hidden_layers': layers,
    'hidden_size': width,
    'num_attention_heads': heads,
    'head_dim': width // heads,
    'num_key_value_heads': kv_heads or llm.num_kv_heads,
    'intermediate_size': mlp,
    'tie_word_embeddings': False,
    'max_position_embeddings': _UNIT_POSITIONS,
    'aligner_intermediate_size': llm.intermediate_size,
  }


def unit_model(cfg: EchoXConfig) -> tuple[bool, str | None]:
  """(whether facts 6 list the unit decoder's sizes, the matching `unit_model`)."""
  trunk = cfg.unit_decoder.trunk
  found = {
    'num_hidden_layers': trunk.num_layers,
    'hidden_size': trunk.hidden_size,
    'num_attention_heads': trunk.num_heads,
    'num_key_value_heads': trunk.num_kv_heads,
    'head_dim': trunk.head_dim,
    'intermediate_size': trunk.intermediate_size,
    'aligner_intermediate_size': cfg.unit_decoder.denoising_intermediate_size,
  }
  inherited = ('rms_norm_eps', 'rope_theta', 'rope_scaling')
  if all(getattr(trunk, name) == getattr(cfg.llm, name) for name in inherited):
    for kind in (None, 'small', 'medium', 'large'):
      if found.items() <= _unit_translator({'unit_model': kind}, cfg.llm).items():
        return True, kind
  return False, None
