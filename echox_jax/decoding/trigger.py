"""The streaming trigger: cuts an answer into slices that are spoken while the rest is generated.

score = cosine(state that predicts a token, head row of "."): high where the model is about to end a
phrase (paper, "Streaming"). A token is a cut if its score is a local maximum and the slice has
`min_tokens`, or `min_tokens_above_threshold` and a score above the threshold (facts 8). The rule
needs `look_ahead` later tokens to judge a candidate, so the last tokens of an answer never cut. The
rest of the answer is the last slice.

The rule is implemented twice: for whole answers inside jit (training) and token by token
(answering).
"""

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import StreamingConfig
from echox_jax.models.arrays import Array, Float, Int


def scores(hidden: Float[Array, '*b D'], period_row: Float[Array, ' D']) -> Float[Array, '*b']:
  """Returns the cosine of states with the head row of ".", in float32."""
  hidden, row = hidden.astype(jnp.float32), period_row.astype(jnp.float32)
  norms = jnp.linalg.norm(hidden, axis=-1) * jnp.linalg.norm(row)
  return (hidden @ row) / jnp.maximum(norms, 1e-8)


def cut_slices(
  token_scores: Float[Array, 'B T'], lengths: Int[Array, ' B'], cfg: StreamingConfig
) -> Int[Array, 'B T']:
  """Returns the slice number of every token of whole answers.

  Args:
    token_scores: row b is valid up to lengths[b].
    lengths: tokens of each answer.
    cfg: the rule's parameters.

  Returns:
    int32 numbers from 0; they are meaningless beyond the row's length.
  """
  t = token_scores.shape[1]
  shown = jnp.where(jnp.arange(t) < lengths[:, None], token_scores, -jnp.inf)
  ahead = min(cfg.look_ahead, cfg.peak_window)
  around = jax.lax.reduce_window(
    shown,
    -jnp.inf,
    jax.lax.max,
    (1, cfg.peak_window + 1 + ahead),
    (1, 1),
    ((0, 0), (cfg.peak_window, ahead)),
  )
  peaks = (shown == around) & (jnp.arange(t) + cfg.look_ahead < lengths[:, None])

  def step(start: Array, candidate: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    position, peak, score = candidate
    before = position - start
    long_enough = (before >= cfg.min_tokens) | (
      (score > cfg.threshold) & (before >= cfg.min_tokens_above_threshold)
    )
    cut = peak & long_enough
    return jnp.where(cut, position + 1, start), cut

  _, cuts = jax.lax.scan(step, jnp.zeros_like(lengths), (jnp.arange(t), peaks.T, token_scores.T))
  cuts = cuts.T.astype(jnp.int32)
  return jnp.cumsum(cuts, axis=1) - cuts


def cut_now(
  token_scores: Float[Array, 'B A'],
  counts: Int[Array, ' B'],
  starts: Int[Array, ' B'],
  cfg: StreamingConfig,
) -> Int[Array, ' B']:
  """Judges the one candidate that the newest token of each answer makes decidable.

  Args:
    token_scores: row b is filled up to counts[b].
    counts: tokens so far.
    starts: first token of the slice that is being made.
    cfg: the rule's parameters.

  Returns:
    Where the slice ends, int32, exclusive; 0 where it does not end yet.
  """
  candidate = counts - 1 - cfg.look_ahead
  around = candidate[:, None] + jnp.arange(-cfg.peak_window, cfg.peak_window + 1)
  there = (around >= 0) & (around < counts[:, None])
  near = jnp.take_along_axis(token_scores, jnp.clip(around, 0, token_scores.shape[1] - 1), axis=1)
  here = near[:, cfg.peak_window]
  before = candidate - starts
  long_enough = (before >= cfg.min_tokens) | (
    (here > cfg.threshold) & (before >= cfg.min_tokens_above_threshold)
  )
  peak = here >= jnp.max(jnp.where(there, near, -jnp.inf), axis=1)
  cut = (candidate >= 0) & peak & long_enough
  return jnp.where(cut, candidate + 1, 0).astype(jnp.int32)


def cut_early(
  token_scores: Float[Array, 'B A'], counts: Int[Array, ' B'], most: int
) -> Int[Array, ' B']:
  """Ends the first slice of answers that have `most` tokens: behind the token of the highest score
  in the second half of them.

  Returns:
    Where the slice ends, int32, exclusive; 0 where there are fewer tokens.
  """
  at = jnp.arange(token_scores.shape[1])
  allowed = (at >= most // 2) & (at < counts[:, None])
  best = jnp.argmax(jnp.where(allowed, token_scores, -jnp.inf), axis=1)
  return jnp.where(counts >= most, best + 1, 0).astype(jnp.int32)


def streamed_slices(
  token_scores: Float[np.ndarray, ' A'], cfg: StreamingConfig
) -> list[tuple[int, int]]:
  """Cuts one answer as its tokens come, by `cut_now`; returns (start, stop) of its slices."""
  judge = jax.jit(lambda count, start: cut_now(row, count, start, cfg))
  row, slices, start = jnp.asarray(token_scores, jnp.float32)[None], [], 0
  for count in range(1, len(token_scores) + 1):
    stop = int(judge(jnp.asarray([count]), jnp.asarray([start]))[0])
    if stop:
      slices.append((start, stop))
      start = stop
  return [*slices, (start, len(token_scores))] if start < len(token_scores) else slices
