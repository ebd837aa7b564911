"""Losses shared by the stages, in float32: cross-entropy, CTC, cosine distance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.prompts import IGNORE

_IMPOSSIBLE = -1e30  # log-probability; finite, so that gradients stay finite


class Mean(NamedTuple):
  """A mean with its sum and count: float32 scalars."""

  mean: Array
  total: Array
  count: Array


def cross_entropy(
  logits: Float[Array, '*b V'], labels: Int[Array, '*b'], ignore: int = IGNORE
) -> Mean:
  """Computes the cross-entropy over all labels except `ignore`.

  Args:
    logits: logits at a position predict the label at the same position.
    labels: ids, or `ignore`.
    ignore: the label of positions that do not count.

  Returns:
    Mean over counted labels (0 if there are none).
  """
  logits = logits.astype(jnp.float32)
  counted = labels != ignore
  picked = jnp.take_along_axis(logits, jnp.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
  return masked_mean(jax.nn.logsumexp(logits, axis=-1) - picked, counted)


def denoising_cosine(
  a: Float[Array, '*b D'], b: Float[Array, '*b D'], mask: Bool[Array, '*b'], epsilon: float = 1e-8
) -> Mean:
  """Computes the mean of 1 - cosine of `a` and `b` where `mask` is True (paper, L_denoise).

  Vectors with a norm below `epsilon` are divided by `epsilon`, as in torch's cosine_similarity.
  """
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)

  def inverse(x):
    return jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1), epsilon**2))

  return masked_mean(1.0 - jnp.sum(a * b, axis=-1) * inverse(a) * inverse(b), mask)


def ctc_loss(
  logits: Float[Array, 'B F V'],
  frame_lengths: Int[Array, ' B'],
  labels: Int[Array, 'B C'],
  blank: int,
) -> tuple[Float[Array, ''], Float[Array, ' B']]:
  """Computes CTC with the released reduction: divides each row by max(1, its labels), then averages
  over rows (facts 5).

  A row whose labels do not fit into its frames counts as 0 with no gradient (torch's
  zero_infinity).

  Args:
    logits: not normalised.
    frame_lengths: valid frames of each row.
    labels: ids, right-padded with IGNORE.
    blank: id of the blank.

  Returns:
    (loss, negative log-likelihood of each row, 0 where infeasible).
  """
  logits = logits.astype(jnp.float32)
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  ids = jnp.where(labels != IGNORE, labels, blank)
  spread = jnp.broadcast_to(ids[:, None], (*logits.shape[:2], ids.shape[1]))
  label_scores = jnp.take_along_axis(logits, spread, axis=-1) - normaliser[..., None]
  return ctc_of_scores(logits[..., blank] - normaliser, label_scores, frame_lengths, labels)


def ctc_of_scores(
  blank_scores: Float[Array, 'B F'],
  label_scores: Float[Array, 'B F C'],
  frame_lengths: Int[Array, ' B'],
  labels: Int[Array, 'B C'],
) -> tuple[Float[Array, ''], Float[Array, ' B']]:
  """Computes `ctc_loss` from the log-probabilities of the blank and of each label (any number where
  IGNORE).
  """
  counted = labels != IGNORE
  label_lengths = jnp.sum(counted, axis=-1)
  repeated = (labels[:, 1:] == labels[:, :-1]) & counted[:, 1:]
  each = _ctc_forward(blank_scores, label_scores, repeated, frame_lengths, label_lengths)
  # a repeat needs a blank in between
  feasible = label_lengths + jnp.sum(repeated, axis=-1) <= frame_lengths
  each = jnp.where(feasible, each, 0.0)
  return jnp.mean(each / jnp.maximum(label_lengths, 1)), each


def masked_mean(values: Float[Array, '*b'], mask: Bool[Array, '*b']) -> Mean:
  """Returns the mean of the values where `mask` is True; 0 if it is True nowhere."""
  total = jnp.sum(jnp.where(mask, values, 0.0))
  count = jnp.sum(mask).astype(jnp.float32)
  return Mean(total / jnp.maximum(count, 1.0), total, count)


def _ctc_forward(
  blank_scores: Array,
  label_scores: Array,
  repeated: Array,
  frame_lengths: Array,
  label_lengths: Array,
) -> Array:
  """Returns negative log-likelihoods float[B] by the forward algorithm, with separate blanks and
  labels.

  It subtracts the best path's score after each frame. Otherwise the scores of hundreds of frames
  would leave too few digits for the small differences that the gradient depends on.

  Args:
    blank_scores: float[B,T] log-probabilities of the blank.
    label_scores: float[B,T,C] of each label.
    repeated: bool[B,C-1], label n + 1 equals label n.
    frame_lengths: int[B].
    label_lengths: int[B].
  """
  batch, frames, count = label_scores.shape
  # blanks[n]: paths that end in a blank after n labels; ends[n]: paths that end in label n.
  blanks = jnp.where(jnp.arange(count + 1) == 0, 0.0, _IMPOSSIBLE) + jnp.zeros((batch, 1))
  ends = jnp.full((batch, count), _IMPOSSIBLE)
  first = jnp.full((batch, 1), _IMPOSSIBLE)

  def step(carry, now):
    blanks, ends = carry
    blank_score, scores, number = now
    skipping = jnp.where(repeated, _IMPOSSIBLE, ends[:, :-1])
    arriving = jnp.logaddexp(blanks[:, :-1], jnp.concatenate([first, skipping], axis=1))
    new_ends = scores + jnp.logaddexp(ends, arriving)
    new_blanks = blank_score[:, None] + jnp.logaddexp(
      blanks, jnp.concatenate([first, ends], axis=1)
    )
    best = jax.lax.stop_gradient(
      jnp.maximum(jnp.max(new_blanks, axis=1), jnp.max(new_ends, axis=1, initial=_IMPOSSIBLE))
    )
    real = number < frame_lengths

    def choose(new, old):
      return jnp.where(real[:, None], new - best[:, None], old)

    return (choose(new_blanks, blanks), choose(new_ends, ends)), jnp.where(real, best, 0.0)

  (blanks, ends), taken = jax.lax.scan(
    step, (blanks, ends), (blank_scores.T, label_scores.swapaxes(0, 1), jnp.arange(frames))
  )

  def pick(x):
    return jnp.take_along_axis(x, label_lengths[:, None], axis=1)[:, 0]

  return -jnp.sum(taken, axis=0) - jnp.logaddexp(
    pick(blanks), pick(jnp.concatenate([first, ends], axis=1))
  )
