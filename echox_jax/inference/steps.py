"""The computations of inference: pure functions of (params, config, arrays), for any batch size.

The engine compiles these functions, and `launch.convert export --to stablehlo` exports them. Axes:
B questions or slices, T prompt ids, S samples (in `EmbeddedSpeech` the shrink budget), D width of
the states, V the LLM's vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from echox_jax import rates
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import generate, trigger
from echox_jax.models import echox, positions, unit_decoder
from echox_jax.models.adapter import EmbeddedSpeech
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.llama import apply_llm, head_row
from echox_jax.models.vocoder import UnitVocoder

_AUDIO_STEP = 2.0  # seconds, the first bucket of question lengths
# Hearing is the longest wait before the first sound: a finer ladder pads a question by a fifth on
# average, not by two fifths.
_AUDIO_GROWTH = 2**0.5
_READ_GROWTH = 4  # programs that read take long to compile: few sizes
_SLOT_STEP = 24  # what is said in seven seconds
_NODE_STEP = 24  # eight hypotheses of a short question
_FRAME_STEP = 100  # 2 s of speech


class Buckets(NamedTuple):
  """Static sizes that inputs are padded to, in ascending order: samples of a question, slots of
  what was said in it, ids of a prompt, frames of speech, labels of hypotheses (none = there are no
  hypotheses).
  """

  samples: Sequence[int]
  slots: Sequence[int]
  prompt: Sequence[int]
  frames: Sequence[int]
  nodes: Sequence[int]


def buckets(cfg: EchoXConfig, engine: EngineConfig) -> Buckets:
  """Returns the bucket sizes of a model and its budgets; the last size of each is its budget."""
  longest = min(
    cfg.max_audio_seconds, 2 * cfg.whisper.max_positions / 100 - cfg.audio_padding_seconds
  )
  seconds = _growing(_AUDIO_STEP, longest, _AUDIO_GROWTH)
  return Buckets(
    sorted({round(s * rates.SAMPLE_RATE) for s in seconds}),
    [int(n) for n in _growing(_SLOT_STEP, cfg.adapter.shrink_budget, _READ_GROWTH)],
    [int(n) for n in _growing(engine.prompt_step, engine.max_prompt_tokens, _READ_GROWTH)],
    [int(n) for n in _growing(_FRAME_STEP, engine.max_frames, 2)],
    [int(n) for n in _growing(_NODE_STEP, engine.hypothesis_nodes, 2)] if engine.hypotheses else (),
  )


def windows(engine: EngineConfig) -> Sequence[int]:
  """Returns the frames of a piece of sound behind the first one, in ascending order."""
  return [int(n) for n in _growing(engine.window, max(engine.window, engine.long_window), 2)]


def encode(
  params: dict, cfg: EchoXConfig, audio: Float[Array, 'B S'], lengths: Int[Array, ' B']
) -> tuple[Float[Array, 'B E D'], Int[Array, ' B']]:
  """Returns the speech encoder's states for audio at 16 kHz, and the number of states of each
  question.
  """
  return echox.encode_speech(params, cfg, audio, lengths)


def embed(
  params: dict, cfg: EchoXConfig, states: Float[Array, 'B E D'], lengths: Int[Array, ' B']
) -> EmbeddedSpeech:
  """Turns states of the speech encoder into LLM input embeddings."""
  return echox.embed_speech(params, cfg, states, lengths).for_llm()


def prefill(
  params: dict,
  cfg: EchoXConfig,
  max_new_tokens: int,
  ids: Int[Array, 'B T'],
  speech: EmbeddedSpeech | None,
) -> generate.TextState:
  """Prefills right-padded prompts, with `speech` in place of their AUDIO ids; returns the LLM state
  with cache slots for `max_new_tokens` more.
  """
  embeddings = apply_llm(params, cfg, 'embed', ids)
  return generate.prefill(params, cfg, echox.splice(cfg, ids, embeddings, speech), max_new_tokens)


def sample(
  params: dict, cfg: EchoXConfig, hidden: Float[Array, 'B D'], logits: Float[Array, 'B V']
) -> tuple[Int[Array, ' B'], Float[Array, ' B']]:
  """Chooses the likeliest next ids, int32, and scores their states with the trigger, float32."""
  period = head_row(params['llm'], cfg.special_ids.period)
  return jnp.argmax(logits, axis=-1).astype(jnp.int32), trigger.scores(hidden, period)


def generate_units(
  params: dict,
  cfg: EchoXConfig,
  max_words: int,
  hidden: Float[Array, 'B N D'],
  ids: Int[Array, 'B N'],
  lengths: Int[Array, ' B'],
) -> generate.UnitWords:
  """Decodes at most `max_words` unit words per slice from its first `lengths` states and the ids
  that they predicted.
  """
  table = params['unit_text_embedding']['embedding']
  read = unit_decoder.read_answer(params, cfg, hidden, ids)
  closed = unit_decoder.close_slices(cfg, table, read, ids, lengths)
  most = positions.max_unit_words(cfg, max_words)
  return generate.decode_unit_words(params['echo'], cfg, table, *closed, most)


def durations(
  params: dict, cfg: EchoXConfig, units: Int[Array, 'B R'], mask: Bool[Array, 'B R']
) -> Int[Array, 'B R']:
  """Predicts the duration of each reduced unit in frames, int32."""
  return UnitVocoder(cfg.vocoder).apply(
    {'params': params['vocoder']}, units, mask, method='durations'
  )


def wave(
  params: dict, cfg: EchoXConfig, units: Int[Array, 'B F'], mask: Bool[Array, 'B F']
) -> Float[Array, 'B S']:
  """Vocodes units at 50 Hz to a float32 waveform: `code_hop_size` samples per unit."""
  return UnitVocoder(cfg.vocoder).apply(
    {'params': params['vocoder']}, units, mask, method='generate'
  )


def _growing(first: float | int, last: float | int, factor: float | int) -> list[float | int]:
  """Returns `first`, then sizes that grow by `factor` up to `last`, always the last size; one that
  would be close to it is left out.
  """
  sizes = []
  while first * factor**0.5 < last:
    sizes.append(first)
    first *= factor
  return [*sizes, last]
