"""Losses of the stages `text` (the LLM alone) and `s2t` (speech in, text out): CE + 0.3 CTC (facts
5).
"""

import functools

import jax
import jax.numpy as jnp

from echox_jax import rates
from echox_jax.models import echox, spec_augment
from echox_jax.models.adapter import Candidates, Speech, ctc_table
from echox_jax.models.arrays import Array, Float
from echox_jax.models.llama import head_embedding
from echox_jax.training import chunked_losses, losses
from echox_jax.training.experiment import ExperimentConfig

Metrics = dict[str, Array]
_MASKS = 7  # folded into the key, so that masks and dropout use different random numbers


def text_loss(
  params: dict, batch: dict, rng: Array | None, experiment: ExperimentConfig
) -> tuple[Array, Metrics]:
  """Computes the next-token cross-entropy of text rows.

  Args:
    params: group `llm`.
    batch: `input_ids`, `labels` int[B,T]; `segments` int[B,T] if rows are packed.
    rng: dropout key; None = deterministic.
    experiment: the job.

  Returns:
    (loss, metrics `text_ce`, `tokens`).
  """
  output = echox.s2t_forward(params, experiment.model, batch, **dropout(rng))
  ce = next_token_loss(params, output, experiment.train.loss.chunk_tokens)
  return ce.mean, {'text_ce': ce.mean, 'tokens': ce.count}


def s2t_loss(
  params: dict, batch: dict, rng: Array | None, experiment: ExperimentConfig
) -> tuple[Array, Metrics]:
  """Computes the cross-entropy of the answer plus `ctc_weight` times CTC of the transcript.

  Args:
    params: groups `llm`, `adapter` (and `whisper` if states are not cached).
    batch: `input_ids`, `labels` int[B,T], `ctc_labels` int[B,C], `states` float[B,E,Dw] +
      `state_lengths` int[B] or `audio` float[B,samples] + `audio_lengths` int[B]. Speech and
      `ctc_labels` may have a turn axis after B. Packed rows have `segments` int[B,T], and an axis
      of clips instead of turns.
    rng: dropout key; None = deterministic.
    experiment: the job.

  Returns:
    (loss, metrics `text_ce`, `ctc`, `tokens`, `audio_seconds`, `kept_frames`, `overflow_shrink`,
      and `overflow_positions` for packed rows).
  """
  batch = with_states(params, batch, rng, experiment)
  output = echox.s2t_forward(params, experiment.model, batch, **dropout(rng))
  return loss_of_output(params, batch, output, experiment)


def with_states(params: dict, batch: dict, rng: Array | None, experiment: ExperimentConfig) -> dict:
  """Adds the encoder states of a batch's waveforms, if it has any; with a key, `data.augment` may
  mask parts of their log-mels.
  """
  if 'audio' not in batch:
    return batch
  augment, mask = experiment.data.augment, None
  if rng is not None and (augment.time_mask or augment.feature_mask):
    mask = functools.partial(
      spec_augment.spec_augment,
      key=jax.random.fold_in(rng, _MASKS),
      time=augment.time_mask,
      bands=augment.feature_mask,
    )
  states, lengths = echox.encode_speech(
    params, experiment.model, batch['audio'], batch['audio_lengths'], mask
  )
  return {**batch, 'states': states, 'state_lengths': lengths}


def loss_of_output(
  params: dict, batch: dict, output: echox.S2TOutput, experiment: ExperimentConfig
) -> tuple[Array, Metrics]:
  """Like `s2t_loss`, for an existing forward pass (echo training needs its states too)."""
  choices = experiment.train.loss
  ce = next_token_loss(params, output, choices.chunk_tokens)
  speech = output.speech
  ctc = speech_ctc(params, batch, speech, experiment)
  more = {}
  # average over dialogues, not over all clip slots
  if 'segments' in batch:
    ctc *= speech.kept.size / jnp.maximum(_count(jnp.max(batch['segments'], axis=1)), 1.0)
    more['overflow_positions'] = _count(output.overflow)
  return ce.mean + choices.ctc_weight * ctc, {
    'text_ce': ce.mean,
    'ctc': ctc,
    'tokens': ce.count,
    **speech_counts(batch, speech),
  } | more


def speech_ctc(
  params: dict,
  batch: dict,
  speech: Speech,
  experiment: ExperimentConfig,
  candidates: Candidates | None = None,
) -> Float[Array, '']:
  """Computes CTC of the transcripts `ctc_labels`, the mean over all clips; `candidates` are those
  that `speech` was made with.
  """
  frames = speech.frames.reshape(-1, *speech.frames.shape[-2:])
  ctc, _ = chunked_losses.ctc_loss(
    frames,
    ctc_table(params, experiment.model, candidates),
    speech.frame_lengths.reshape(-1),
    batch['ctc_labels'].reshape(len(frames), -1),
    experiment.model.special_ids.audio,
    experiment.train.loss.chunk_tokens,
  )
  return ctc


def speech_counts(batch: dict, speech: Speech) -> Metrics:
  """Counts `audio_seconds`, `kept_frames` and `overflow_shrink` of a batch."""
  seconds = (
    _count(batch['audio_lengths']) / rates.SAMPLE_RATE
    if 'audio_lengths' in batch
    else _count(batch['state_lengths']) / echox.STATES_PER_SECOND
  )
  return {
    'audio_seconds': seconds,
    'kept_frames': _count(speech.kept),
    'overflow_shrink': _count(speech.overflow),
  }


def _count(x: Array) -> Array:
  return jnp.sum(x).astype(jnp.float32)


def dropout(rng: Array | None) -> dict:
  """Returns the dropout arguments of a model's `apply` for the key `rng`; None = no dropout."""
  return {'deterministic': rng is None, 'rngs': None if rng is None else {'dropout': rng}}


def next_token_loss(params: dict, output: echox.S2TOutput, chunk: int = 0) -> losses.Mean:
  """Computes the cross-entropy of each label from the state before it; `chunk` as in
  `models.chunked_head`.
  """
  return chunked_losses.cross_entropy(
    output.hidden[:, :-1], head_embedding(params['llm']), output.labels[:, 1:], chunk
  )
