"""Unit decoder: maps text embeddings or adapted LLM states to unit words. T2C and the echo decoder
are both instances of it.

Parameters (facts 6): `unit_embedding/embedding` [U,D], `adapter` {kernel [D,h], bias} (width
projection), `trunk/...` as in Llama at width h, `lm_head/embedding` [V+U,h], not tied. Token ids: 0
.. V-1 are text, V .. V+U-1 unit words. The caller passes in the LLM's frozen text table [V,D]; T2C
and echo decoder share it.

The decoder input of a slice is `[slice prefix] text or states [slice suffix] BOS unit words EOT`.
The part before BOS is left-padded; padding is masked as keys and does not count in positions. So
the unit words of every row begin in the same static column, and rotary positions are those of a
contiguous row.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from echox_jax import prompts
from echox_jax.config import EchoXConfig
from echox_jax.models import layers
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.attention import Mask
from echox_jax.models.llama import Cache, Trunk
from echox_jax.models.positions import of_unit_rows


class UnitDecoder(nn.Module):
  """Text-to-codec model or echo decoder (paper, stages 2 and 3)."""

  cfg: EchoXConfig

  def setup(self):
    cfg, trunk = self.cfg, self.cfg.unit_decoder.trunk
    units = cfg.unit_decoder.unit_vocab_size
    self.unit_embedding = layers.Embed(
      units, cfg.llm.hidden_size, ('unit_vocab', 'table_embed'), trunk.dtype
    )
    self.adapter = layers.Dense(
      trunk.hidden_size, ('embed', 'mlp'), use_bias=True, dtype=trunk.dtype
    )
    self.trunk = Trunk(trunk)
    self.lm_head = layers.Embed(cfg.llm.vocab_size + units, trunk.hidden_size, dtype=trunk.dtype)

  def embed(self, text_table: Float[Array, 'V D'], ids: Int[Array, '*b']) -> Float[Array, '*b D']:
    """Looks up the embeddings of text and unit words at the LLM's width; no gradient flows to the
    text table (facts 6).
    """
    vocab = self.cfg.llm.vocab_size
    words = self.embed_units(ids - vocab)
    return jnp.where(
      (ids < vocab)[..., None],
      embed_text(text_table, jnp.minimum(ids, vocab - 1)).astype(words.dtype),
      words,
    )

  def embed_units(self, words: Int[Array, '*b']) -> Float[Array, '*b D']:
    """Looks up the embeddings of unit words, counted from 0; out-of-range ids are clipped."""
    return self.unit_embedding(jnp.clip(words, 0, self.cfg.unit_decoder.unit_vocab_size - 1))

  def hidden(
    self,
    embeddings: Float[Array, 'B T D'],
    positions: Int[Array, 'B T'],
    mask: Mask,
    cache: Cache | None = None,
    index: Int[Array, '...'] | None = None,
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'B T F'], Cache | None]:
    """Maps embeddings at the LLM's width to states after the final norm; returns the cache too. The
    other arguments are as in `Trunk`.
    """
    return self.trunk(self.adapter(embeddings), positions, mask, cache, index, deterministic)

  def project(self, embeddings: Float[Array, '*b D']) -> Float[Array, '*b F']:
    """Applies only the width projection, from the LLM's width to the trunk's."""
    return self.adapter(embeddings)

  def logits(self, hidden: Float[Array, '*b F']) -> Float[Array, '*b ids']:
    """Returns the logits of all text and unit word ids, in float32."""
    return self.lm_head.attend(hidden)

  def __call__(
    self,
    text_table: Float[Array, 'V D'],
    ids: Int[Array, 'B T'],
    valid: Bool[Array, 'B T'] | None = None,
    segments: Int[Array, 'B T'] | None = None,
    deterministic: bool = True,
  ) -> Float[Array, 'B T F']:
    """Returns the causal hidden states of whole rows; positions that are not `valid` are masked as
    keys.

    `segments` are for packed rows: each segment sees only itself and has its own positions.
    """
    positions = of_unit_rows(self.cfg, ids, segments)
    mask = Mask(valid, segments, causal=True)
    return self.hidden(self.embed(text_table, ids), positions, mask, deterministic=deterministic)[0]


class DenoisingAdapter(nn.Module):
  """Maps LLM states towards the embeddings of the tokens they predict: Linear, ReLU, dropout,
  Linear (facts 6). What is added to text (`text_fusion`) passes a gate, one number a channel, that
  begins at 0: so the echo decoder begins as T2C, and what is added grows slowly.
  """

  cfg: EchoXConfig

  @nn.compact
  def __call__(
    self, states: Float[Array, '*b D'], deterministic: bool = True
  ) -> Float[Array, '*b D']:
    """Adapts states, at the LLM's width; `deterministic`: no dropout."""
    cfg = self.cfg

    def dense(features, axes, name):
      return layers.Dense(features, axes, use_bias=True, dtype=cfg.llm.dtype, name=name)

    x = nn.relu(
      dense(cfg.unit_decoder.denoising_intermediate_size, ('embed', 'mlp'), 'fc1')(states)
    )
    x = nn.Dropout(cfg.unit_decoder.denoising_dropout)(x, deterministic=deterministic)
    x = dense(cfg.llm.hidden_size, ('mlp', 'embed'), 'fc2')(x)
    if not cfg.unit_decoder.text_fusion:
      return x
    init = nn.with_logical_partitioning(nn.initializers.zeros, ('norm',))
    gate = self.param('gate', init, (cfg.llm.hidden_size,), jnp.float32)
    return gate.astype(x.dtype) * x


def read_answer(
  params: dict,
  cfg: EchoXConfig,
  states: Float[Array, '*b D'],
  ids: Int[Array, '*b'],
  deterministic: bool = True,
  rngs: dict | None = None,
) -> Float[Array, '*b D']:
  """Returns what the echo decoder reads of an answer, at the LLM's width.

  Args:
    params: groups `denoising_adapter` and, with `text_fusion`, `unit_text_embedding`.
    cfg: the model.
    states: of the LLM, after the final norm.
    ids: the tokens that they predicted; only `text_fusion` reads them.
    deterministic: no dropout.
    rngs: {'dropout': key} if not deterministic.
  """
  variables = {'params': params['denoising_adapter']}
  adapted = DenoisingAdapter(cfg).apply(variables, states, deterministic, rngs=rngs)
  if not cfg.unit_decoder.text_fusion:
    return adapted
  return adapted + embed_text(params['unit_text_embedding']['embedding'], ids).astype(adapted.dtype)


class Prompt(NamedTuple):
  """The part of the decoder's input before BOS: embeddings float[B,P,D], valid bool[B,P], positions
  int32[B,P], and `after`, the position of what comes next, int32[B].
  """

  embeddings: Array
  valid: Array
  positions: Array
  after: Array


def embed_text(text_table: Float[Array, 'V D'], ids: Int[Array, '*b']) -> Float[Array, '*b D']:
  """Looks up rows of the frozen text table; no gradient flows to it."""
  return jnp.take(jax.lax.stop_gradient(text_table), ids, axis=0)


def close_slices(
  cfg: EchoXConfig,
  text_table: Float[Array, 'V D'],
  text: Float[Array, 'B N D'],
  ids: Int[Array, 'B N'],
  lengths: Int[Array, ' B'],
) -> tuple[Float[Array, 'B M D'], Int[Array, ' B']]:
  """Puts a closing mark behind slices that end without one, see `UnitDecoderConfig.closing_ids`.

  Args:
    cfg: the model.
    text_table: the frozen text embeddings.
    text: embeddings or adapted states at the LLM's width; row b is valid up to lengths[b].
    ids: the tokens.
    lengths: tokens of each row; one of length 0 stays empty.

  Returns:
    (text, lengths), with room for a mark: M = N + 1; without closing ids as they are.
  """
  if not cfg.unit_decoder.closing_ids:
    return text, lengths
  marks = jnp.asarray(cfg.unit_decoder.closing_ids, jnp.int32)
  last = jnp.take_along_axis(ids, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
  opens = (lengths > 0) & ~jnp.isin(last, marks)
  text = jnp.pad(text, ((0, 0), (0, 1), (0, 0)))
  here = opens[:, None] & (jnp.arange(text.shape[1]) == lengths[:, None])
  mark = embed_text(text_table, marks[0]).astype(text.dtype)
  return jnp.where(here[..., None], mark, text), lengths + opens


def slice_prompt(
  cfg: EchoXConfig,
  text_table: Float[Array, 'V D'],
  text: Float[Array, 'B N D'],
  lengths: Int[Array, ' B'],
) -> Prompt:
  """Adds the slice prefix and suffix around each row and left-pads it.

  Args:
    cfg: its profile determines prefix and suffix.
    text_table: the frozen text embeddings.
    text: embeddings or adapted states at the LLM's width; row b is valid up to lengths[b].
    lengths: tokens of each row.

  Returns:
    A `Prompt` as long as prefix, `text` and suffix together.
  """
  profile = prompts.get_profile(cfg.profile)
  prefix = _rows(text_table, prompts.slice_prefix(cfg.special_ids, profile), text)
  suffix = _rows(text_table, prompts.slice_suffix(cfg.special_ids, profile), text)
  return right_align(prefix, text, lengths, suffix, cfg.unit_decoder.text_stride)


def right_align(
  prefix: Float[Array, 'B before D'],
  text: Float[Array, 'B N D'],
  lengths: Int[Array, ' B'],
  suffix: Float[Array, 'B after D'],
  stride: int = 0,
) -> Prompt:
  """Left-pads `prefix text[:length] suffix`, so that it ends in the last column.

  Args:
    prefix, text, suffix: embeddings.
    lengths: tokens of each row of `text`.
    stride: positions of a token, see `UnitDecoderConfig.text_stride`.

  Returns:
    A `Prompt` as long as the three together.
  """
  budget = text.shape[1]
  front = jnp.concatenate([prefix, text], axis=1)
  padding = (budget - lengths)[:, None]
  source = jnp.arange(front.shape[1]) - padding
  front = jnp.take_along_axis(front, jnp.maximum(source, 0)[..., None], axis=1)
  columns = jnp.arange(front.shape[1] + suffix.shape[1]) - padding
  valid = columns >= 0
  embeddings = jnp.concatenate([front, suffix], axis=1) * valid[..., None].astype(text.dtype)
  after = columns[:, -1] + 1
  columns = jnp.maximum(columns, 0)
  if stride:
    return Prompt(embeddings, valid, stride * columns, jnp.zeros_like(after))
  return Prompt(embeddings, valid, columns, after)


def extend(prompt: Prompt, embeddings: Float[Array, 'B W D']) -> Prompt:
  """Appends unit word embeddings to a prompt and marks all of them as valid."""
  after = prompt.after[:, None] + jnp.arange(embeddings.shape[1])
  return Prompt(
    jnp.concatenate([prompt.embeddings, embeddings.astype(prompt.embeddings.dtype)], axis=1),
    jnp.concatenate([prompt.valid, jnp.ones(after.shape, bool)], axis=1),
    jnp.concatenate([prompt.positions, after], axis=1),
    prompt.after + embeddings.shape[1],
  )


def init_unit_decoder(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of a `UnitDecoder`."""
  module = UnitDecoder(cfg)

  def create(m, table, ids):
    return m.logits(m(table, ids))

  return module.init(
    key, jnp.zeros((1, cfg.llm.hidden_size)), jnp.zeros((1, 1), jnp.int32), method=create
  )['params']


def init_denoising_adapter(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of a `DenoisingAdapter`."""
  return DenoisingAdapter(cfg).init(key, jnp.zeros((1, cfg.llm.hidden_size)))['params']


def _rows(text_table: Array, ids: Sequence[int], text: Array) -> Array:
  """Returns the embeddings of `ids`, repeated for each row of `text`: float[B,n,D]."""
  rows = embed_text(text_table, jnp.asarray(ids, jnp.int32)).astype(text.dtype)
  return jnp.broadcast_to(rows, (text.shape[0], *rows.shape))
