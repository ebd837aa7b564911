"""Output heads over a large vocabulary, without their logits [B,T,V] in memory.

A head is a table float[V,D] and states float[B,T,D]; the compute dtype is that of the states, sums
are float32. With `chunk` = 0 the logits are made whole. With `chunk` > 0 they exist for about
`chunk` positions at a time of the rows that a device has of the batch (at least one of each row),
are reduced to what the loss needs, and are made again for the gradient. Values and gradients are
the same.

Chunks are cut along time, so that rows stay split over devices, and take every n-th position, so
that a split time axis does too. The rows of a chunk and the table rest on different devices, so one
of them has to travel. Where a row group has fewer positions than the vocabulary has ids, its states
are gathered and its devices split the vocabulary: none holds the table or its gradient. Where it
has more, the table is gathered once, before the first chunk, and rows stay where they are: what a
device receives does not grow with the number of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax.models.arrays import Array
from echox_jax.parallel import sharding
from echox_jax.parallel.sharding import constrain


def logits(states: Array, table: Array) -> Array:
  """All logits at once: float[...,D], float[V,D] -> float32[...,V]."""
  lead = ('batch', *(None,) * (states.ndim - 3), 'length')[: states.ndim - 1]
  return constrain(_logits(states, table), *lead, 'act_vocab')


def argmax(states: Array, table: Array, chunk: int) -> Array:
  """The id of the largest logit: float[B,T,D], float[V,D] -> int32[B,T]; no gradient."""
  states, table = jax.lax.stop_gradient((states, table))
  if not chunk:
    return jnp.argmax(logits(states, table), axis=-1)
  layout = choose_layout(states, table)
  split = placed_table(table, states.dtype, layout)

  # as jnp.argmax, in two reductions: a vocabulary that is split stays where it is
  def best(_, part):
    values = chunk_logits(part, split, layout)
    largest = values == jnp.max(values, axis=-1, keepdims=True)
    return None, jnp.min(jnp.where(largest, ids_of(values), table.shape[0] - 1), axis=-1)

  return join_chunks(jax.lax.scan(best, None, split_chunks(states, chunk))[1], states.shape[1])


class Layout(NamedTuple):
  """Logical axes of the rows and the vocabulary of a chunk's logits."""

  rows: str
  vocabulary: str


STATES_TRAVEL, TABLE_TRAVELS = Layout('head_batch', 'head_vocab'), Layout('batch', 'act_vocab')


def choose_layout(states: Array, table: Array) -> Layout:
  """What is sent less of: the states of a row group, or the table."""
  positions = states.shape[0] * states.shape[1] // sharding.axis_size('data')
  return STATES_TRAVEL if positions < table.shape[0] else TABLE_TRAVELS


def _logits(states: Array, table: Array) -> Array:
  return jnp.matmul(states, table.astype(states.dtype).T, preferred_element_type=jnp.float32)


def chunk_logits(states: Array, split: Array, layout: Layout) -> Array:
  """float[B,t,D], a table of `placed_table` -> float32[B,t,V]."""
  states = constrain(states, layout.rows, 'length', None)
  return constrain(_logits(states, split), layout.rows, 'length', layout.vocabulary)


def ids_of(values: Array) -> Array:
  """int32[B,t,V]: the id of each logit."""
  return jax.lax.broadcasted_iota(jnp.int32, values.shape, 2)


def placed_table(table: Array, dtype, layout: Layout) -> Array:
  """The table as chunks of this layout take it: float[V,D] in the compute dtype."""
  return constrain(jnp.asarray(table, dtype), layout.vocabulary, None)


def split_chunks(x: Array, chunk: int) -> Array:
  """[B,T,...] -> [n,B,t,...], filled up with zeros; rows of a device x t are at most `chunk`, or t
  = 1.

  Chunk i holds positions i, i + n...
  """
  batch, length = x.shape[:2]
  rows = batch // sharding.parts('batch', batch)
  count = -(-length // max(1, chunk // rows))
  width = -(-length // count)
  x = jnp.pad(x, ((0, 0), (0, count * width - length)) + ((0, 0),) * (x.ndim - 2))
  x = constrain(
    x.reshape(batch, width, count, *x.shape[2:]), 'batch', 'length', *(None,) * (x.ndim - 1)
  )
  return jnp.moveaxis(x, 2, 0)


def join_chunks(parts: Array, length: int) -> Array:
  """The inverse of `split_chunks`: [n,B,t,...] -> [B,length,...]."""
  x = jnp.moveaxis(parts, 0, 2)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
