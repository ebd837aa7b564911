"""The echo loss exactly as released (`finetune_kd`, facts 5 and 6), to check these modules against the released code.

It differs from echo_step in everything but the networks: unit targets are data, slices come as lengths, text parts are
left-aligned with a gap before the targets, pads count in positions, and the cosine weight follows the cross-entropy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import losses, prompts
from echox_jax.config import EchoXConfig
from echox_jax.models.unit_decoder import DenoisingAdapter, UnitDecoder
from echox_jax.prompts import IGNORE

Array = jax.Array
COSINE_SHARE = 0.2  # the cosine term is scaled down to this share of the cross-entropy


class TextPart(NamedTuple):
  """Left-aligned `prefix text EOT` of R = B*S slices, padded with EOT to P columns.

  Attributes:
    ids: int[R,P]; at text positions the token itself.
    state: int[R,P], at text positions the index of the LLM state that takes its place, else -1.
    valid: bool[R,P].
  """
  ids: Array
  state: Array
  valid: Array


class ReleasedLoss(NamedTuple):
  """The loss and what it is made of: inputs float[R,P+Tu,h], labels int[R,P+Tu], logits float32[R,P+Tu,V+U]."""
  loss: Array
  unit_ce: Array
  cosine: Array
  cosine_weight: Array
  inputs: Array
  labels: Array
  valid: Array
  logits: Array


def text_part(cfg: EchoXConfig, words: Array, starts: Array, sub_lengths: Array, longest: int) -> TextPart:
  """Lays out the slices of a batch.

  Args:
    cfg: profile `released`.
    words: int[B,W], the supervised tokens of a row (BOS, text, EOT) in order.
    starts: int[B], index of the LLM state that predicts the first of them.
    sub_lengths: int[B,S], tokens of each slice, -1 = no slice.
    longest: static, the longest slice.
  """
  special = cfg.special_ids
  prefix = jnp.asarray(prompts.slice_prefix(special, prompts.get_profile(cfg.profile)))
  columns = jnp.arange(longest + len(prefix) + 1)
  lengths = jnp.maximum(sub_lengths, 0)
  before = jnp.cumsum(lengths, axis=1) - lengths
  # The first slice brings a BOS of its own, so its prefix lacks the last id.
  opening = len(prefix) - (jnp.arange(sub_lengths.shape[1]) == 0)[None, :, None]
  offset = columns - opening
  in_text = (offset >= 0) & (offset < lengths[..., None])
  word = jnp.clip(before[..., None] + offset, 0, words.shape[1] - 1)
  spoken = jnp.take_along_axis(words[:, None], word, axis=2)
  valid = (sub_lengths >= 0)[..., None] & (offset <= lengths[..., None])
  opened = (offset < 0) & valid
  ids = jnp.where(in_text, spoken, jnp.where(opened, prefix[jnp.minimum(columns, len(prefix) - 1)], special.eot))
  state = jnp.where(in_text, starts[:, None, None] + word, -1)
  rows = lambda x: x.reshape(-1, len(columns))
  return TextPart(rows(ids), rows(state), rows(valid))


def finetune_kd(params: dict, cfg: EchoXConfig, hidden: Array, words: Array, starts: Array, sub_lengths: Array,
                unit_targets: Array, longest: int, cosine: bool = True, rng: Array | None = None) -> ReleasedLoss:
  """Released stage 3 loss: CE of the unit targets + w * cosine, with w = 0.2 CE / cosine where the cosine is larger.

  Args:
    params: groups `unit_text_embedding`, `echo`, `denoising_adapter`.
    cfg: profile `released`.
    hidden: float[B,T,D], LLM states.
    words: as in `text_part`, as are starts, sub_lengths and longest.
    unit_targets: int[B,S,Tu], ids from V on, IGNORE = padding.
    cosine: with the cosine term (the released code has it in training mode only).
    rng: dropout key; None = no dropout.
  """
  table, eot = params['unit_text_embedding']['embedding'], cfg.special_ids.eot
  model, variables = UnitDecoder(cfg), {'params': params['echo']}
  dropout = {'deterministic': rng is None, 'rngs': None if rng is None else {'dropout': rng}}
  adapted = DenoisingAdapter(cfg).apply({'params': params['denoising_adapter']}, hidden, **dropout)
  part = text_part(cfg, words, starts, sub_lengths, longest)
  clean = table[part.ids]
  row = jnp.arange(part.ids.shape[0])[:, None] // sub_lengths.shape[1]
  text = jnp.where((part.state >= 0)[..., None], adapted[row, jnp.maximum(part.state, 0)], clean)

  targets = unit_targets.reshape(part.ids.shape[0], -1)
  target_ids = jnp.where(targets == IGNORE, eot, targets)
  embeddings = jnp.concatenate([text, model.apply(variables, table, target_ids, method='embed')], axis=1)
  valid = jnp.concatenate([part.valid, target_ids != eot], axis=1)
  labels = jnp.concatenate([jnp.full_like(part.ids, IGNORE), targets], axis=1)
  positions = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
  # Unlike causal_mask, a masked position does not see itself: the first unit of a short slice is predicted from a pad.
  mask = jnp.tril(jnp.ones((valid.shape[1],) * 2, bool)) & valid[:, None, None]
  states, _ = model.apply(variables, embeddings, positions, mask, **dropout, method='hidden')
  logits = model.apply(variables, states, method='logits')
  ce = losses.cross_entropy(logits[:, :-1], labels[:, 1:]).mean
  inputs = model.apply(variables, embeddings, method='project')
  if not cosine:
    return ReleasedLoss(ce, ce, jnp.float32(0), jnp.float32(0), inputs, labels, valid, logits)
  distance = losses.denoising_cosine(text, jax.lax.stop_gradient(clean), jnp.ones(part.ids.shape, bool)).total / len(part.ids)
  weight = jax.lax.stop_gradient(jnp.where(distance > COSINE_SHARE * ce, COSINE_SHARE * ce / distance, 1.0))
  return ReleasedLoss(ce + weight * distance, ce, distance, weight, inputs, labels, valid, logits)
