"""Loss of the stage `align`: the adapter alone learns to write down what is said, and to say it in
the LLM's own vectors, before the LLM listens at all.

CTC finds which frames say which word. Where frames are what the LLM reads (`adapter.output`), those
that are kept of a word are pulled to the word's input embedding: frames that only CTC has trained
point roughly towards their words, but an LLM cannot read them.
"""

import jax
import jax.numpy as jnp

from echox_jax.models import echox
from echox_jax.models.adapter import Speech
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.llama import apply_llm
from echox_jax.prompts import IGNORE
from echox_jax.training import candidates, losses, s2t_step
from echox_jax.training.experiment import ExperimentConfig

_CANDIDATES = 8  # folded into the key: other random numbers than those of masks and dropout
_TINY = 1e-12  # squared length below which a vector counts as this long


def align_loss(
  params: dict, batch: dict, rng: Array | None, experiment: ExperimentConfig
) -> tuple[Array, s2t_step.Metrics]:
  """Computes CTC of the transcript plus, where frames are what the LLM reads, `pull_weight` times
  `pull`.

  Args:
    params: groups `adapter`, `llm`, of which only the input embeddings are used (with `spelled_ctc`
      `unit_text_embedding`, and `whisper` if states are not cached).
    batch: `ctc_labels` int[B,C], and `states` float[B,E,Dw] + `state_lengths` int[B] or `audio`
      float[B,samples] + `audio_lengths` int[B].
    rng: key of dropout and of the candidates; None = no dropout, and the whole vocabulary.
    experiment: the job.

  Returns:
    (loss, metrics `ctc`, `pull`, `token_error_rate`, `tokens` (of the transcripts),
      `audio_seconds`, `kept_frames`, `overflow_shrink`).
  """
  cfg, labels = experiment.model, batch['ctc_labels']
  batch = s2t_step.with_states(params, batch, rng, experiment)
  count, few = experiment.train.loss.ctc_candidates, None
  if count and rng is not None:
    key = jax.random.fold_in(rng, _CANDIDATES)
    few = candidates.choose(key, labels, cfg.llm.vocab_size, count, cfg.special_ids.audio)
  speech = echox.embed_speech(
    params, cfg, batch['states'], batch['state_lengths'], **s2t_step.dropout(rng), candidates=few
  )
  ctc = s2t_step.speech_ctc(params, batch, speech, experiment, few)
  loss, pulled = ctc, {}
  if cfg.adapter.output == 'frames':
    words = jax.lax.stop_gradient(apply_llm(params, cfg, 'embed', speech.labels))
    pulled['pull'] = pull(speech, words, labels, cfg.special_ids.audio)
    loss += experiment.train.loss.pull_weight * pulled['pull']
  tokens = jnp.sum(labels != IGNORE).astype(jnp.float32)
  errors = jnp.sum(token_errors(speech.labels, labels, cfg.special_ids.audio))
  return loss, {
    'ctc': ctc,
    **pulled,
    'token_error_rate': errors / jnp.maximum(tokens, 1.0),
    'tokens': tokens,
    **s2t_step.speech_counts(batch, speech),
  }


def pull(
  speech: Speech, words: Float[Array, 'B S D'], transcript: Int[Array, 'B C'], blank: int
) -> Float[Array, '']:
  """Computes how far kept frames are from the embeddings of their words, in float32.

  (1 - cosine) + the squared difference of the logarithms of the lengths, the mean over the slots
  whose CTC label occurs in the transcript; frames that mishear have no word to be pulled to.

  Args:
    speech: with leading axis [B].
    words: embedding of the label of each slot.
    transcript: right-padded with IGNORE.
    blank: id of the blank.
  """
  said = jnp.any(speech.labels[..., None] == transcript[:, None], axis=-1)
  mask = said & (speech.labels != blank)

  def log_length(x):
    return 0.5 * jnp.log(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1) + _TINY)

  apart = losses.denoising_cosine(speech.embeddings, words, mask).mean
  difference = log_length(speech.embeddings) - log_length(words)
  return apart + losses.masked_mean(jnp.square(difference), mask).mean


def token_errors(
  heard: Int[Array, 'B S'], transcript: Int[Array, 'B C'], blank: int
) -> Int[Array, ' B']:
  """Counts the insertions, deletions and substitutions between what was heard and the transcript.

  Args:
    heard: labels; blanks are skipped.
    transcript: right-padded with IGNORE.
    blank: id of the blank.
  """
  places = jnp.arange(transcript.shape[1] + 1)

  # costs[:, c]: errors between the labels so far and the first c of the transcript
  def add(costs, label):
    other = (label[:, None] != transcript).astype(costs.dtype)
    best = jnp.minimum(costs[:, 1:] + 1, costs[:, :-1] + other)
    best = jnp.concatenate([costs[:, :1] + 1, best], axis=1)
    best = jax.lax.cummin(best - places, axis=1) + places  # what is missing may be any stretch
    return jnp.where(label[:, None] == blank, costs, best), None

  start = jnp.broadcast_to(places, (len(transcript), len(places)))
  costs, _ = jax.lax.scan(add, start, heard.T)
  length = jnp.sum(transcript != IGNORE, axis=1)
  return jnp.take_along_axis(costs, length[:, None], axis=1)[:, 0]
