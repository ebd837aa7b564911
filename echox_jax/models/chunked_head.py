"""Output heads over a large vocabulary that never hold all logits [B,T,V] in memory.

A head is a table float[V,D] and states float[B,T,D]. It computes in the dtype of the states and
sums in float32. With `chunk` = 0 it computes all logits at once. With `chunk` > 0 a device computes
the logits of about `chunk` positions of its rows at a time (at least one per row), reduces them to
what the loss needs, and recomputes them for the gradient. Values and gradients are the same.

Chunks are cut along time, so rows stay sharded over devices. Each chunk takes every n-th position,
so a sharded time axis stays sharded too. The rows of a chunk and the table are on different
devices, so one of them must be communicated. If a row group has fewer positions than the vocabulary
has ids, its states are gathered and its devices split the vocabulary; no device holds the whole
table or its gradient. Otherwise the table is gathered once, before the first chunk, and the rows
stay in place, so the data that a device receives does not grow with the number of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax.models.arrays import Array, Bool, Float, Int, Shaped
from echox_jax.models.attention import current_platform
from echox_jax.parallel import sharding
from echox_jax.parallel.sharding import constrain

_BLOCK = 16  # positions that `mean_row` takes at a time, of each row


def logits(states: Float[Array, '*b D'], table: Float[Array, 'V D']) -> Float[Array, '*b V']:
  """Computes all logits at once, in float32."""
  lead = ('batch', *(None,) * (states.ndim - 3), 'length')[: states.ndim - 1]
  return constrain(_logits(states, table), *lead, 'act_vocab')


def logit_of(states: Float[Array, '*b D'], row: Float[Array, ' D']) -> Float[Array, '*b']:
  """Computes the logit of a single row, in float32."""
  return _logits(states, row[None])[..., 0]


class Best(NamedTuple):
  """The largest logit of each position, float32[B,T], and its id, int32[B,T]."""

  logit: Array
  id: Array


def argmax(
  states: Float[Array, 'B T D'], table: Float[Array, 'V D'], chunk: int
) -> Int[Array, 'B T']:
  """Finds the id of the largest logit at each position, int32; it has no gradient."""
  return best(states, table, chunk).id


def best(
  states: Float[Array, 'B T D'], table: Float[Array, 'V D'], chunk: int, without: int | None = None
) -> Best:
  """Finds the largest logit at each position, leaving out the id `without`; it has no gradient."""
  states, table = jax.lax.stop_gradient((states, table))
  if not chunk:
    values = leave_out(logits(states, table), without)
    return Best(jnp.max(values, axis=-1), jnp.argmax(values, axis=-1))
  layout = choose_layout(states, table)
  split = placed_table(table, states.dtype, layout)

  def of_chunk(_, part):
    return None, largest(leave_out(chunk_logits(part, split, layout), without))

  found = jax.lax.scan(of_chunk, None, split_chunks(states, chunk))[1]
  return Best(*(join_chunks(x, states.shape[1]) for x in found))


def largest(values: Float[Array, 'B t V']) -> Best:
  """The largest of given logits: jnp.argmax as two reductions, so that a sharded vocabulary stays
  in place.
  """
  most = jnp.max(values, axis=-1)
  at = values == most[..., None]
  return Best(most, jnp.min(jnp.where(at, ids_of(values), values.shape[-1] - 1), axis=-1))


def mean_row(
  states: Float[Array, 'B T D'],
  table: Float[Array, 'V D'],
  values: Float[Array, 'V E'],
  chunk: int,
  without: int | None = None,
  used: Bool[Array, 'B T'] | None = None,
) -> Float[Array, 'B T E']:
  """Computes the mean of the rows of `values`, weighed by the softmax of the logits at each
  position, which leaves out the id `without`; in the dtype of `values`.

  It takes neighbouring positions at a time, and zeros for those of which none is `used`: of the
  slots of a question, most are empty.
  """
  layout = choose_layout(states, table)
  split = placed_table(table, states.dtype, layout)
  values = placed_table(values, values.dtype, layout)
  used = jnp.ones(states.shape[:2], bool) if used is None else used

  def mean(part):
    scores = leave_out(chunk_logits(part, split, layout), without)
    shares = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum('BTV,VE->BTE', shares, values)

  @jax.checkpoint  # the gradient needs the logits of one block at a time
  def of_block(_, block):
    part, is_used = block
    nothing = jnp.zeros((*part.shape[:2], values.shape[1]), values.dtype)
    return None, jax.lax.cond(jnp.any(is_used), mean, lambda _: nothing, part)

  rows = states.shape[0] // sharding.parts('batch', states.shape[0])
  width = min(_BLOCK, max(1, chunk // rows)) if chunk else _BLOCK
  blocks = tuple(_split_blocks(x, width) for x in (states, used))
  found = jnp.moveaxis(jax.lax.scan(of_block, None, blocks)[1], 0, 1)
  return found.reshape(found.shape[0], -1, found.shape[3])[:, : states.shape[1]]


def _split_blocks(x: Shaped[Array, 'B T *rest'], width: int) -> Shaped[Array, 'n B t *rest']:
  """Splits positions into n zero-padded blocks of neighbours."""
  count = -(-x.shape[1] // width)
  x = jnp.pad(x, ((0, 0), (0, count * width - x.shape[1])) + ((0, 0),) * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(x.shape[0], count, width, *x.shape[2:]), 1, 0)


def leave_out(values: Float[Array, '*b V'], id: int | None) -> Float[Array, '*b V']:
  """Makes the logit of an id minus infinity, so that no loss or choice counts it; None = no id."""
  return values if id is None else jnp.where(ids_of(values) == id, -jnp.inf, values)


class Layout(NamedTuple):
  """Logical axes of the rows and the vocabulary of a chunk's logits."""

  rows: str
  vocabulary: str


STATES_TRAVEL, TABLE_TRAVELS = Layout('head_batch', 'head_vocab'), Layout('batch', 'act_vocab')


def choose_layout(states: Float[Array, 'B T D'], table: Float[Array, 'V D']) -> Layout:
  """Chooses the smaller one to communicate: the states of a row group or the table."""
  positions = states.shape[0] * states.shape[1] // sharding.axis_size('data')
  return STATES_TRAVEL if positions < table.shape[0] else TABLE_TRAVELS


def _logits(states: Array, table: Array) -> Array:
  table = table.astype(states.dtype)
  if current_platform() == 'cpu':
    # XLA multiplies a large table by few states in half the time of few states by the table
    dims = (((1,), (states.ndim - 1,)), ((), ()))
    found = jax.lax.dot_general(table, states, dims, preferred_element_type=jnp.float32)
    return jnp.moveaxis(found, 0, -1)
  return jnp.matmul(states, table.T, preferred_element_type=jnp.float32)


def chunk_logits(
  states: Float[Array, 'B t D'], split: Float[Array, 'V D'], layout: Layout
) -> Float[Array, 'B t V']:
  """Computes the logits of one chunk, in float32; `split` is a table from `placed_table`."""
  states = constrain(states, layout.rows, 'length', None)
  return constrain(_logits(states, split), layout.rows, 'length', layout.vocabulary)


def ids_of(values: Float[Array, '*b V']) -> Int[Array, '*b V']:
  """Returns the id of each logit, int32."""
  return jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)


def placed_table(table: Float[Array, 'V D'], dtype, layout: Layout) -> Float[Array, 'V D']:
  """Places the table as chunks of this layout need it, in the compute dtype."""
  return constrain(jnp.asarray(table, dtype), layout.vocabulary, None)


def split_chunks(x: Shaped[Array, 'B T *rest'], chunk: int) -> Shaped[Array, 'n B t *rest']:
  """Splits positions into n zero-padded chunks; chunk i holds positions i, i + n...

  A chunk has at most `chunk` positions over all rows of a device, but at least one per row.
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


def join_chunks(parts: Shaped[Array, 'n B t *rest'], length: int) -> Shaped[Array, 'B T *rest']:
  """Undoes `split_chunks`, for rows of `length` positions."""
  x = jnp.moveaxis(parts, 0, 2)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
