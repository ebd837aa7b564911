"""KV-cached greedy decoding of unit words and text. Everything runs inside jit with static shapes.

The frozen T2C makes its pseudo-labels in training with `decode_unit_words`, and the echo decoder
speaks with it. `prefill` and `decode_step` generate text one token at a time (streaming);
`generate_text` is the batched loop.
"""

import functools
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from echox_jax import prompts
from echox_jax.config import EchoXConfig
from echox_jax.models import echox, unit_decoder
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.attention import Mask, current_platform
from echox_jax.models.llama import (
  HEAD,
  apply_llm,
  are_layers_separate,
  init_cache,
  separate_layers,
  transpose_head,
)
from echox_jax.models.unit_decoder import UnitDecoder
from echox_jax.parallel import sharding


class UnitWords(NamedTuple):
  """ids int32[B,max_words] from 0, valid up to lengths int32[B]; overflow int32[B], 1 where the
  budget ended the row.
  """

  ids: Array
  lengths: Array
  overflow: Array


class Draw(NamedTuple):
  """How each row chooses a unit word where it must not take the likeliest.

  Attributes:
    temperature: float32[B]; 0 = the likeliest.
    step: int32[B], number of the id, which makes the random number. The first, 0, is not EOT where
      ids are drawn.
  """

  temperature: Array
  step: Array


class Generated(NamedTuple):
  """Text that the model generated.

  Attributes:
    ids: int32[B,A] as generated: starts with BOS if the profile's answers do; EOT is left out.
    lengths: int32[B].
    hidden: float[B,A,D]; hidden[b,i] is the state that predicted ids[b,i].
    overflow: int32[B], 1 where the budget ended the answer.
  """

  ids: Array
  lengths: Array
  hidden: Array
  overflow: Array


@struct.dataclass
class TextState:
  """The state of the LLM after some tokens; `hidden` and `logits` predict the next token.

  Attributes:
    cache: keys and values, one slot per position.
    keys: bool[B,slots], the visible slots.
    slot: int32 scalar, the next slot to write, the same for all rows.
    positions: int32[B], the next rotary position of each row.
    hidden: float[B,D], after the final norm.
    logits: float32[B,V].
  """

  # Any: JAX transformations replace the arrays by shapes, shardings and None.
  cache: Any
  keys: Any
  slot: Any
  positions: Any
  hidden: Any
  logits: Any


def decode_unit_words(
  params: dict,
  cfg: EchoXConfig,
  text_table: Float[Array, 'V D'],
  text_part: Float[Array, 'B N D'],
  text_lengths: Int[Array, ' B'],
  max_words: int,
) -> UnitWords:
  """Decodes greedy unit words for a batch of slices.

  Args:
    params: of one `UnitDecoder`: the T2C's group or the echo decoder's.
    cfg: its profile determines the allowed ids, see `decode_unit_tokens`.
    text_table: the frozen text embeddings.
    text_part: text embeddings or adapted states at the LLM's width.
    text_lengths: tokens of each slice; rows of length 0 are skipped and produce no words.
    max_words: static budget; a row that does not end within it counts as overflow and is truncated.
  """
  steps = unit_steps(cfg, max_words)
  tokens, counts, ended = decode_unit_tokens(
    params, cfg, text_table, text_part, text_lengths, steps
  )
  spoken = (tokens >= cfg.llm.vocab_size) & (jnp.arange(steps) < counts[:, None])
  place = jnp.where(spoken, jnp.cumsum(spoken, axis=1) - 1, max_words)
  rows = jnp.arange(tokens.shape[0])[:, None]
  ids = (
    jnp.zeros((tokens.shape[0], max_words), jnp.int32)
    .at[rows, place]
    .set(tokens - cfg.llm.vocab_size, mode='drop')
  )
  total = spoken.sum(axis=1)
  return UnitWords(
    ids, jnp.minimum(total, max_words), (~ended | (total > max_words)).astype(jnp.int32)
  )


def unit_steps(cfg: EchoXConfig, max_words: int) -> int:
  """Gives the ids that the decoder chooses for so many unit words: EOT is one, and BOS is in
  profile `released`.
  """
  return max_words + 2 if prompts.get_profile(cfg.profile).free_unit_ids else max_words + 1


def decode_unit_tokens(
  params: dict,
  cfg: EchoXConfig,
  text_table: Float[Array, 'V D'],
  text_part: Float[Array, 'B N D'],
  text_lengths: Int[Array, ' B'],
  steps: int,
) -> tuple[Int[Array, 'B {steps}'], Int[Array, ' B'], Bool[Array, ' B']]:
  """Decodes token by token.

  BOS is given. Only EOT and unit words can follow, so only their rows of the head are read. In
  profile `released`, BOS and any text id can be decoded too; these ids are fed back like the rest
  (facts 8).

  Args:
    params: this and the arguments below are as in `decode_unit_words`.
    steps: static maximum number of tokens, EOT included.

  Returns:
    (tokens, number of tokens before EOT, whether EOT came); tokens and numbers are int32.
  """
  prompt = unit_prompt(cfg, text_table, text_part, text_lengths)
  inner, head, rows = unit_choices(params, cfg, text_table)
  if current_platform() == 'cpu' and not are_layers_separate(inner):
    inner = separate_layers(inner)
  loop = functools.partial(_say_units, cfg, steps)
  return sharding.by_rows(loop, (prompt, text_lengths), inner, head, rows, differentiable=False)


def unit_prompt(
  cfg: EchoXConfig,
  text_table: Float[Array, 'V D'],
  text_part: Float[Array, 'B N D'],
  text_lengths: Int[Array, ' B'],
) -> unit_decoder.Prompt:
  """Gives what stands before the first id that the decoder chooses; arguments are those of
  `decode_unit_words`.
  """
  prompt = unit_decoder.slice_prompt(cfg, text_table, text_part, text_lengths)
  if prompts.get_profile(cfg.profile).free_unit_ids:
    return prompt
  bos = jnp.full((text_part.shape[0], 1), cfg.special_ids.bos)
  embedded = unit_decoder.embed_text(text_table, bos)
  return unit_decoder.extend(prompt, embedded.astype(cfg.unit_decoder.trunk.dtype))


@struct.dataclass
class UnitHead:
  """The output table of what can be chosen: EOT and the unit words, or in profile `released` all.

  Attributes:
    table: float[choices,F], or float[F,choices] if `transposed`, see `llama.transpose_head`.
  """

  table: Any
  transposed: bool = struct.field(pytree_node=False, default=False)

  def scores(self, hidden: Float[Array, 'B F']) -> Float[Array, 'B choices']:
    """Scores the choices, in float32."""
    axes = 'BD,DV->BV' if self.transposed else 'BD,VD->BV'
    return jnp.einsum(axes, hidden, self.table, preferred_element_type=jnp.float32)


def unit_choices(
  params: dict, cfg: EchoXConfig, text_table: Float[Array, 'V D']
) -> tuple[dict, UnitHead, Float[Array, 'texts D']]:
  """Takes a decoder apart for `choose_unit` and `embed_unit`.

  Returns:
    The params without the head; the head; and the rows of the text table that can follow.
  """
  inner = {name: group for name, group in params.items() if name not in ('lm_head', HEAD)}
  rows = text_table
  if not prompts.get_profile(cfg.profile).free_unit_ids:
    rows = unit_decoder.embed_text(text_table, jnp.asarray([cfg.special_ids.eot]))
  if HEAD in params:
    return inner, UnitHead(params[HEAD], transposed=True), rows
  return inner, UnitHead(_chosen(params, cfg)), rows


def transpose_unit_head(params: dict, cfg: EchoXConfig) -> dict:
  """Holds what a `UnitDecoder` can choose as `llama.transpose_head` does."""
  return transpose_head(params, _chosen(params, cfg))


def _chosen(params: dict, cfg: EchoXConfig) -> Array:
  """`unit_rows` in the dtype that computes with them."""
  return unit_rows(params, cfg).astype(cfg.unit_decoder.trunk.dtype)


def unit_rows(params: dict, cfg: EchoXConfig) -> Float[Array, 'choices F']:
  """Rows of a decoder's head that can be chosen: EOT and the unit words, or in profile `released`
  all.
  """
  head, eot = params['lm_head']['embedding'], cfg.special_ids.eot
  if not prompts.get_profile(cfg.profile).free_unit_ids:
    head = jnp.concatenate([head[eot : eot + 1], head[cfg.llm.vocab_size :]])
  return head


def choose_unit(
  cfg: EchoXConfig, head: UnitHead, hidden: Float[Array, 'B F'], draw: Draw | None = None
) -> Int[Array, ' B']:
  """Gives the likeliest next id, or the drawn one, int32: EOT, a unit word, or in profile
  `released` any id.
  """
  free = prompts.get_profile(cfg.profile).free_unit_ids
  scores = head.scores(hidden)
  if draw is not None:
    eot = cfg.special_ids.eot if free else 0
    scores = jax.lax.cond(
      jnp.any(draw.temperature > 0), lambda: _drawn(scores, draw, eot), lambda: scores
    )
  choice = jnp.argmax(scores, axis=-1).astype(jnp.int32)
  if free:
    return choice
  return jnp.where(choice == 0, cfg.special_ids.eot, cfg.llm.vocab_size - 1 + choice)


def _drawn(scores: Array, draw: Draw, eot: int) -> Array:
  """Scores with noise, so that the largest is a sample; those of temperature 0 stay as they are."""
  first = ((draw.temperature > 0) & (draw.step == 0))[:, None]
  scores = jnp.where(first & (jnp.arange(scores.shape[1]) == eot), -jnp.inf, scores)
  return scores + draw.temperature[:, None] * _gumbel(draw.step, scores.shape[1])


def _gumbel(step: Int[Array, ' B'], number: int) -> Float[Array, 'B choices']:
  """Noise that depends on the step alone, not on the row."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), step)
  return jax.vmap(lambda key: jax.random.gumbel(key, (number,)))(keys)


def embed_unit(
  params: dict, cfg: EchoXConfig, text_rows: Float[Array, 'texts D'], token: Int[Array, ' B']
) -> Float[Array, 'B 1 D']:
  """Looks up the embeddings of chosen ids, at the LLM's width."""
  vocab, free = cfg.llm.vocab_size, prompts.get_profile(cfg.profile).free_unit_ids
  words = UnitDecoder(cfg).apply({'params': params}, token - vocab, method='embed_units')
  place = jnp.minimum(token, vocab - 1) if free else jnp.zeros_like(token)
  text = unit_decoder.embed_text(text_rows, place)
  return jnp.where((token < vocab)[:, None], text.astype(words.dtype), words)[:, None]


def _say_units(
  cfg: EchoXConfig,
  steps: int,
  rows: tuple[unit_decoder.Prompt, Array],
  params: dict,
  head: UnitHead,
  text_rows: Array,
) -> tuple[Array, Array, Array]:
  """The loop of `decode_unit_tokens`. On a mesh each device runs it on its own rows until they have
  all ended.

  Args:
    cfg: the model.
    steps: static maximum number of tokens.
    rows: the prompts, and the lengths of their text int[B].
    params, head, text_rows: results of `unit_choices`.
  """
  prompt, text_lengths = rows
  apply = functools.partial(UnitDecoder(cfg).apply, {'params': params})

  batch, width = prompt.valid.shape
  slots = width + steps
  cache = init_cache(cfg.unit_decoder.trunk, batch, slots, are_layers_separate(params))
  hidden, cache = apply(
    prompt.embeddings,
    prompt.positions,
    Mask(prompt.valid, causal=True),
    cache,
    jnp.int32(0),
    method='hidden',
  )
  keys = jnp.pad(prompt.valid, ((0, 0), (0, steps)), constant_values=True)

  def step(state):
    i, token, cache, tokens, counts, ended = state
    ended |= token == cfg.special_ids.eot
    tokens = tokens.at[:, i].set(token)
    seen = Mask(keys & (jnp.arange(slots) <= width + i))
    positions = prompt.after[:, None] + i
    embedded = embed_unit(params, cfg, text_rows, token)
    hidden, cache = apply(embedded, positions, seen, cache, width + i, method='hidden')
    return i + 1, choose_unit(cfg, head, hidden[:, 0]), cache, tokens, counts + ~ended, ended

  def goes_on(state):
    return (state[0] < steps) & ~state[-1].all()

  start = (
    jnp.int32(0),
    choose_unit(cfg, head, hidden[:, -1]),
    cache,
    jnp.zeros((batch, steps), jnp.int32),
    jnp.zeros(batch, jnp.int32),
    text_lengths == 0,
  )
  *_, tokens, counts, ended = jax.lax.while_loop(goes_on, step, start)
  return tokens, counts, ended


def prefill(params: dict, cfg: EchoXConfig, spliced: echox.Spliced, new_tokens: int) -> TextState:
  """Prefills whole prompts.

  Args:
    params: with group `llm`.
    cfg: the model.
    spliced: right-padded prompts with speech spliced in; later positions see its `prompt_keys`.
    new_tokens: static number of cache slots for new tokens.
  """
  keys = spliced.prompt_keys
  batch, width = keys.shape
  hidden, cache = apply_llm(
    params,
    cfg,
    'hidden',
    spliced.inputs,
    spliced.positions,
    Mask(keys, causal=True),
    init_cache(cfg.llm, batch, width + new_tokens, are_layers_separate(params['llm'])),
    jnp.int32(0),
  )
  lengths = spliced.valid.sum(axis=1).astype(jnp.int32)
  hidden = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
  return TextState(
    cache,
    jnp.pad(keys, ((0, 0), (0, new_tokens))),
    jnp.int32(width),
    lengths,
    hidden,
    apply_llm(params, cfg, 'logits', hidden),
  )


def decode_step(
  params: dict, cfg: EchoXConfig, state: TextState, token: Int[Array, ' B']
) -> TextState:
  """Feeds the next token of every row."""
  keys = state.keys.at[:, state.slot].set(True)
  hidden, cache = apply_llm(
    params,
    cfg,
    'hidden',
    apply_llm(params, cfg, 'embed', token[:, None]),
    state.positions[:, None],
    Mask(keys),
    state.cache,
    state.slot,
  )
  return TextState(
    cache,
    keys,
    state.slot + 1,
    state.positions + 1,
    hidden[:, 0],
    apply_llm(params, cfg, 'logits', hidden[:, 0]),
  )


def generate_text(
  params: dict,
  cfg: EchoXConfig,
  ids: Int[Array, 'B T'],
  states: Float[Array, 'B *turns E D'] | None,
  state_lengths: Int[Array, ' B *turns'] | None,
  max_tokens: int,
) -> Generated:
  """Generates greedy answers to a batch of prompts.

  Args:
    params: with groups `llm` and, for speech, `adapter`.
    cfg: the model.
    ids: prompts, right-padded with the pad id, with at most one AUDIO id each.
    states: speech-encoder states for the AUDIO ids; None = text only.
    state_lengths: number of states of each clip.
    max_tokens: static budget per answer, BOS and EOT included.
  """
  eot = cfg.special_ids.eot
  speech = None if states is None else echox.embed_speech(params, cfg, states, state_lengths)
  spliced = echox.splice(cfg, ids, apply_llm(params, cfg, 'embed', ids), speech)
  batch, width = ids.shape[0], cfg.llm.hidden_size

  def step(carry):
    i, state, tokens, hidden, counts, ended = carry
    token = jnp.argmax(state.logits, axis=-1).astype(jnp.int32)
    ended |= token == eot
    tokens, hidden = tokens.at[:, i].set(token), hidden.at[:, i].set(state.hidden)
    return i + 1, decode_step(params, cfg, state, token), tokens, hidden, counts + ~ended, ended

  start = (
    jnp.int32(0),
    prefill(params, cfg, spliced, max_tokens),
    jnp.zeros((batch, max_tokens), jnp.int32),
    jnp.zeros((batch, max_tokens, width), cfg.llm.dtype),
    jnp.zeros(batch, jnp.int32),
    jnp.zeros(batch, bool),
  )
  *_, tokens, hidden, counts, ended = jax.lax.while_loop(
    lambda carry: (carry[0] < max_tokens) & ~carry[-1].all(), step, start
  )
  return Generated(tokens, counts, hidden, (~ended).astype(jnp.int32))
