"""CTC prefix beam search: the likeliest label sequences of what was said, each with all of its
alignments (Graves et al. 2006; Hannun et al. 2014).

The best path takes the likeliest label of each frame. Where a word begins within two frames, it
writes both of the words that they are taken for; a sequence of labels counts every way to say it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax.models import adapter, chunked_head
from echox_jax.models.arrays import Array, Bool, Float, Int

_LABELS = 8  # labels of a frame by which hypotheses grow


class FrameLabels(NamedTuple):
  """The likeliest labels of frames, in descending order, without the blank.

  Attributes:
    ids: int32[B,F,K].
    scores: float32[B,F,K], log-probabilities.
    blank: float32[B,F], log-probability of the blank.
  """

  ids: Array
  scores: Array
  blank: Array


class Hypotheses(NamedTuple):
  """Label sequences in descending order of their probability.

  Attributes:
    ids: int32[B,W,S].
    lengths: int32[B,W].
    scores: float32[B,W], log-probabilities, over the alignments that the search has seen.
  """

  ids: Array
  lengths: Array
  scores: Array


class _Beam(NamedTuple):
  """Prefixes of one clip: int32[W,S] ids, of which `lengths` are in use, and the log-probabilities
  of the alignments that end with a blank, and of those that end with the last label.
  """

  ids: Array
  lengths: Array
  blank: Array
  label: Array


def frame_labels(
  frames: Float[Array, 'B F D'], table: adapter.CtcTable, blank: int, chunk: int
) -> FrameLabels:
  """Finds the likeliest labels of an adapter's frames.

  Args:
    frames: `adapter.Speech.frames`, in the dtype to compute in.
    table: `adapter.ctc_table` without candidates.
    blank: id of the blank.
    chunk: frames whose logits are computed at a time; 0 = all.
  """
  layout = chunked_head.choose_layout(frames, table.rows)
  rows = chunked_head.placed_table(table.rows, frames.dtype, layout)

  def of_chunk(_, part):
    logits = chunked_head.chunk_logits(part, rows, layout)
    scores = jax.nn.log_softmax(adapter.with_blank(logits, part, table, blank), axis=-1)
    return None, FrameLabels(*_largest(chunked_head.leave_out(scores, blank)), scores[..., blank])

  parts = chunked_head.split_chunks(frames, chunk or frames.shape[0] * frames.shape[1])
  found = jax.lax.scan(of_chunk, None, parts)[1]
  return FrameLabels(*(chunked_head.join_chunks(x, frames.shape[1]) for x in found))


def _largest(scores: Float[Array, 'B t V']) -> tuple[Int[Array, 'B t K'], Float[Array, 'B t K']]:
  """The ids of the `_LABELS` largest scores, and these. One maximum after the other leaves a
  sharded vocabulary in place; `jax.lax.top_k`, once exported, sorts all of it, which takes a CPU a
  second.
  """
  found = []
  for _ in range(_LABELS):
    found.append(chunked_head.largest(scores))
    is_found = chunked_head.ids_of(scores) == found[-1].id[..., None]
    scores = jnp.where(is_found, -jnp.inf, scores)
  return tuple(
    jnp.stack(each, axis=-1) for each in ([x.id for x in found], [x.logit for x in found])
  )


def search(labels: FrameLabels, lengths: Int[Array, ' B'], width: int, budget: int) -> Hypotheses:
  """Finds the likeliest label sequences.

  Args:
    labels: of the frames.
    lengths: frames of each clip.
    width: W, how many sequences are followed.
    budget: S, labels of a sequence; it grows no further.
  """
  real = jnp.arange(labels.blank.shape[1]) < lengths[:, None]
  beams = jax.vmap(lambda *clip: _of_clip(FrameLabels(*clip[:3]), clip[3], width, budget))(
    *labels, real
  )
  return Hypotheses(beams.ids, beams.lengths, jnp.logaddexp(beams.blank, beams.label))


def _of_clip(labels: FrameLabels, real: Bool[Array, ' F'], width: int, budget: int) -> _Beam:
  nothing = jnp.full((width,), -jnp.inf)
  begin = _Beam(
    jnp.zeros((width, budget), jnp.int32),
    jnp.zeros((width,), jnp.int32),
    nothing.at[0].set(0.0),
    nothing,
  )

  def step(beam, frame):
    of_frame, is_real = frame
    grown = _grow(beam, of_frame)
    return jax.tree.map(lambda new, old: jnp.where(is_real, new, old), grown, beam), None

  return jax.lax.scan(step, begin, (labels, real))[0]


def _grow(beam: _Beam, frame: FrameLabels) -> _Beam:
  """One more frame: prefixes stay, or grow by one of its labels; the likeliest of all go on."""
  width, budget = beam.ids.shape
  last = jnp.take_along_axis(beam.ids, jnp.maximum(beam.lengths - 1, 0)[:, None], axis=1)
  is_last = (frame.ids == last) & (beam.lengths > 0)[:, None]  # [W,K]
  whole = jnp.logaddexp(beam.blank, beam.label)
  stays_label = beam.label + jnp.max(jnp.where(is_last, frame.scores, -jnp.inf), axis=-1)
  # a label that is said twice has a blank in between
  grows = frame.scores + jnp.where(is_last, beam.blank[:, None], whole[:, None])
  grows = jnp.where((beam.lengths < budget)[:, None], grows, -jnp.inf)

  # A prefix that grows into another one of the beam adds to it: is_next[W,V,K].
  is_next = _precedes(beam)[:, :, None] & (frame.ids == last)[None]
  added = jax.nn.logsumexp(jnp.where(is_next, grows[:, None], -jnp.inf), axis=(0, 2))
  grows = jnp.where(jnp.any(is_next, axis=1), -jnp.inf, grows)
  stays = _Beam(beam.ids, beam.lengths, whole + frame.blank, jnp.logaddexp(stays_label, added))

  whole = jnp.concatenate([jnp.logaddexp(stays.blank, stays.label), grows.reshape(-1)])
  _, chosen = jax.lax.top_k(whole, width)
  has_grown = chosen >= width
  parent = jnp.where(has_grown, (chosen - width) // frame.ids.shape[0], chosen)
  label = frame.ids[(chosen - width) % frame.ids.shape[0]]
  ids, lengths = beam.ids[parent], beam.lengths[parent]
  is_new = has_grown[:, None] & (jnp.arange(budget) == lengths[:, None])
  return _Beam(
    jnp.where(is_new, label[:, None], ids),
    lengths + has_grown,
    jnp.where(has_grown, -jnp.inf, stays.blank[parent]),
    jnp.where(has_grown, whole[chosen], stays.label[parent]),
  )


def _precedes(beam: _Beam) -> Bool[Array, 'W V']:
  """Whether prefix v is prefix w and one label more."""
  at = jnp.arange(beam.ids.shape[1])
  same = (beam.ids[:, None] == beam.ids[None]) | (at >= beam.lengths[:, None, None])
  return jnp.all(same, axis=-1) & (beam.lengths[None] == beam.lengths[:, None] + 1)
