"""What answering a question computes: pure functions of (params, config, arrays), for any batch
size.

The engine compiles them, and `launch.convert export --to stablehlo` writes the same ones out.
Shapes below: B questions or slices, T prompt ids, S shrink budget, D width of the LLM, V its
vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

from echox_jax import rates
from echox_jax.config import EchoXConfig
from echox_jax.decoding import generate, sampler, trigger
from echox_jax.models import echox, positions
from echox_jax.models.arrays import Array
from echox_jax.models.llama import Llama, head_embedding
from echox_jax.models.unit_decoder import DenoisingAdapter
from echox_jax.models.vocoder import UnitVocoder

_AUDIO_STEP = 2.0  # seconds, the first bucket of question lengths
_PROMPT_STEP = 32  # tokens
_FRAME_STEP = 100  # 2 s of speech


class Buckets(NamedTuple):
  """Static sizes that inputs are padded to, short to long: samples of a question, ids of a prompt,
  frames of speech.
  """

  samples: Sequence[int]
  prompt: Sequence[int]
  frames: Sequence[int]


class EmbeddedSpeech(NamedTuple):
  """A question as the LLM hears it: embeddings float[B,S,D], kept int[B] of them real, overflow
  int[B] left out.
  """

  embeddings: Array
  kept: Array
  overflow: Array


def buckets(cfg: EchoXConfig) -> Buckets:
  """The sizes that a config allows; the last of each is its budget."""
  longest = min(
    cfg.max_audio_seconds, 2 * cfg.whisper.max_positions / 100 - cfg.audio_padding_seconds
  )
  return Buckets(
    [round(s * rates.SAMPLE_RATE) for s in _doubling(_AUDIO_STEP, longest)],
    [int(n) for n in _doubling(_PROMPT_STEP, cfg.max_prompt_tokens)],
    [int(n) for n in _doubling(_FRAME_STEP, cfg.streaming.max_frames)],
  )


def encode(params: dict, cfg: EchoXConfig, audio: Array, lengths: Array) -> tuple[Array, Array]:
  """float[B,samples] at 16 kHz, int[B] -> states of the speech encoder float[B,E,Dw] and their
  lengths int[B].
  """
  return echox.encode_speech(params, cfg, audio, lengths)


def embed(params: dict, cfg: EchoXConfig, states: Array, lengths: Array) -> EmbeddedSpeech:
  """States float[B,E,Dw] and lengths int[B] -> what the LLM hears."""
  speech = echox.embed_speech(params, cfg, states, lengths)
  return EmbeddedSpeech(speech.embeddings, speech.kept, speech.overflow)


def prefill(
  params: dict, cfg: EchoXConfig, ids: Array, speech: EmbeddedSpeech | None
) -> generate.TextState:
  """Prompts int[B,T], padded at the right, and what stands for their AUDIO ids -> the LLM behind
  them.
  """
  embeddings = Llama(cfg.llm).apply({'params': params['llm']}, ids, method='embed')
  return generate.prefill(
    params, cfg, echox.splice(cfg, ids, embeddings, speech), cfg.streaming.max_new_tokens
  )


def sample(
  params: dict,
  cfg: EchoXConfig,
  hidden: Array,
  logits: Array,
  key: Array | None = None,
  temperature: float = 0.0,
  top_p: float = 1.0,
) -> tuple[Array, Array]:
  """States float[B,D] and logits float[B,V] -> (next ids int32[B], trigger scores float32[B]);
  temperature 0 needs no key.
  """
  period = head_embedding(params['llm'])[cfg.special_ids.period]
  return sampler.sample(logits, key, temperature, top_p), trigger.scores(hidden, period)


def generate_units(
  params: dict, cfg: EchoXConfig, hidden: Array, lengths: Array
) -> generate.UnitWords:
  """States of slices float[B,max_slice_tokens,D], int[B] of them real -> unit words, as many as the
  decoder has positions for.
  """
  adapted = DenoisingAdapter(cfg).apply({'params': params['denoising_adapter']}, hidden)
  return generate.decode_unit_words(
    params['echo'],
    cfg,
    params['unit_text_embedding']['embedding'],
    adapted,
    lengths,
    positions.max_unit_words(cfg),
  )


def durations(params: dict, cfg: EchoXConfig, units: Array, mask: Array) -> Array:
  """Reduced units int32[B,R], bool[B,R] -> frames of each int32[B,R]."""
  return UnitVocoder(cfg.vocoder).apply(
    {'params': params['vocoder']}, units, mask, method='durations'
  )


def wave(params: dict, cfg: EchoXConfig, units: Array, mask: Array) -> Array:
  """Units at 50 Hz int32[B,F], bool[B,F] -> float32[B,F*hop]."""
  return UnitVocoder(cfg.vocoder).apply(
    {'params': params['vocoder']}, units, mask, method='generate'
  )


def _doubling(first: float, last: float) -> list[float]:
  """`first`, twice it, four times it ... up to `last`, which is always the end."""
  sizes = []
  while first < last:
    sizes.append(first)
    first *= 2
  return [*sizes, last]
