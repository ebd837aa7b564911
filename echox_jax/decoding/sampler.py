"""Choosing the next token: temperature, top-k, top-p, repetition penalty, all traced, so that one
program serves every request.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import errors
from echox_jax.models.arrays import Array, Bool, Float, Int

# Likeliest ids that are ranked first. Only where they do not hold `top_p` of the probability, or
# `top_k` is larger, the whole vocabulary is sorted.
_RANKED = 64


class Sampling(NamedTuple):
  """How each row chooses, one number a row.

  Attributes:
    temperature: float32[B]; 0 = the likeliest id each time.
    top_p: float32[B], above 0, at most 1. An id is dropped when the probabilities of the likelier
      ones already exceed it, so the first never is (facts 8; released: 0.9 at temperature 0.2).
    top_k: int32[B], ids that can be chosen; 0 = all.
    repetition_penalty: float32[B], 1 = none: logits of ids that were said are divided by it where
      positive, else multiplied (as in transformers).
    seed: uint32[B].
  """

  temperature: Array
  top_p: Array
  top_k: Array
  repetition_penalty: Array
  seed: Array


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
  return jnp.where(sampling.temperature > 0, drawn, likeliest)


def _draw(logits: Array, sampling: Sampling, step: Array) -> Array:
  """Samples every row; rows of temperature 0 give any id."""
  vocab = logits.shape[-1]
  temperature = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)[:, None]
  scaled = logits / temperature
  total = jax.nn.logsumexp(scaled, axis=-1, keepdims=True)

  def among(number: int) -> Array:
    """Draws from the `number` likeliest ids."""
    ranked, ids = jax.lax.top_k(scaled, number)
    probability = jnp.exp(ranked - total)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = (before <= sampling.top_p[:, None]) & (jnp.arange(number) < top_k[:, None])
    noise = jax.vmap(lambda seed, i: _gumbel(seed, i, number))(sampling.seed, step)
    best = jnp.argmax(jnp.where(kept, ranked + noise, -jnp.inf), axis=-1)
    return jnp.take_along_axis(ids, best[:, None], axis=-1)[:, 0].astype(jnp.int32)

  top_k = jnp.where(sampling.top_k > 0, sampling.top_k, vocab)
  if vocab <= _RANKED:
    return among(vocab)
  held = jnp.exp(jax.lax.top_k(scaled, _RANKED)[0] - total).sum(axis=-1)
  enough = (held > sampling.top_p) | (top_k <= _RANKED) | (sampling.temperature <= 0)
  return jax.lax.cond(enough.all(), lambda: among(_RANKED), lambda: among(vocab))


def _gumbel(seed: Array, step: Array, number: int) -> Array:
  """Noise of the ranks, the first `_RANKED` the same however many there are."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  first = jax.random.gumbel(key, (min(number, _RANKED),))
  if number <= _RANKED:
    return first
  rest = jax.random.gumbel(jax.random.fold_in(key, 1), (number - _RANKED,))
  return jnp.concatenate([first, rest])
