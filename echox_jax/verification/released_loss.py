"""The echo losses exactly as released (facts 5 and 6), to check these modules against the released
code.

The released weights were trained with `finetune_kd`. `finetune` is an older form that trains the
LLM too. They differ from echo_step in everything but the networks: unit targets are data, slices
are given as lengths, text parts are left-aligned with a gap before the targets, padding counts in
positions, and the cosine weight depends on the cross-entropy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import prompts
from echox_jax.config import EchoXConfig
from echox_jax.models.attention import Mask
from echox_jax.models.unit_decoder import DenoisingAdapter, UnitDecoder
from echox_jax.prompts import IGNORE
from echox_jax.training import losses
from echox_jax.training.s2t_step import dropout

Array = jax.Array
COSINE_SHARE = 0.2  # the cosine term is scaled down to this share of the cross-entropy


class TextPart(NamedTuple):
  """Left-aligned `prefix text EOT` of R = B*S slices, padded with EOT to P columns.

  Attributes:
    ids: int[R,P]; at text positions the token itself.
    state: int[R,P]; at text positions the index of the LLM state that replaces it, else -1.
    valid: bool[R,P].
  """

  ids: Array
  state: Array
  valid: Array


class ReleasedLoss(NamedTuple):
  """The loss and its terms, over R rows of T unit decoder positions.

  Attributes:
    loss: scalar, like the terms.
    unit_ce: cross-entropy of the unit targets; in evaluation the whole loss of `finetune_kd`.
    cosine: distance between the adapted states and the embeddings, summed over a row.
    cosine_weight: without gradient.
    inputs: float[R,T,h].
    labels: int[R,T].
    valid: bool[R,T], positions that may be attended to.
    logits: float32[R,T,V+U].
  """

  loss: Array
  unit_ce: Array
  cosine: Array
  cosine_weight: Array
  inputs: Array
  labels: Array
  valid: Array
  logits: Array


def text_part(
  cfg: EchoXConfig, words: Array, starts: Array, sub_lengths: Array, longest: int
) -> TextPart:
  """Lays out the slices of a batch.

  Args:
    cfg: profile `released`.
    words: int[B,W], the supervised tokens of a row (BOS, text, EOT) in order.
    starts: int[B], index of the LLM state that predicts the first supervised token.
    sub_lengths: int[B,S], tokens of each slice, -1 = no slice.
    longest: static, length of the longest slice.
  """
  special = cfg.special_ids
  prefix = jnp.asarray(prompts.slice_prefix(special, prompts.get_profile(cfg.profile)))
  columns = jnp.arange(longest + len(prefix) + 1)
  lengths = jnp.maximum(sub_lengths, 0)
  before = jnp.cumsum(lengths, axis=1) - lengths
  # The first slice has its own BOS, so its prefix lacks the last id.
  opening = len(prefix) - (jnp.arange(sub_lengths.shape[1]) == 0)[None, :, None]
  offset = columns - opening
  in_text = (offset >= 0) & (offset < lengths[..., None])
  word = jnp.clip(before[..., None] + offset, 0, words.shape[1] - 1)
  spoken = jnp.take_along_axis(words[:, None], word, axis=2)
  valid = (sub_lengths >= 0)[..., None] & (offset <= lengths[..., None])
  opened = (offset < 0) & valid
  ids = jnp.where(
    in_text, spoken, jnp.where(opened, prefix[jnp.minimum(columns, len(prefix) - 1)], special.eot)
  )
  state = jnp.where(in_text, starts[:, None, None] + word, -1)

  def rows(x):
    return x.reshape(-1, len(columns))

  return TextPart(rows(ids), rows(state), rows(valid))


def finetune_kd(
  params: dict,
  cfg: EchoXConfig,
  hidden: Array,
  words: Array,
  starts: Array,
  sub_lengths: Array,
  unit_targets: Array,
  longest: int,
  rng: Array | None = None,
) -> ReleasedLoss:
  """Released stage 3 loss: CE of the unit targets + w * cosine, with w = 0.2 CE / cosine if the
  cosine is larger.

  In evaluation the released code omits the cosine term, so its loss is `unit_ce`.

  Args:
    params: groups `unit_text_embedding`, `echo`, `denoising_adapter`.
    cfg: profile `released`.
    hidden: float[B,T,D], LLM states.
    words: as in `text_part`, like starts, sub_lengths and longest.
    unit_targets: int[B,S,Tu], ids from V on, IGNORE = padding.
    rng: dropout key; None = no dropout.
  """
  table, eot = params['unit_text_embedding']['embedding'], cfg.special_ids.eot
  adapted = _adapt(params, cfg, hidden, rng)
  part = text_part(cfg, words, starts, sub_lengths, longest)
  clean = table[part.ids]
  row = jnp.arange(part.ids.shape[0])[:, None] // sub_lengths.shape[1]
  text = jnp.where((part.state >= 0)[..., None], adapted[row, jnp.maximum(part.state, 0)], clean)

  targets = unit_targets.reshape(part.ids.shape[0], -1)
  target_ids = jnp.where(targets == IGNORE, eot, targets)
  spoken = UnitDecoder(cfg).apply({'params': params['echo']}, table, target_ids, method='embed')
  embeddings = jnp.concatenate([text, spoken], axis=1)
  valid = jnp.concatenate([part.valid, target_ids != eot], axis=1)
  labels = jnp.concatenate([jnp.full_like(part.ids, IGNORE), targets], axis=1)
  return _unit_loss(params, cfg, embeddings, valid, labels, text, clean, rng)


def finetune(
  params: dict,
  cfg: EchoXConfig,
  hidden: Array,
  expanded_labels: Array,
  labels: Array,
  unit_ids: Array,
  unit_labels: Array,
  s2t_loss: Array,
  rng: Array | None = None,
) -> ReleasedLoss:
  """Older released stage 3 loss: L1 + L2, or 0.2 L1 + 2 L2 once L1 < 1, where L1 is the loss of
  speech to text and L2 = CE + w * cosine.

  In the unit decoder's row the answer has the same positions as in the LLM's row before speech is
  inserted. There, each of its embeddings is replaced by the adapted LLM state *at* that token (not
  the one before it, which predicts it). All other embeddings are detached. The cosine covers whole
  rows.

  Args:
    params: groups `unit_text_embedding`, `echo`, `denoising_adapter`.
    cfg: profile `released`.
    hidden: float[B,T',D], LLM states.
    expanded_labels: int[B,T'], the supervised token at each state, else IGNORE.
    labels: int[B,T], the same before speech is inserted.
    unit_ids: int[B,Tu], prebuilt rows: text, then unit words (ids from V on), EOT = padding.
    unit_labels: int[B,Tu].
    s2t_loss: L1.
    rng: dropout key; None = no dropout.
  """
  clean = jax.lax.stop_gradient(
    UnitDecoder(cfg).apply(
      {'params': params['echo']},
      params['unit_text_embedding']['embedding'],
      unit_ids,
      method='embed',
    )
  )
  width = unit_ids.shape[1]
  said = jnp.pad(labels[:, :width] != IGNORE, ((0, 0), (0, max(0, width - labels.shape[1]))))
  # The n-th supervised token of one row is the n-th of the other.
  state = jnp.argsort(expanded_labels == IGNORE, axis=1, stable=True)
  state = jnp.take_along_axis(state, jnp.maximum(jnp.cumsum(said, axis=1) - 1, 0), axis=1)
  adapted = jnp.take_along_axis(_adapt(params, cfg, hidden, rng), state[..., None], axis=1)
  text = jnp.where(said[..., None], adapted, clean)
  found = _unit_loss(
    params, cfg, text, unit_ids != cfg.special_ids.eot, unit_labels, text, clean, rng
  )
  return found._replace(
    loss=jnp.where(s2t_loss < 1, 0.2 * s2t_loss + 2 * found.loss, s2t_loss + found.loss)
  )


def _adapt(params: dict, cfg: EchoXConfig, hidden: Array, rng: Array | None) -> Array:
  """LLM states float[B,T,D] through the denoising adapter."""
  return DenoisingAdapter(cfg).apply(
    {'params': params['denoising_adapter']}, hidden, **dropout(rng)
  )


def _unit_loss(
  params: dict,
  cfg: EchoXConfig,
  embeddings: Array,
  valid: Array,
  labels: Array,
  noisy: Array,
  clean: Array,
  rng: Array | None,
) -> ReleasedLoss:
  """CE + w * cosine of rows of embeddings float[R,T,D]; the cosine is between `noisy` and `clean`,
  float[R,P,D].
  """
  model, variables = UnitDecoder(cfg), {'params': params['echo']}
  positions = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
  # A masked position does not even attend to itself, so the first unit of a short slice is
  # predicted from padding.
  mask = Mask(allowed=valid[:, None, None], causal=True)
  states, _ = model.apply(variables, embeddings, positions, mask, **dropout(rng), method='hidden')
  logits = model.apply(variables, states, method='logits')
  ce = losses.cross_entropy(logits[:, :-1], labels[:, 1:]).mean
  distance = losses.denoising_cosine(
    noisy, jax.lax.stop_gradient(clean), jnp.ones(noisy.shape[:-1], bool)
  ).total / len(noisy)
  weight = jax.lax.stop_gradient(
    jnp.where(distance > COSINE_SHARE * ce, COSINE_SHARE * ce / distance, 1.0)
  )
  inputs = model.apply(variables, embeddings, method='project')
  return ReleasedLoss(ce + weight * distance, ce, distance, weight, inputs, labels, valid, logits)
