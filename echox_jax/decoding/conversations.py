"""The LLM of B conversations at once: one state, and programs of static shapes.

  read_opening  what all conversations open with, once
  read_first    questions into empty rows (prefill)
  read_further  a question behind what a conversation holds already
  decode_chunk  a few tokens for all conversations that are answering
  forget        empties the place of a conversation

Conversations come and go without others waiting: each has a row of its own, with its own length,
its own way of sampling and its own end. A row holds what was read and said so far, so that a
further question is read behind it.
"""

from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from echox_jax import prompts
from echox_jax.config import EchoXConfig
from echox_jax.decoding import guards, sampler, trigger
from echox_jax.models import echox, llama
from echox_jax.models.arrays import Array, Int
from echox_jax.models.attention import Mask
from echox_jax.models.llama import apply_llm, head_row
from echox_jax.parallel.sharding import current_mesh, put_row, take_row


class Written(NamedTuple):
  """What speaking reads of `Conversations`: `states` float[B,A,D] and `ids` int32[B,A]."""

  states: Any
  ids: Any


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
    repeated: int32[B,L], see `guards.repeated`.
    count: int32[B], spoken tokens so far.
    start: int32[B], first spoken token of the slice that is being made.
    cut: int32[B], where a slice ends that is ready to be spoken; 0 = none is.
    going: bool[B], the answer has not ended.
    cut_off: bool[B], `limit` ended it.
    looped: bool[B], a loop ended it.
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
  repeated: Any
  count: Any
  start: Any
  cut: Any
  going: Any
  cut_off: Any
  looped: Any

  @property
  def written(self) -> Written:
    """What speaking reads."""
    return Written(self.states, self.ids)


class Progress(struct.PyTreeNode):
  """What the host looks at after a chunk: copies of the small fields of `Conversations`."""

  ids: Any
  scores: Any
  count: Any
  start: Any
  cut: Any
  going: Any
  cut_off: Any
  looped: Any


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
    repeated=zeros(jnp.int32, guards.TEXT_ROUNDS),
    count=zeros(jnp.int32),
    start=zeros(jnp.int32),
    cut=zeros(jnp.int32),
    going=zeros(bool),
    cut_off=zeros(bool),
    looped=zeros(bool),
  )


def read_opening(params: dict, cfg: EchoXConfig, ids: Int[Array, '1 P']) -> Any:
  """Returns the cache of P slots that holds what conversations open with, for `read_first`."""
  slots = ids.shape[1]
  _, cache = apply_llm(
    params,
    cfg,
    'hidden',
    apply_llm(params, cfg, 'embed', ids),
    jnp.arange(slots)[None],
    Mask(causal=True),
    llama.init_cache(cfg.llm, 1, slots, llama.are_layers_separate(params['llm'])),
    jnp.int32(0),
  )
  return cache


def read_first(
  params: dict,
  cfg: EchoXConfig,
  state: Conversations,
  rows: Int[Array, ' Q'],
  spliced: echox.Spliced,
  sampling: sampler.Sampling,
  limits: Int[Array, ' Q'],
  opening: Any = None,
) -> Conversations:
  """Reads questions into empty rows and makes these answer. Without an opening, a question sees
  itself alone, which flash kernels compute.

  Args:
    params: with group `llm`.
    cfg: the model.
    state: of all conversations.
    rows: numbers of the conversations; a number may come twice, with the same question.
    spliced: Q questions with speech in place, padded at the right.
    sampling: of each answer.
    limits: the most tokens of each answer.
    opening: of `read_opening`, where questions come without it; None = they are whole.
  """
  width, asked = spliced.valid.shape[1], spliced.valid.sum(axis=1).astype(jnp.int32)
  before = 0 if opening is None else jax.tree.leaves(opening)[0].shape[-2]
  prompt_keys = jnp.pad(spliced.prompt_keys, ((0, 0), (before, 0)), constant_values=True)
  held = llama.init_cache(
    cfg.llm, len(rows), before + width, llama.are_layers_separate(params['llm'])
  )
  mask = Mask(prompt_keys, causal=True)
  if opening is not None:
    held = jax.tree.map(lambda x, own: x.at[..., :before, :].set(own), held, opening)
    earlier = jnp.arange(before + width) <= before + jnp.arange(width)[:, None]
    mask = Mask(prompt_keys, allowed=earlier[None, None])
  hidden, new = apply_llm(
    params, cfg, 'hidden', spliced.inputs, before + spliced.positions, mask, held, jnp.int32(before)
  )
  cache, slots = state.cache, state.keys.shape[1]
  new = jax.tree.map(lambda own: own[..., :slots, :], new)  # beyond them is padding
  for i in range(len(rows)):
    cache = jax.tree.map(
      lambda held, own, i=i: put_slots(held, take_row(own, i, _axis(own)), rows[i]), cache, new
    )
  hidden = jnp.take_along_axis(hidden, asked[:, None, None] - 1, axis=1)[:, 0]
  keys = jnp.pad(prompt_keys[:, :slots], ((0, 0), (0, max(0, slots - before - width))))
  state = state.replace(cache=cache, keys=state.keys.at[rows].set(keys))
  return _begun(params, cfg, state, rows, hidden, before + asked, sampling, limits)


def read_further(
  params: dict,
  cfg: EchoXConfig,
  state: Conversations,
  rows: Int[Array, ' 1'],
  spliced: echox.Spliced,
  sampling: sampler.Sampling,
  limits: Int[Array, ' 1'],
) -> Conversations:
  """As `read_first`, for one question behind what its row holds already."""
  row, width = rows[0], spliced.valid.shape[1]
  keys, length = take_row(state.keys, row), state.length[row]
  slots = jnp.arange(keys.shape[1])
  before = keys & (slots < length)
  own = jax.lax.dynamic_update_slice(jnp.zeros_like(keys), spliced.prompt_keys, (0, length))
  itself = length + jnp.arange(width)[:, None]
  allowed = ((slots <= itself) & (before | own)[:, None]) | (slots == itself)
  hidden, cache = apply_llm(
    params,
    cfg,
    'hidden',
    spliced.inputs,
    length + spliced.positions,
    Mask(allowed=allowed[:, None]),
    jax.tree.map(lambda held: take_row(held, row, _axis(held)), state.cache),
    length,
  )
  asked = spliced.valid.sum(axis=1).astype(jnp.int32)
  begin = _after(hidden, length)
  cache = jax.tree.map(lambda held, one: _put_new(held, one, row, begin, width), state.cache, cache)
  state = state.replace(cache=cache, keys=state.keys.at[row].set((before | own)[0]))
  hidden = take_row(hidden, asked[0] - 1, 1)[:, 0]
  return _begun(params, cfg, state, rows, hidden, length + asked, sampling, limits)


def _begun(
  params: dict,
  cfg: EchoXConfig,
  state: Conversations,
  rows: Array,
  hidden: Array,
  lengths: Array,
  sampling: sampler.Sampling,
  limits: Array,
) -> Conversations:
  """Makes rows answer; `hidden` float[Q,D] predicts their first tokens."""
  return state.replace(
    length=state.length.at[rows].set(lengths),
    hidden=state.hidden.at[rows].set(hidden),
    logits=state.logits.at[rows].set(apply_llm(params, cfg, 'logits', hidden)),
    said=state.said.at[rows].set(False),
    sampling=jax.tree.map(lambda x, value: x.at[rows].set(value), state.sampling, sampling),
    limit=state.limit.at[rows].set(limits),
    going=state.going.at[rows].set(True),
    **{
      name: cleared(getattr(state, name), rows)
      for name in ('made', 'repeated', 'count', 'start', 'cut', 'cut_off', 'looped')
    },
  )


def decode_chunk(
  params: dict,
  cfg: EchoXConfig,
  first_slice_tokens: int,
  state: Conversations,
  steps: Int[Array, ''],
  ending_ids: tuple[int, ...] = (),
  loop_times: int = 0,
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
    ending_ids: static: tokens in whose place EOT is taken, but for the first of an answer.
    loop_times: static: EOT is taken where a round of tokens has come so often; 0 = no matter.
  """
  special, rows = cfg.special_ids, jnp.arange(state.keys.shape[0])
  unspoken = jnp.asarray(prompts.unspoken_ids(special, prompts.get_profile(cfg.profile)))
  period = head_row(params['llm'], special.period)
  room = state.ids.shape[1]
  state = state.replace(
    start=jnp.where(state.cut > 0, state.cut, state.start), cut=jnp.zeros_like(state.cut)
  )

  def step(carry):
    i, state = carry
    token = sampler.choose(state.logits, state.sampling, state.made, state.said)
    if ending_ids:
      ends = (state.made > 0) & jnp.isin(token, jnp.asarray(ending_ids, token.dtype))
      token = jnp.where(ends, special.eot, token)
    looped = state.going & guards.in_loop(state.repeated, loop_times)
    token = jnp.where(looped, special.eot, token)
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
    repeated = guards.repeated(state.repeated, state.ids, state.count, token)
    made = state.made + going
    cut_off = going & (made >= state.limit)
    slot = jnp.where(state.going, state.length, state.keys.shape[1])
    keys = state.keys.at[rows, slot].set(True, mode='drop')
    hidden, cache = apply_llm(
      params,
      cfg,
      'hidden',
      apply_llm(params, cfg, 'embed', token[:, None]),
      state.length[:, None],
      Mask(keys & state.going[:, None]),  # what rests costs no time, see `attention.by_block`
      state.cache,
      state.length,
    )
    return i + 1, state.replace(
      cache=cache,
      keys=keys,
      length=state.length + state.going,
      hidden=hidden[:, 0],
      logits=apply_llm(params, cfg, 'logits', hidden[:, 0]),
      said=state.said.at[rows, token].set(True),
      made=made,
      ids=state.ids.at[rows, place].set(token, mode='drop'),
      states=state.states.at[rows, place].set(state.hidden, mode='drop'),
      scores=scores,
      repeated=jnp.where(spoken[:, None], repeated, state.repeated),
      count=count,
      cut=cut,
      going=going & ~cut_off,
      cut_off=state.cut_off | cut_off,
      looped=state.looped | looped,
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
      for name in ('length', 'count', 'start', 'cut', 'made', 'going', 'cut_off', 'looped')
    },
  )


def cleared(field: Array, row: Int[Array, '...']) -> Array:
  """A field with 0 or False in a row, or in several."""
  return field.at[row].set(jnp.zeros((), field.dtype))


def put_slots(held: Array, one: Array, row: Int[Array, '']) -> Array:
  """Puts keys or values of one row, for its first slots, into those of all rows; nobody may see the
  other slots of the row.
  """
  axis = _axis(held)
  if current_mesh() is None:
    start = [row if i == axis else 0 for i in range(held.ndim)]
    return jax.lax.dynamic_update_slice(held, one, start)
  more = held.shape[axis + 2] - one.shape[axis + 2]
  one = jnp.pad(one, [(0, more if i == axis + 2 else 0) for i in range(one.ndim)])
  return put_row(held, one, row, axis)


def _after(computed: Array, slot: Int[Array, '']) -> Int[Array, '']:
  """The slot itself, which a program does not know before it has `computed` all. XLA works on a
  copy of all rows if it may write into one while layers still read it, also across an
  `optimization_barrier`. Only what is no number any more goes one slot too far.
  """
  return slot + jnp.isnan(computed[0, 0, 0])


def _put_new(held: Array, one: Array, row: Array, begin: Array, width: int) -> Array:
  """Puts `width` slots of one row from `begin` on, which are new, into those of all rows."""
  if current_mesh() is not None:
    return put_slots(held, one, row)
  axis = _axis(held)
  new = jax.lax.dynamic_slice_in_dim(one, begin, width, axis + 2)
  start = [{axis: row, axis + 2: begin}.get(i, 0) for i in range(held.ndim)]
  return jax.lax.dynamic_update_slice(held, new, start)


def take_rows(state: Any, rows: Int[Array, ' W']) -> Any:
  """The state of some rows alone; `state`: with a field `cache`, such as `Conversations`."""

  def take(held: Array, axis: int) -> Array:
    return jnp.concatenate([take_row(held, rows[i], axis) for i in range(rows.shape[0])], axis)

  rest = jax.tree.map(lambda held: take(held, 0), state.replace(cache=None))
  return rest.replace(cache=jax.tree.map(lambda held: take(held, _axis(held)), state.cache))


def put_rows(state: Any, some: Any, rows: Int[Array, ' W']) -> Any:
  """Puts what `take_rows` gave, or what became of it, back into its rows."""

  def put(held: Array, new: Array, axis: int) -> Array:
    for i in range(rows.shape[0]):
      held = put_row(held, jax.lax.slice_in_dim(new, i, i + 1, axis=axis), rows[i], axis)
    return held

  rest = jax.tree.map(
    lambda held, new: put(held, new, 0), state.replace(cache=None), some.replace(cache=None)
  )
  return rest.replace(
    cache=jax.tree.map(lambda held, new: put(held, new, _axis(held)), state.cache, some.cache)
  )


def _axis(held: Array) -> int:
  """Where the rows are in a leaf of a cache: behind the layers, where these are in one array."""
  return held.ndim - 4
