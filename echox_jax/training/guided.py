"""Guided attention: in each layer of the text-to-codec model, the first head learns to look where
the speech is in its text.

A text is said from its first token to its last, at a pace that changes little. So word k of m unit
words says about the token at k / m of the text. A head that looks elsewhere costs (Tachibana et
al., 2017, arXiv 1710.08969, section 4.2). Without that, the model first learns which unit words
follow each other, and only late to look at the text.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from echox_jax import prompts
from echox_jax.config import EchoXConfig
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.attention import Mask

WIDTH = 2.0  # tokens, standard deviation of what is right
_MASKED = -1e30


def astray(
  cfg: EchoXConfig,
  heads: Mapping[str, Any],
  ids: Int[Array, 'B T'],
  labels: Int[Array, 'B T'],
  segments: Int[Array, 'B T'] | None,
) -> Float[Array, '']:
  """Returns the share of attention that looks at a wrong place, 0 to 1: the mean over the positions
  that predict a label.

  Args:
    cfg: the model.
    heads: the collection `llama.FIRST_HEAD` of a `UnitDecoder`.
    ids: text and unit words.
    labels: BOS, unit words and EOT, else IGNORE.
    segments: of packed rows; None = one a row.
  """
  of_layers = heads['trunk']['layers']['self_attn']
  query, key = (of_layers[name][0].astype(jnp.float32) for name in ('query', 'key'))
  segments = jnp.zeros_like(ids) if segments is None else segments
  own = segments[:, :, None] == segments[:, None]
  words = ids >= cfg.llm.vocab_size
  asked = jnp.pad(labels[:, 1:] != prompts.IGNORE, ((0, 0), (0, 1)))
  scores = jnp.einsum('LBTH,LBSH->LBTS', query, key) * query.shape[-1] ** -0.5
  seen = Mask(segments=segments, causal=True).dense(*own.shape[1:])[:, 0]
  weights = jax.nn.softmax(jnp.where(seen, scores, _MASKED), axis=-1)
  right = (weights * _right(cfg, words, own)).sum(-1)
  return 1 - (right * asked).sum() / (len(right) * jnp.maximum(asked.sum(), 1))


def _right(
  cfg: EchoXConfig, words: Bool[Array, 'B T'], own: Bool[Array, 'B T T']
) -> Float[Array, 'B T T']:
  """How right it is that a position looks at another one, 0 to 1.

  Args:
    cfg: the model.
    words: which ids are unit words; the others of a segment are its text and what stands around it.
    own: which positions are of the same segment.
  """
  profile = prompts.get_profile(cfg.profile)
  before = len(prompts.slice_prefix(cfg.special_ids, profile))
  after = len(prompts.slice_suffix(cfg.special_ids, profile)) + 2  # and BOS, EOT
  earlier = own & jnp.tril(jnp.ones(own.shape[1:], bool), -1)

  def count(these, where):
    return (where & these[:, None]).sum(-1).astype(jnp.float32)

  said = count(words, earlier) / jnp.maximum(count(words, own), 1)
  tokens = count(~words, own) - before - after
  token = count(~words, earlier) - before
  text = ~words & (token >= 0) & (token < tokens)
  away = token[:, None] - (said * tokens - 0.5)[:, :, None]
  return jnp.where(own & text[:, None], jnp.exp(-((away / WIDTH) ** 2) / 2), 0.0)
