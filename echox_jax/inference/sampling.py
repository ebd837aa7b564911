"""Choosing the next token."""

import jax
import jax.numpy as jnp

Array = jax.Array


def sample(logits: Array, key: Array | None, temperature: float | Array = 0.0, top_p: float | Array = 1.0) -> Array:
  """Next ids from float32[...,V] logits -> int32[...].

  Nucleus sampling as released (facts 8: temperature 0.2, top_p 0.9): a token is dropped when the probabilities of the
  more likely ones already exceed `top_p`, so the first is never dropped. The number 0 as temperature is greedy; a temperature
  that is traced, so that one program serves them all, must be above 0.
  """
  if not isinstance(temperature, jax.core.Tracer) and temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  order = jnp.argsort(-logits, axis=-1)
  ranked = jnp.take_along_axis(logits, order, axis=-1) / temperature
  probabilities = jax.nn.softmax(ranked, axis=-1)
  before = jnp.cumsum(probabilities, axis=-1) - probabilities
  choice = jax.random.categorical(key, jnp.where(before > top_p, -jnp.inf, ranked), axis=-1)
  return jnp.take_along_axis(order, choice[..., None], axis=-1)[..., 0].astype(jnp.int32)
