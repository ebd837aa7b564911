"""Output heads over a large vocabulary, without their logits [B,T,V] in memory.

A head is a table float[V,D] and states float[B,T,D]; the compute dtype is that of the states, sums are float32. With
`chunk` = 0 the logits are made whole. With `chunk` > 0 they exist for about `chunk` positions at a time of the rows that a device
has of the batch (at least one of each row), are reduced to what the loss needs, and are made again for the gradient. Values and gradients are the same.

Chunks are cut along time, so that rows stay split over devices, and take every n-th position, so that a split time axis does
too. The rows of a chunk and the table rest on different devices, so one of them has to travel. Where a row group has fewer
positions than the vocabulary has ids, its states are gathered and its devices split the vocabulary: none holds the table or its
gradient. Where it has more, the table is gathered once, before the first chunk, and rows stay where they are: what a device
receives does not grow with the number of devices. A table that is not differentiated has no gradient buffer at all.
"""

import functools
from typing import NamedTuple

import jax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp

from echox_jax import losses, sharding
from echox_jax.prompts import IGNORE

Array = jax.Array


def logits(states: Array, table: Array) -> Array:
  """All logits at once: float[...,D], float[V,D] -> float32[...,V]."""
  lead = ('batch', *(None,) * (states.ndim - 3), 'length')[:states.ndim - 1]
  return _constrain(_logits(states, table), *lead, 'act_vocab')


def argmax(states: Array, table: Array, chunk: int) -> Array:
  """The id of the largest logit: float[B,T,D], float[V,D] -> int32[B,T]; no gradient."""
  states, table = jax.lax.stop_gradient((states, table))
  if not chunk:
    return jnp.argmax(logits(states, table), axis=-1)
  layout = _layout(states, table)
  split = _head(table, states.dtype, layout)

  def best(_, part):  # as jnp.argmax, in two reductions: a vocabulary that is split stays where it is
    values = _chunk_logits(part, split, layout)
    largest = values == jnp.max(values, axis=-1, keepdims=True)
    return None, jnp.min(jnp.where(largest, _ids_of(values), table.shape[0] - 1), axis=-1)

  return _joined(jax.lax.scan(best, None, _chunks(states, chunk))[1], states.shape[1])


def cross_entropy(states: Array, table: Array, labels: Array, chunk: int) -> losses.Mean:
  """`losses.cross_entropy` of a head: float[B,T,D], float[V,D], labels int[B,T], IGNORE where they do not count."""
  if not chunk:
    return losses.cross_entropy(logits(states, table), labels)
  return losses.masked_mean(_scores(states, table, labels, None, chunk)[0], labels != IGNORE)


def ctc_loss(frames: Array, table: Array, frame_lengths: Array, labels: Array, blank: int, chunk: int) -> tuple[Array, Array]:
  """`losses.ctc_loss` of a head: float[B,T,D], float[V,D], int[B], labels int[B,C].

  CTC needs the logits of a row's labels and of the blank alone, and each frame's normaliser.
  """
  if not chunk:
    return losses.ctc_loss(logits(frames, table), frame_lengths, labels, blank)
  ids = jnp.pad(jnp.where(labels == IGNORE, blank, labels), ((0, 0), (1, 0)), constant_values=blank)
  normaliser, picked = _scores(frames, table, jnp.full(frames.shape[:2], IGNORE), ids, chunk)
  scores = picked - normaliser[..., None]
  return losses.ctc_of_scores(scores[..., 0], scores[..., 1:], frame_lengths, labels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scores(states: Array, table: Array, labels: Array, ids: Array | None, chunk: int) -> tuple[Array, Array | None]:
  """What losses need of the logits.

  Args:
    states: float[B,T,D].
    table: float[V,D].
    labels: int[B,T], IGNORE = no label.
    ids: int[B,C], ids asked for at every position of the row, or None.
    chunk: positions whose logits exist at a time.

  Returns:
    (float32[B,T] log-sum-exp of the logits, less the label's logit where there is one;
     float32[B,T,C] logits of `ids`, or None).
  """
  return _scores_forward(states, table, labels, ids, chunk)[0]


def _scores_forward(states, table, labels, ids, chunk):
  layout = _layout(states, table)
  split = _head(table, states.dtype, layout)

  def one(_, part):
    part_states, part_labels = part
    values = _chunk_logits(part_states, split, layout)
    label = jnp.sum(jnp.where(_is_label(part_labels, values), values, 0.0), axis=-1)
    normaliser = jax.nn.logsumexp(values, axis=-1)
    return None, (normaliser, label)

  parts = _chunks(states, chunk), _chunks(labels, chunk)
  normaliser, label = (_joined(x, states.shape[1]) for x in jax.lax.scan(one, None, parts)[1])
  picked = None if ids is None else _products('BTD,BCD->BTC', states, _rows(table, ids, states.dtype))
  return (normaliser - label, picked), (states, table, labels, ids, normaliser)


def _forward_rule(states, table, labels, ids, chunk):
  out, residuals = _scores_forward(states.value, table.value, labels.value, None if ids is None else ids.value, chunk)
  return out, (residuals, () if table.perturbed else None)  # the structure tells the backward pass, being static


def _backward_rule(chunk, residuals, cotangents):
  (states, table, labels, ids, normaliser), trained = residuals
  d_scores, d_picked = cotangents
  layout = _layout(states, table)
  split, groups = _head(table, states.dtype, layout), sharding.parts(layout.rows, states.shape[0])
  # Each row group adds up a gradient of its own, float32[groups,V,D]; they become one after the last chunk.
  by_group = (layout.rows, layout.vocabulary, None)
  grouped = lambda x: x.reshape(groups, -1, *x.shape[1:])

  def one(d_table, part):
    part_states, part_labels, part_normaliser, weight = part
    values = _chunk_logits(part_states, split, layout)
    share = jnp.exp(values - part_normaliser[..., None]) - _is_label(part_labels, values)
    d_values = (share * weight[..., None]).astype(states.dtype)
    if d_table is not None:
      d_table = _constrain(d_table + _products('GBTV,GBTD->GVD', grouped(d_values), grouped(part_states)), *by_group)
    d_states = _products('BTV,VD->BTD', d_values, split).astype(states.dtype)
    return d_table, _constrain(d_states, 'batch', 'length', None)

  d_table = None if trained is None else _constrain(jnp.zeros((groups, *table.shape), jnp.float32), *by_group)
  d_scores = jnp.zeros(normaliser.shape) if isinstance(d_scores, SymbolicZero) else d_scores
  parts = tuple(_chunks(x, chunk) for x in (states, labels, normaliser, d_scores))
  d_table, d_states = jax.lax.scan(one, d_table, parts)
  d_states = _joined(d_states, states.shape[1])
  if d_table is not None:
    rests = (layout.vocabulary, None) if layout is _STATES_TRAVEL else ('vocab', 'table_embed')
    d_table = _constrain(jnp.sum(d_table, axis=0), *rests)
  if not (ids is None or isinstance(d_picked, SymbolicZero)):
    d_picked = d_picked.astype(states.dtype)
    d_states += _products('BTC,BCD->BTD', d_picked, _rows(table, ids, states.dtype)).astype(states.dtype)
    if d_table is not None:
      d_rows = _constrain(_products('BTC,BTD->BCD', d_picked, states), 'head_batch', None, 'table_embed')
      d_table = _constrain(_constrain(d_table, 'vocab', 'table_embed').at[_constrain(ids, 'head_batch', None)].add(d_rows), 'vocab', 'table_embed')
  if d_table is not None:
    d_table = _constrain(d_table.astype(table.dtype), 'vocab', 'table_embed')
  return d_states, d_table, None, None


_scores.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


class _Layout(NamedTuple):
  """Logical axes of the rows and the vocabulary of a chunk's logits."""
  rows: str
  vocabulary: str


_STATES_TRAVEL, _TABLE_TRAVELS = _Layout('head_batch', 'head_vocab'), _Layout('batch', 'act_vocab')


def _layout(states: Array, table: Array) -> _Layout:
  """What is sent less of: the states of a row group, or the table."""
  positions = states.shape[0] * states.shape[1] // sharding.axis_size('data')
  return _STATES_TRAVEL if positions < table.shape[0] else _TABLE_TRAVELS


def _logits(states: Array, table: Array) -> Array:
  return jnp.matmul(states, table.astype(states.dtype).T, preferred_element_type=jnp.float32)


def _chunk_logits(states: Array, split: Array, layout: _Layout) -> Array:
  """float[B,t,D], a table of `_head` -> float32[B,t,V]."""
  states = _constrain(states, layout.rows, 'length', None)
  return _constrain(_logits(states, split), layout.rows, 'length', layout.vocabulary)


def _is_label(labels: Array, values: Array) -> Array:
  """bool[B,t,V]: where the label stands; nowhere if it is IGNORE."""
  return labels[..., None] == _ids_of(values)


def _ids_of(values: Array) -> Array:
  """int32[B,t,V]: the id of each logit."""
  return jax.lax.broadcasted_iota(jnp.int32, values.shape, 2)


def _head(table: Array, dtype, layout: _Layout) -> Array:
  """The table as chunks of this layout take it: float[V,D] in the compute dtype."""
  return _constrain(jnp.asarray(table, dtype), layout.vocabulary, None)


def _rows(table: Array, ids: Array, dtype) -> Array:
  """float[B,C,D]: the rows of int[B,C], taken where the table rests, split along its width: only what is taken is sent."""
  rows = _constrain(jnp.asarray(table), 'vocab', 'table_embed')[_constrain(ids, 'head_batch', None)].astype(dtype)
  return _constrain(_constrain(rows, 'head_batch', None, 'table_embed'), 'batch', None, None)


def _products(subscripts: str, a: Array, b: Array) -> Array:
  return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _constrain(x: Array, *names: str | None) -> Array:
  return sharding.constrain(x, names)


def _chunks(x: Array, chunk: int) -> Array:
  """[B,T,...] -> [n,B,t,...], filled up with zeros; rows of a device x t are at most `chunk`, or t = 1.

  Chunk i holds positions i, i + n...
  """
  batch, length = x.shape[:2]
  rows = batch // sharding.parts('batch', batch)
  count = -(-length // max(1, chunk // rows))
  width = -(-length // count)
  x = jnp.pad(x, ((0, 0), (0, count * width - length)) + ((0, 0),) * (x.ndim - 2))
  x = _constrain(x.reshape(batch, width, count, *x.shape[2:]), 'batch', 'length', *(None,) * (x.ndim - 1))
  return jnp.moveaxis(x, 2, 0)


def _joined(parts: Array, length: int) -> Array:
  """The inverse of `_chunks`: [n,B,t,...] -> [B,length,...]."""
  x = jnp.moveaxis(parts, 0, 2)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
