"""Choosing the next token."""

import math

import jax
import jax.numpy as jnp

from echox_jax import errors
from echox_jax.models.arrays import Array, Float, Int


def check(temperature: float | int, top_p: float | int) -> None:
  """Raises EchoXError if temperature is negative or not finite, or `top_p` is outside (0, 1]."""
  if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
    raise errors.EchoXError(
      f'temperature {temperature} or top-p {top_p} is out of range: '
      'give a temperature of 0 or more and a top-p above 0, at most 1.'
    )


def sample(
  logits: Float[Array, '*b V'],
  key: Array | None,
  temperature: float | Float[Array, ''] = 0.0,
  top_p: float | Float[Array, ''] = 1.0,
) -> Int[Array, '*b']:
  """Chooses the next ids, int32, from float32 logits.

  Nucleus sampling as released (facts 8: temperature 0.2, top_p 0.9): a token is dropped if the
  probabilities of the more likely ones already exceed `top_p`, so the first is never dropped. The
  concrete number 0 as temperature is greedy. A traced temperature, which lets one program serve all
  temperatures, must be above 0.
  """
  if not isinstance(temperature, jax.core.Tracer) and temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  order = jnp.argsort(-logits, axis=-1)
  ranked = jnp.take_along_axis(logits, order, axis=-1) / temperature
  probabilities = jax.nn.softmax(ranked, axis=-1)
  before = jnp.cumsum(probabilities, axis=-1) - probabilities
  choice = jax.random.categorical(key, jnp.where(before > top_p, -jnp.inf, ranked), axis=-1)
  return jnp.take_along_axis(order, choice[..., None], axis=-1)[..., 0].astype(jnp.int32)
