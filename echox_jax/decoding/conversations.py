"""The LLM of B conversations at once: one state, three programs of static shapes.

  read          a question behind what a conversation holds already (prefill)
  decode_chunk  a few tokens for all conversations that are answering
  forget        empties the place of a conversation

Conversations come and go without others waiting: each has a row of its own, with its own length,
its own way of sampling and its own end. A row holds what was read and said so far, so that a
further question is read behind it.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from echox_jax import prompts
from echox_jax.config import EchoXConfig
from echox_jax.decoding import sampler, trigger
from echox_jax.models import echox, llama
from echox_jax.models.arrays import Array, Int
from echox_jax.models.attention import Mask
from echox_jax.models.llama import apply_llm, head_embedding
from echox_jax.parallel.sharding import current_mesh, put_row, take_row


@struct.dataclass
class Conversations:
  """B rows; `hidden` and `logits` are those of the next token.

  Attributes:
    cache: keys and values, S slots a row.
    keys: bool[B,S], the slots that may be seen.
    length: int32[B], the next slot to write, which is the next rotary position too.
    hidden: float[B,D], after the final norm.
    logits: float32[B,V].
    said: bool[B,V], ids of the answer so far, for the repetition penalty.
    sampling: how each row chooses.
    limit: int32[B], the most tokens of the answer.
    made: int32[B], tokens of the answer so far, unspoken ones too.
    ids: int32[B,A], its spoken tokens.
    states: float[B,A,D], the states that predicted them.
    scores: float32[B,A], their trigger scores.
    count: int32[B], spoken tokens so far.
    start: int32[B], first spoken token of the slice that is being made.
    cut: int32[B], where a slice ends that is ready to be spoken; 0 = none is.
    going: bool[B], the answer has not ended.
    cut_off: bool[B], `limit` ended it.
  """

  # Any: transformations put shapes, shardings and None in the place of arrays.
  cache: Any
  keys: Any
  length: Any
  hidden: Any
  logits: Any
  said: Any
  sampling: Any
  limit: Any
  made: Any
  ids: Any
  states: Any
  scores: Any
  count: Any
  start: Any
  cut: Any
  going: Any
  cut_off: Any


class Progress(struct.PyTreeNode):
  """What the host looks at after a chunk: copies of the small fields of `Conversations`."""

  ids: Any
  scores: Any
  count: Any
  start: Any
  cut: Any
  going: Any
  cut_off: Any


def empty(
  cfg: EchoXConfig, batch: int, slots: int, answer_tokens: int, separate: bool = False
) -> Conversations:
  """Makes a state without conversations.

  Args:
    cfg: the model.
    batch: B, conversations at once.
    slots: S, positions of a conversation.
    answer_tokens: A, spoken tokens of one answer at most.
    separate: whether the layers of the LLM are, see `llama.separate_layers`.
  """
  llm = cfg.llm

  def zeros(dtype, *shape):
    return jnp.zeros((batch, *shape), dtype)

  return Conversations(
    cache=llama.init_cache(llm, batch, slots, separate),
    keys=zeros(bool, slots),
    length=zeros(jnp.int32),
    hidden=zeros(llm.dtype, llm.hidden_size),
    logits=zeros(jnp.float32, llm.vocab_size),
    said=zeros(bool, llm.vocab_size),
    sampling=sampler.greedy(batch),
    limit=zeros(jnp.int32),
    made=zeros(jnp.int32),
    ids=zeros(jnp.int32, answer_tokens),
    states=zeros(llm.dtype, answer_tokens, llm.hidden_size),
    scores=zeros(jnp.float32, answer_tokens),
    count=zeros(jnp.int32),
    start=zeros(jnp.int32),
    cut=zeros(jnp.int32),
    going=zeros(bool),
    cut_off=zeros(bool),
  )


def read(
  params: dict,
  cfg: EchoXConfig,
  state: Conversations,
  row: Int[Array, ''],
  spliced: echox.Spliced,
  sampling: sampler.Sampling,
  limit: Int[Array, ''],
  fresh: bool,
) -> Conversations:
  """Reads a question into a row and makes it answer.

  Args:
    params: with group `llm`.
    cfg: the model.
    state: of all conversations.
    row: number of the conversation.
    spliced: one question with speech in place, padded at the right.
    sampling: of this answer, one number a field.
    limit: the most tokens of the answer.
    fresh: static: whether the row is empty. The question then sees itself alone, which flash
      kernels compute.
  """
  keys, length = take_row(state.keys, row), state.length[row]
  width, asked = spliced.valid.shape[1], spliced.valid.sum().astype(jnp.int32)
  separate = llama.are_layers_separate(params['llm'])
  if fresh:
    hidden, new = apply_llm(
      params,
      cfg,
      'hidden',
      spliced.inputs,
      spliced.positions,
      Mask(spliced.prompt_keys, causal=True),
      llama.init_cache(cfg.llm, 1, width, separate),
      jnp.int32(0),
    )
    cache = new
  else:
    cache = jax.tree.map(lambda held: take_row(held, row, _axis(held)), state.cache)
    slots = jnp.arange(keys.shape[1])
    before = keys & (slots < length)
    own = _shifted(spliced.prompt_keys, length, keys.shape[1])
    causal = slots <= length + jnp.arange(width)[:, None]
    itself = slots == length + jnp.arange(width)[:, None]
    allowed = (causal & (before | own)[:, None]) | itself
    hidden, cache = apply_llm(
      params,
      cfg,
      'hidden',
      spliced.inputs,
      length + spliced.positions,
      Mask(allowed=allowed[:, None]),
      cache,
      length,
    )
  keys = jnp.where(
    jnp.arange(keys.shape[1]) < length, keys, _shifted(spliced.prompt_keys, length, keys.shape[1])
  )
  hidden = hidden[:, asked - 1]
  return state.replace(
    cache=jax.tree.map(lambda held, one: put_slots(held, one, row), state.cache, cache),
    keys=state.keys.at[row].set(keys[0]),
    length=state.length.at[row].add(asked),
    hidden=state.hidden.at[row].set(hidden[0]),
    logits=state.logits.at[row].set(apply_llm(params, cfg, 'logits', hidden)[0]),
    said=state.said.at[row].set(False),
    sampling=jax.tree.map(lambda x, value: x.at[row].set(value), state.sampling, sampling),
    limit=state.limit.at[row].set(limit),
    going=state.going.at[row].set(True),
    **{
      name: cleared(getattr(state, name), row)
      for name in ('made', 'count', 'start', 'cut', 'cut_off')
    },
  )


def decode_chunk(
  params: dict,
  cfg: EchoXConfig,
  first_slice_tokens: int,
  state: Conversations,
  steps: Int[Array, ''],
) -> tuple[Conversations, Progress]:
  """Takes tokens for all conversations that are answering: at most `steps`, fewer where a slice
  becomes ready or all have ended.

  Each step chooses the next tokens, scores the states that predicted them, judges whether a slice
  ends, and feeds the tokens. Slices that the chunk before left ready (`cut`) count as taken: the
  next ones begin where they end.

  Args:
    params: with group `llm`.
    cfg: the model.
    first_slice_tokens: static: where the first slice ends at the latest; 0 = where the rule says.
    state: of all conversations.
    steps: tokens of each.
  """
  special, rows = cfg.special_ids, jnp.arange(state.keys.shape[0])
  unspoken = jnp.asarray(prompts.unspoken_ids(special, prompts.get_profile(cfg.profile)))
  period = head_embedding(params['llm'])[special.period]
  room = state.ids.shape[1]
  state = state.replace(
    start=jnp.where(state.cut > 0, state.cut, state.start), cut=jnp.zeros_like(state.cut)
  )

  def step(carry):
    i, state = carry
    token = sampler.choose(state.logits, state.sampling, state.made, state.said)
    ended = state.going & (token == special.eot)
    going = state.going & ~ended
    spoken = going & ~jnp.any(token[:, None] == unspoken, axis=1) & (state.count < room)
    place = jnp.where(spoken, state.count, room)  # out of range: dropped
    scores = state.scores.at[rows, place].set(trigger.scores(state.hidden, period), mode='drop')
    count = state.count + spoken
    cut = trigger.cut_now(scores, count, state.start, cfg.streaming)
    if first_slice_tokens:
      early = trigger.cut_early(scores, count, first_slice_tokens)
      cut = jnp.where((cut == 0) & (state.start == 0), early, cut)
    cut = jnp.where(spoken, cut, 0)
    made = state.made + going
    cut_off = going & (made >= state.limit)
    hidden, cache = apply_llm(
      params,
      cfg,
      'hidden',
      apply_llm(params, cfg, 'embed', token[:, None]),
      state.length[:, None],
      Mask(state.keys.at[rows, state.length].set(True, mode='drop')),
      state.cache,
      state.length,
    )
    return i + 1, state.replace(
      cache=cache,
      keys=state.keys.at[rows, jnp.where(state.going, state.length, state.keys.shape[1])].set(
        True, mode='drop'
      ),
      length=state.length + state.going,
      hidden=hidden[:, 0],
      logits=apply_llm(params, cfg, 'logits', hidden[:, 0]),
      said=state.said.at[rows, token].set(True),
      made=made,
      ids=state.ids.at[rows, place].set(token, mode='drop'),
      states=state.states.at[rows, place].set(state.hidden, mode='drop'),
      scores=scores,
      count=count,
      cut=cut,
      going=going & ~cut_off,
      cut_off=state.cut_off | cut_off,
    )

  def goes_on(carry):
    i, state = carry
    return (i < steps) & state.going.any() & ~(state.cut > 0).any()

  _, state = jax.lax.while_loop(goes_on, step, (jnp.int32(0), state))
  return state, progress(state)


def progress(state: Conversations) -> Progress:
  """Copies what the host looks at, so that the state itself can be used up by the next chunk."""
  return Progress(
    **{name: jnp.copy(getattr(state, name)) for name in Progress.__dataclass_fields__}
  )


def forget(state: Conversations, row: Int[Array, '']) -> Conversations:
  """Empties a row."""
  return state.replace(
    keys=state.keys.at[row].set(False),
    **{
      name: cleared(getattr(state, name), row)
      for name in ('length', 'count', 'start', 'cut', 'made', 'going', 'cut_off')
    },
  )


def cleared(field: Array, row: Int[Array, '']) -> Array:
  """A field with 0 or False in a row."""
  return field.at[row].set(jnp.zeros((), field.dtype))


def put_slots(held: Array, one: Array, row: Int[Array, '']) -> Array:
  """Puts keys or values of one row, for its first slots, into those of all rows; nobody may see the
  other slots of the row.
  """
  axis = _axis(held)
  if current_mesh() is None:
    start = [row if i == axis else 0 for i in range(held.ndim)]
    return jax.lax.dynamic_update_slice(held, one, start)
  more = held.shape[axis + 1] - one.shape[axis + 1]
  one = jnp.pad(one, [(0, more if i == axis + 1 else 0) for i in range(one.ndim)])
  return put_row(held, one, row, axis)


def _shifted(keys: Array, offset: Array, slots: int) -> Array:
  """bool[1,T] -> bool[1,slots], from slot `offset` on."""
  return jax.lax.dynamic_update_slice(jnp.zeros((1, slots), bool), keys, (0, offset))


def _axis(held: Array) -> int:
  """Where the rows are in a leaf of a cache: behind the layers, where these are in one array."""
  return held.ndim - 4
