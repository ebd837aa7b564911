"""Speech-to-text half of EchoX: speech is encoded, shrunk, spliced in for the AUDIO id, and read by
the LLM.

These are pure functions of `params`, a dict of the groups `whisper`, `adapter` and `llm` (each call
needs only some of them).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import errors, rates
from echox_jax.config import EchoXConfig
from echox_jax.models import adapter, log_mel
from echox_jax.models.adapter import EmbeddedSpeech, SoundwaveAdapter, Speech
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.attention import Mask, segment_positions
from echox_jax.models.llama import Llama
from echox_jax.models.whisper import WhisperEncoder, num_states
from echox_jax.prompts import IGNORE, get_profile

STATES_PER_SECOND = 50


class Spliced(NamedTuple):
  """Right-padded LLM input rows of T' = T + turns * (budget - 1) positions (T' = T without speech).

  Packed rows have T' = T + budget - 1 for any number of clips, because few clips use their whole
  budget.

  Attributes:
    inputs: float[B,T',D] embeddings, zero in the padding.
    valid: bool[B,T'], False in the padding.
    positions: int[B,T'], 0, 1, 2...; restarts in each segment.
    labels: int[B,T'], the token at each supervised position, else IGNORE.
    prompt_keys: bool[B,T'], visible keys at *inference*: `valid`, except that the profile
      `released` hides EOTs of rows with audio (facts 3, "Inference mask").
    segments: int[B,T'], segment number in a packed row, 1, 2...; 0 = padding. None: not packed.
    overflow: int[B], positions cut off at the end of a packed row.
  """

  inputs: Array
  valid: Array
  positions: Array
  labels: Array
  prompt_keys: Array
  segments: Array | None = None
  overflow: Array | None = None


class S2TOutput(NamedTuple):
  """Result of `s2t_forward`: LLM states after the final norm, and their rows (see `Spliced`)."""

  hidden: Array
  labels: Array
  valid: Array
  positions: Array
  inputs: Array
  speech: Speech | None
  segments: Array | None = None
  overflow: Array | None = None


def encode_speech(
  params: dict,
  cfg: EchoXConfig,
  audio: Float[Array, '*b samples'],
  audio_lengths: Int[Array, '*b'],
  mask: Callable[[Array, Array], Array] | None = None,
) -> tuple[Float[Array, '*b E Dw'], Int[Array, '*b']]:
  """Encodes waveforms with the frozen Whisper. A clip's states do not depend on the batch.

  Args:
    params: with the group `whisper`.
    cfg: pads each clip with `audio_padding_seconds` of silence, or to Whisper's full window with
      `pad_audio_to_30_s`.
    audio: 16 kHz mono.
    audio_lengths: samples of each clip; 0 = no speech.
    mask: (log-mels, frames of each) -> log-mels; masks parts of them in training.

  Returns:
    (states at 50 Hz without gradient, number of states of each clip).

  Raises:
    AudioError: the audio is longer than the encoder's window.
  """
  clips = audio_lengths.shape
  audio, audio_lengths = audio.reshape(-1, audio.shape[-1]), audio_lengths.reshape(-1)
  window = 2 * cfg.whisper.max_positions * rates.MEL_HOP
  if audio.shape[1] > window:
    raise errors.AudioError(
      f'{audio.shape[1] / rates.SAMPLE_RATE:.1f} s of audio are more than '
      'the '
      f'{window / rates.SAMPLE_RATE:.0f} s that the speech encoder takes: '
      'split it.'
    )
  silence = round(cfg.audio_padding_seconds * rates.SAMPLE_RATE)
  step = 4 * rates.MEL_HOP  # four mel frames = two states = one adapter frame
  samples = (
    window if cfg.pad_audio_to_30_s else min(window, -(-(audio.shape[1] + silence) // step) * step)
  )
  audio = jnp.where(jnp.arange(audio.shape[1]) < audio_lengths[:, None], audio, 0)
  mel = log_mel.log_mel(
    jnp.pad(audio, ((0, 0), (0, samples - audio.shape[1]))), cfg.whisper.num_mel_bins
  )
  covered = samples if cfg.pad_audio_to_30_s else jnp.minimum(audio_lengths + silence, samples)
  mel_lengths = jnp.where(audio_lengths > 0, covered // rates.MEL_HOP, 0)
  mel = mel if mask is None else mask(mel, mel_lengths)
  shown = None if cfg.pad_audio_to_30_s else mel_lengths  # silence counts there
  states = WhisperEncoder(cfg.whisper).apply({'params': params['whisper']}, mel, shown)
  return jax.lax.stop_gradient(states).reshape(*clips, *states.shape[1:]), num_states(
    mel_lengths
  ).reshape(clips)


def embed_speech(
  params: dict,
  cfg: EchoXConfig,
  states: Float[Array, 'B *turns E Dw'],
  state_lengths: Int[Array, 'B *turns'],  # noqa: F821
  *,
  deterministic: bool = True,
  rngs: dict | None = None,
  candidates: adapter.Candidates | None = None,
) -> Speech:
  """Shrinks states of the speech encoder to LLM input embeddings; rows may have turns.

  It needs the group `adapter`, and what it reads of the LLM's tokens (`adapter.text_tables`).
  `candidates`: the only labels; None = the vocabulary.
  """
  return SoundwaveAdapter(cfg).apply(
    {'params': params['adapter']},
    states,
    state_lengths,
    deterministic,
    adapter.text_tables(params, cfg),
    candidates,
    rngs=rngs,
  )


def speech_frames(
  params: dict, cfg: EchoXConfig, states: Float[Array, 'B E Dw'], state_lengths: Int[Array, ' B']
) -> tuple[Float[Array, 'B F D'], Int[Array, ' B']]:
  """Returns the adapter's frames, which CTC labels, and how many each clip has."""
  return SoundwaveAdapter(cfg).apply(
    {'params': params['adapter']}, states, state_lengths, method='frames'
  )


def ctc_logits(
  params: dict, cfg: EchoXConfig, frames: Float[Array, '*b F D']
) -> Float[Array, '*b F V']:
  """Returns CTC logits of the adapter's frames, in float32; the blank is the AUDIO id."""
  return adapter.ctc_logits(
    frames.astype(cfg.adapter.dtype), adapter.ctc_table(params, cfg), cfg.special_ids.audio
  )


def splice(
  cfg: EchoXConfig,
  ids: Int[Array, 'B T'],
  token_embeddings: Float[Array, 'B T D'],
  speech: Speech | EmbeddedSpeech | None,
  labels: Int[Array, 'B T'] | None = None,
  segments: Int[Array, 'B T'] | None = None,
) -> Spliced:
  """Replaces the AUDIO ids by speech, with static shapes.

  Args:
    cfg: ids and profile.
    ids: right-padded with the pad id. One AUDIO id for each turn of `speech`, or none.
    token_embeddings: embeddings of the ids.
    speech: speech of the rows; its n-th turn replaces the n-th AUDIO id (only `embeddings` and
      `kept` are read). None = rows stay unchanged.
    labels: the token at each supervised position, else IGNORE; None = all IGNORE.
    segments: segment numbers of packed rows, 0 = padding; `speech` then has an axis of clips, in
      row order.

  Returns:
    `Spliced`; each AUDIO id becomes `kept` positions, and the row stays contiguous.
  """
  special = cfg.special_ids
  batch, length = ids.shape
  labels = jnp.full_like(ids, IGNORE) if labels is None else labels
  # pad and EOT may share an id: a supervised EOT is not padding
  used = (ids != special.pad) | (labels != IGNORE)
  row_length = jnp.max(jnp.where(used, jnp.arange(1, length + 1), 0), axis=1)
  in_row = jnp.arange(length) < row_length[:, None] if segments is None else segments > 0
  is_audio = ids == special.audio
  if speech is None:
    slots, budget, kept = token_embeddings[:, :0], 0, jnp.ones((batch, 1), jnp.int32)
    extra = 0
    is_audio = jnp.zeros_like(is_audio)
  else:
    budget, width = speech.embeddings.shape[-2:]
    slots = speech.embeddings.reshape(batch, -1, width)
    kept = speech.kept.reshape(batch, -1)
    extra = (kept.shape[1] if segments is None else 1) * (budget - 1)

  turn = jnp.minimum(jnp.maximum(jnp.cumsum(is_audio, axis=1) - 1, 0), kept.shape[1] - 1)
  widths = jnp.where(is_audio, jnp.take_along_axis(kept, turn, axis=1), 1) * in_row
  ends = jnp.cumsum(widths, axis=1)
  positions = jnp.broadcast_to(jnp.arange(length + extra), (batch, length + extra))
  # The source input position of each output position, and the offset into it.
  source = jax.vmap(lambda row, at: jnp.searchsorted(row, at, side='right'))(ends, positions)
  source = jnp.minimum(source, length - 1)

  def take(x):
    return jnp.take_along_axis(x, source, axis=1)

  offset = positions - take(ends - widths)
  valid = positions < ends[:, -1:]
  speaking = take(is_audio) & valid
  index = jnp.where(speaking, length + take(turn) * budget + offset, source)
  bank = jnp.concatenate([token_embeddings, slots.astype(token_embeddings.dtype)], axis=1)
  inputs = jnp.where(valid[..., None], jnp.take_along_axis(bank, index[..., None], axis=1), 0)

  if segments is not None:
    segments = jnp.where(valid, take(segments), 0)
    positions = segment_positions(segments)
  hidden_eot = get_profile(cfg.profile).mask_prompt_eot & jnp.any(is_audio, axis=1, keepdims=True)
  return Spliced(
    inputs,
    valid,
    positions,
    labels=jnp.where(valid & ~speaking, take(labels), IGNORE),
    prompt_keys=valid & ~(hidden_eot & ~speaking & (take(ids) == special.eot)),
    segments=segments,
    overflow=None if segments is None else jnp.maximum(ends[:, -1] - length - extra, 0),
  )


def s2t_forward(
  params: dict,
  cfg: EchoXConfig,
  batch: dict,
  *,
  deterministic: bool = True,
  rngs: dict | None = None,
) -> S2TOutput:
  """Runs one teacher-forced LLM pass over rows of text and speech; the mask is causal within each
  segment (facts 3).

  Args:
    params: groups `llm`, for speech `adapter`, for waveforms `whisper`.
    cfg: the model.
    batch: `input_ids` int[B,T]; `labels` int[B,T] or absent; `states` + `state_lengths`, or `audio`
      + `audio_lengths`, or neither (text only); `segments` int[B,T] of packed rows, whose speech
        has an axis of clips after B.
    deterministic: no dropout.
    rngs: {'dropout': key} if not deterministic.
  """
  speech = None
  if 'states' in batch or 'audio' in batch:
    states, lengths = (
      (batch['states'], batch['state_lengths'])
      if 'states' in batch
      else encode_speech(params, cfg, batch['audio'], batch['audio_lengths'])
    )
    clips = lengths.shape
    if 'segments' in batch:  # clips of one row are not turns of one conversation
      states, lengths = states.reshape(-1, *states.shape[-2:]), lengths.reshape(-1)
    speech = embed_speech(params, cfg, states, lengths, deterministic=deterministic, rngs=rngs)
    if 'segments' in batch:
      speech = Speech(*(x.reshape(*clips, *x.shape[1:]) for x in speech))
  llm, variables = Llama(cfg.llm), {'params': params['llm']}
  embeddings = llm.apply(variables, batch['input_ids'], method='embed')
  row = splice(
    cfg, batch['input_ids'], embeddings, speech, batch.get('labels'), batch.get('segments')
  )
  # Padding is on the right, so the causal mask hides it from real positions.
  hidden, _ = llm.apply(
    variables,
    row.inputs,
    row.positions,
    Mask(segments=row.segments, causal=True),
    deterministic=deterministic,
    rngs=rngs,
    method='hidden',
  )
  return S2TOutput(
    hidden, row.labels, row.valid, row.positions, row.inputs, speech, row.segments, row.overflow
  )


def lm_logits(params: dict, cfg: EchoXConfig, hidden: Float[Array, '*b D']) -> Float[Array, '*b V']:
  """Returns the logits of the LLM's states, in float32."""
  return Llama(cfg.llm).apply({'params': params['llm']}, hidden, method='logits')
