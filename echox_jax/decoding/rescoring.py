"""The LLM chooses among the hypotheses of what was said: of two that sound alike, the one that
somebody would rather say.

Hypotheses of a clip begin alike, so that they make up a tree: each node is a label behind its
parent. The LLM reads each node once, and every node sees its own ancestors alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax.config import EchoXConfig
from echox_jax.decoding.ctc_beam import Hypotheses
from echox_jax.models import adapter
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.attention import Mask
from echox_jax.models.llama import apply_llm


class Tree(NamedTuple):
  """The hypotheses of clips, M nodes.

  Attributes:
    ids: int32[B,M], the label of each node.
    depth: int32[B,M], labels before it.
    parent: int32[B,M]; -1 = it is the first label.
    above: bool[B,M,M], whether node n is m or an ancestor of m.
    nodes: int32[B,W,S], the node of each label of each hypothesis.
    fits: bool[B,W], whether all nodes of a hypothesis are among the M.
  """

  ids: Array
  depth: Array
  parent: Array
  above: Array
  nodes: Array
  fits: Array


class Weights(NamedTuple):
  """What a hypothesis scores: its log-probability by CTC, `lm` times that by the LLM, and `label`
  for each of its labels, as both have less of longer ones.
  """

  lm: float
  label: float


class Choice(NamedTuple):
  """The best hypothesis of clips.

  Attributes:
    number: int32[B].
    surety: float32[B], its log-probability by CTC, and `lm` times that by the LLM, for a label;
      infinite where no hypothesis fits, so that the LLM has not read it.
  """

  number: Array
  surety: Array


def choose(
  params: dict,
  cfg: EchoXConfig,
  context: Sequence[int],
  weights: Weights,
  budget: int,
  found: Hypotheses,
) -> Choice:
  """Finds the best hypothesis of each clip.

  Args:
    params: with the group `llm`.
    cfg: the model.
    context: ids of the LLM before what is said.
    weights: of the scores.
    budget: M, nodes that the LLM reads. The likeliest hypotheses come first; those that do not fit
      are not chosen. If none fits, it is the likeliest.
  """
  tree = jax.vmap(lambda ids, lengths: grow(ids, lengths, budget))(found.ids, found.lengths)
  said = node_scores(params, cfg, context, tree)
  in_use = jnp.arange(found.ids.shape[-1]) < found.lengths[..., None]
  each = jax.vmap(lambda row, nodes: row[jnp.minimum(nodes, budget - 1)])(said, tree.nodes)
  scores = found.scores + weights.lm * jnp.sum(jnp.where(in_use, each, 0.0), axis=-1)
  total = scores + weights.label * found.lengths
  best = jnp.argmax(jnp.where(tree.fits, total, -jnp.inf), axis=-1)
  of_label = jnp.where(tree.fits, scores / jnp.maximum(found.lengths, 1), jnp.inf)
  return Choice(best, jnp.take_along_axis(of_label, best[:, None], axis=-1)[:, 0])


def count(ids: Int[Array, 'W S'], lengths: Int[Array, ' W']) -> Int[Array, '']:
  """How many nodes the hypotheses of a clip have."""
  return jnp.sum(_owners(ids, lengths) == jnp.arange(len(ids))[:, None])


def _owners(ids: Int[Array, 'W S'], lengths: Int[Array, ' W']) -> Int[Array, 'W S']:
  """The first hypothesis that begins with the same labels; -1 where there is no label."""
  in_use = jnp.arange(ids.shape[1]) < lengths[:, None]
  alike = jnp.cumprod(ids[:, None] == ids[None], axis=-1).astype(bool) & in_use[None]
  return jnp.where(in_use, jnp.argmax(alike, axis=1), -1)


def grow(ids: Int[Array, 'W S'], lengths: Int[Array, ' W'], budget: int) -> Tree:
  """Makes the tree of the hypotheses of one clip."""
  at = jnp.arange(ids.shape[1])
  owner = _owners(ids, lengths)
  is_new = owner == jnp.arange(len(ids))[:, None]
  number = jnp.cumsum(is_new.reshape(-1)).reshape(is_new.shape) - 1
  nodes = jnp.where(owner >= 0, number[owner, at], -1)

  (index,), (is_node,), _ = adapter.select(is_new.reshape(1, -1), budget)
  whose, depth = index // ids.shape[1], index % ids.shape[1]
  parent = jnp.where(depth > 0, nodes[whose, jnp.maximum(depth - 1, 0)], -1)
  paths = jnp.where(at <= depth[:, None], nodes[whose], -1)  # [M,S]
  above = jnp.any(paths[:, :, None] == jnp.arange(budget), axis=1)
  above |= jnp.eye(budget, dtype=bool)
  return Tree(
    jnp.where(is_node, ids.reshape(-1)[index], 0),
    depth,
    jnp.where(is_node, parent, -1),
    above,
    nodes,
    jnp.max(nodes, axis=-1) < budget,
  )


def node_scores(
  params: dict, cfg: EchoXConfig, context: Sequence[int], tree: Tree
) -> Float[Array, 'B M']:
  """Log-probability by the LLM of each node behind its ancestors and the context."""
  batch = tree.ids.shape[0]
  before = len(context)
  ids = jnp.concatenate([jnp.tile(jnp.asarray(context, jnp.int32), (batch, 1)), tree.ids], axis=1)
  ahead = jnp.tile(jnp.arange(before), (batch, 1))
  hidden, _ = apply_llm(
    params,
    cfg,
    'hidden',
    apply_llm(params, cfg, 'embed', ids),
    jnp.concatenate([ahead, before + tree.depth], axis=1),
    Mask(allowed=_seen(before, tree.above)),
  )
  scores = jax.nn.log_softmax(apply_llm(params, cfg, 'logits', hidden[:, before - 1 :]), axis=-1)
  # row 0 is the context, row 1 + m node m
  return jax.vmap(lambda row, parent, ids: row[parent + 1, ids])(scores, tree.parent, tree.ids)


def _seen(before: int, above: Bool[Array, 'B M M']) -> Bool[Array, 'B 1 T T']:
  """What each position sees: the context is causal, nodes see it and what is above them."""
  size = before + above.shape[-1]
  causal = jnp.tril(jnp.ones((size, size), bool))
  seen = jnp.pad(above, ((0, 0), (before, 0), (before, 0)))
  return (causal & (jnp.arange(size) < before) | seen)[:, None]
