"""Losses of output heads over a large vocabulary that never hold all logits [B,T,V] in memory (see
`models.chunked_head`).

Values and gradients equal those of `losses` on whole logits. A table without gradient needs no
gradient buffer, and its logits are computed once: the gradient of a position's score is known up to
a factor as soon as its logits are.
"""

import functools

import jax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp

from echox_jax.models import chunked_head
from echox_jax.models.adapter import CtcTable, ctc_logits
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.parallel import sharding
from echox_jax.parallel.sharding import constrain
from echox_jax.prompts import IGNORE
from echox_jax.training import losses


def cross_entropy(
  states: Float[Array, 'B T D'], table: Float[Array, 'V D'], labels: Int[Array, 'B T'], chunk: int
) -> losses.Mean:
  """Computes `losses.cross_entropy` of a head; positions with the label IGNORE do not count."""
  if not chunk:
    return losses.cross_entropy(chunked_head.logits(states, table), labels)
  return losses.masked_mean(_scores(states, table, labels, None, chunk)[0], labels != IGNORE)


def ctc_loss(
  frames: Float[Array, 'B F D'],
  table: CtcTable,
  frame_lengths: Int[Array, ' B'],
  labels: Int[Array, 'B C'],
  blank: int,
  chunk: int,
) -> tuple[Float[Array, ''], Float[Array, ' B']]:
  """Computes `losses.ctc_loss` of a head, whose table may have the blank's row apart.

  CTC needs only the logits of a row's labels and of the blank, and each frame's normaliser. With
  candidates, the normaliser is an estimate: each of them counts as often as it stands for.
  """
  few = table.candidates
  if few is not None:
    # One more number of each row and a 1 at the end of each frame add the logarithm to the logit.
    more = jnp.log(few.stands_for)[:, None].astype(table.rows.dtype)
    found = jnp.minimum(jnp.searchsorted(few.ids, labels), len(few.ids) - 1)
    labels = jnp.where(labels == IGNORE, IGNORE, found)
    frames, blank, chunk = _with_a_one(frames), 0, chunk or frames.shape[0] * frames.shape[1]
    table = CtcTable(
      jnp.concatenate([table.rows, more], axis=1), jnp.append(table.blank, 0).astype(more.dtype)
    )
  if not chunk:
    return losses.ctc_loss(ctc_logits(frames, table, blank), frame_lengths, labels, blank)
  ids = jnp.pad(jnp.where(labels == IGNORE, blank, labels), ((0, 0), (1, 0)), constant_values=blank)
  without = None if table.blank is None or few is not None else blank
  normaliser, picked = _scores(
    frames, table.rows, jnp.full(frames.shape[:2], IGNORE), ids, chunk, without
  )
  silence, said = picked[..., 0], picked[..., 1:]
  if table.blank is not None:
    silence = chunked_head.logit_of(frames, table.blank)
    normaliser = jnp.logaddexp(normaliser, silence)
  return losses.ctc_of_scores(
    silence - normaliser, said - normaliser[..., None], frame_lengths, labels
  )


def _with_a_one(frames: Float[Array, 'B F D']) -> Float[Array, 'B F D1']:
  return jnp.concatenate([frames, jnp.ones_like(frames[..., :1])], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _scores(
  states: Array,
  table: Array,
  labels: Array,
  ids: Array | None,
  chunk: int,
  without: int | None = None,
) -> tuple[Array, Array | None]:
  """Computes the reductions of the logits that the losses need.

  Args:
    states: float[B,T,D].
    table: float[V,D].
    labels: int[B,T], IGNORE = no label.
    ids: int[B,C], extra ids whose logits are needed at every position of the row, or None.
    chunk: positions whose logits are in memory at a time.
    without: an id that the log-sum-exp leaves out, or None.

  Returns:
    (float32[B,T] log-sum-exp of the logits, minus the label's logit if there is a label;
     float32[B,T,C] logits of `ids`, or None).
  """
  return _scores_forward(states, table, labels, ids, chunk, without)[0]


def _scores_forward(states, table, labels, ids, chunk, without, slopes=False):
  """Returns (result of `_scores`, residuals: normaliser float32[B,T] and, if asked for, the slopes
  float[B,T,D] of the first result with respect to the states).
  """
  layout = chunked_head.choose_layout(states, table)
  split = chunked_head.placed_table(table, states.dtype, layout)

  def one(_, part):
    part_states, part_labels = part
    values = chunked_head.leave_out(chunked_head.chunk_logits(part_states, split, layout), without)
    label = jnp.sum(jnp.where(_is_label(part_labels, values), values, 0.0), axis=-1)
    normaliser = jax.nn.logsumexp(values, axis=-1)
    slope = None
    if slopes:
      shares = _shares(values, normaliser, part_labels)
      slope = _to_states(shares.astype(states.dtype), split)
    return None, (normaliser, label, slope)

  parts = chunked_head.split_chunks(states, chunk), chunked_head.split_chunks(labels, chunk)
  normaliser, label, slope = jax.tree.map(
    lambda x: chunked_head.join_chunks(x, states.shape[1]), jax.lax.scan(one, None, parts)[1]
  )
  picked = (
    None if ids is None else _products('BTD,BCD->BTC', states, _rows(table, ids, states.dtype))
  )
  return (normaliser - label, picked), (normaliser, slope)


def _forward_rule(states, table, labels, ids, chunk, without):
  values = states.value, table.value, labels.value, None if ids is None else ids.value
  # the pytree structure is static, so it tells the backward pass whether the table is trained
  out, residuals = _scores_forward(*values, chunk, without, slopes=not table.perturbed)
  return out, (values, residuals)


def _backward_rule(chunk, without, residuals, cotangents):
  (states, table, labels, ids), (normaliser, slope) = residuals
  d_scores, d_picked = cotangents
  d_scores = jnp.zeros(normaliser.shape) if isinstance(d_scores, SymbolicZero) else d_scores
  if slope is None:
    d_states, d_table = _of_both(states, table, labels, normaliser, d_scores, chunk, without)
  else:
    d_states, d_table = (d_scores[..., None] * slope).astype(states.dtype), None
  if not (ids is None or isinstance(d_picked, SymbolicZero)):
    d_picked = d_picked.astype(states.dtype)
    d_states += _products('BTC,BCD->BTD', d_picked, _rows(table, ids, states.dtype)).astype(
      states.dtype
    )
    if d_table is not None:
      d_rows = constrain(
        _products('BTC,BTD->BCD', d_picked, states), 'head_batch', None, 'table_embed'
      )
      d_table = constrain(
        constrain(d_table, 'vocab', 'table_embed')
        .at[constrain(ids, 'head_batch', None)]
        .add(d_rows),
        'vocab',
        'table_embed',
      )
  if d_table is not None:
    d_table = constrain(d_table.astype(table.dtype), 'vocab', 'table_embed')
  return d_states, d_table, None, None


def _of_both(
  states: Array,
  table: Array,
  labels: Array,
  normaliser: Array,
  d_scores: Array,
  chunk: int,
  without: int | None,
) -> tuple[Array, Array]:
  """Computes the gradients of the states and of a trained table that the first result gives."""
  layout = chunked_head.choose_layout(states, table)
  split, groups = (
    chunked_head.placed_table(table, states.dtype, layout),
    sharding.parts(layout.rows, states.shape[0]),
  )
  # Each row group accumulates its own gradient, float32[groups,V,D]; they are summed after the last
  # chunk.
  by_group = (layout.rows, layout.vocabulary, None)

  def grouped(x):
    return x.reshape(groups, -1, *x.shape[1:])

  def one(d_table, part):
    part_states, part_labels, part_normaliser, weight = part
    values = chunked_head.leave_out(chunked_head.chunk_logits(part_states, split, layout), without)
    share = _shares(values, part_normaliser, part_labels)
    d_values = (share * weight[..., None]).astype(states.dtype)
    d_table = constrain(
      d_table + _products('GBTV,GBTD->GVD', grouped(d_values), grouped(part_states)), *by_group
    )
    return d_table, _to_states(d_values, split)

  d_table = constrain(jnp.zeros((groups, *table.shape), jnp.float32), *by_group)
  parts = tuple(chunked_head.split_chunks(x, chunk) for x in (states, labels, normaliser, d_scores))
  d_table, d_states = jax.lax.scan(one, d_table, parts)
  rests = (
    (layout.vocabulary, None) if layout is chunked_head.STATES_TRAVEL else ('vocab', 'table_embed')
  )
  return (
    chunked_head.join_chunks(d_states, states.shape[1]),
    constrain(jnp.sum(d_table, axis=0), *rests),
  )


def _shares(values: Array, normaliser: Array, labels: Array) -> Array:
  """Returns float[B,t,V]: how the first result of `_scores` changes with each logit."""
  return jnp.exp(values - normaliser[..., None]) - _is_label(labels, values)


def _to_states(d_values: Array, split: Array) -> Array:
  """Returns the gradient of the states, float[B,t,D], from that of the logits, float[B,t,V]."""
  d_states = _products('BTV,VD->BTD', d_values, split).astype(d_values.dtype)
  return constrain(d_states, 'batch', 'length', None)


_scores.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _is_label(labels: Array, values: Array) -> Array:
  """Returns bool[B,t,V]: True at the label; nowhere if it is IGNORE."""
  return labels[..., None] == chunked_head.ids_of(values)


def _rows(table: Array, ids: Array, dtype) -> Array:
  """Returns float[B,C,D]: the rows of int[B,C], taken from the table split along its width, so that
  only these rows are communicated.
  """
  rows = constrain(jnp.asarray(table), 'vocab', 'table_embed')[
    constrain(ids, 'head_batch', None)
  ].astype(dtype)
  return constrain(constrain(rows, 'head_batch', None, 'table_embed'), 'batch', None, None)


def _products(subscripts: str, a: Array, b: Array) -> Array:
  return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)
