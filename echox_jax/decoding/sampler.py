"""Choosing the next token: temperature, top-k, top-p, repetition penalty, all traced, so that one
program serves every request.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import errors
from echox_jax.models.arrays import Array, Bool, Float, Int

BEGINS = 32  # ids that an answer may be made to begin with


class Sampling(NamedTuple):
  """How each row chooses; one number a row, but for `begins`.

  Attributes:
    temperature: float32[B]; 0 = the likeliest id each time.
    top_p: float32[B], above 0, at most 1. An id is dropped when the probabilities of the likelier
      ones already exceed it, so the first never is (facts 8; released: 0.9 at temperature 0.2).
    top_k: int32[B], ids that can be chosen; 0 = all.
    repetition_penalty: float32[B], 1 = none: logits of ids that were said are divided by it where
      positive, else multiplied (as in transformers).
    seed: uint32[B].
    begins: int32[B,BEGINS], ids that an answer begins with whatever the LLM thinks; -1 behind them.
  """

  temperature: Array
  top_p: Array
  top_k: Array
  repetition_penalty: Array
  seed: Array
  begins: Array


def check(
  temperature: float | int,
  top_p: float | int,
  top_k: int = 0,
  repetition_penalty: float | int = 1.0,
) -> None:
  """Checks how tokens are to be chosen.

  Raises:
    EchoXError: `temperature` is negative or not finite, `top_p` is outside (0, 1], `top_k` is
      negative, or `repetition_penalty` is not positive and finite.
  """
  if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
    raise errors.EchoXError(
      f'temperature {temperature} or top-p {top_p} is out of range: '
      'give a temperature of 0 or more and a top-p above 0, at most 1.'
    )
  if top_k < 0 or not 0 < repetition_penalty < math.inf:
    raise errors.EchoXError(
      f'top-k {top_k} or repetition penalty {repetition_penalty} is out of range: '
      'give a top-k of 1 or more, or 0 for all tokens, and a penalty above 0, where 1 is none.'
    )


def greedy(batch: int) -> Sampling:
  """Every row takes the likeliest id."""
  return Sampling(
    jnp.zeros(batch, jnp.float32),
    jnp.ones(batch, jnp.float32),
    jnp.zeros(batch, jnp.int32),
    jnp.ones(batch, jnp.float32),
    jnp.zeros(batch, jnp.uint32),
    jnp.full((batch, BEGINS), -1, jnp.int32),
  )


def choose(
  logits: Float[Array, 'B V'],
  sampling: Sampling,
  step: Int[Array, ' B'],
  said: Bool[Array, 'B V'] | None = None,
) -> Int[Array, ' B']:
  """Chooses the next id, int32, of every row.

  Args:
    logits: in float32.
    sampling: how.
    step: number of the id in its answer; with the seed it makes the random number.
    said: ids that the repetition penalty falls on; None = no penalty.
  """
  if said is not None:
    penalty = sampling.repetition_penalty[:, None]
    lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
    logits = jnp.where(said, lowered, logits)
  likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  drawn = jax.lax.cond(
    jnp.any(sampling.temperature > 0), lambda: _draw(logits, sampling, step), lambda: likeliest
  )
  chosen = jnp.where(sampling.temperature > 0, drawn, likeliest)
  given = jnp.take_along_axis(sampling.begins, jnp.minimum(step, BEGINS - 1)[:, None], axis=1)[:, 0]
  return jnp.where((given >= 0) & (step < BEGINS), given, chosen)


def _draw(logits: Array, sampling: Sampling, step: Array) -> Array:
  """Samples every row; rows of temperature 0 give any id."""
  temperature = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)[:, None]
  scaled = logits / temperature
  probability = jax.nn.softmax(scaled, axis=-1)
  kept = jnp.where(_allowed(scaled, probability, sampling), probability, 0)
  cumulative = jnp.cumsum(kept, axis=-1)
  total = cumulative[:, -1:]
  # a little below 1, so that a product that is rounded up stays below the total
  place = jax.vmap(_uniform)(sampling.seed, step)[:, None] * (1 - 1e-6) * total
  return jnp.sum(cumulative <= place, axis=-1).astype(jnp.int32)


def _allowed(scores: Array, probability: Array, sampling: Sampling) -> Array:
  """bool[B,V]: ids that top-p and top-k leave. The least score among them is found by bisection
  over its bits, as a sort of a large vocabulary takes much longer.
  """
  bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
  sign = jnp.uint32(1 << 31)
  order = jnp.where(bits >= sign, ~bits, bits | sign)  # as large as the scores are
  top_k = jnp.where(sampling.top_k > 0, sampling.top_k, scores.shape[-1])

  def is_allowed(least: Array) -> Array:
    likelier = order > least[:, None]
    before = jnp.sum(jnp.where(likelier, probability, 0), axis=-1)
    return (before <= sampling.top_p) & (jnp.sum(likelier, axis=-1) < top_k)

  def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bounds
    middle = low + (high - low) // 2
    allowed = is_allowed(middle)
    return jnp.where(allowed, low, middle + 1), jnp.where(allowed, middle, high)

  least, _ = jax.lax.fori_loop(0, 32, halve, (jnp.zeros_like(order[:, 0]), order.max(axis=-1)))
  return order >= least[:, None]


def _uniform(seed: Array, step: Array) -> Array:
  return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), step))
