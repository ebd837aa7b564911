"""R slices spoken at once: states of an answer -> unit words -> units -> durations -> windows of
sound, while the slices are still being decoded.

  begin_slice   reads the states of a slice into a row (prefill of the echo decoder)
  speak_chunk   a few unit words for all rows, and the durations of what they are made of
  unsay         takes the newest words of a row back, after a loop
  sound         a window of frames of a row as a waveform

A window of sound equals the same frames of a whole slice: the durations of units and the samples of
frames depend on their neighbours, and nothing is final before its neighbours are known.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import EchoXConfig
from echox_jax.decoding import conversations, generate, guards
from echox_jax.models import excitation, llama, positions, unit_decoder
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.attention import Mask
from echox_jax.models.prosody import duration_context
from echox_jax.models.unit_decoder import UnitDecoder, read_answer
from echox_jax.models.vocoder import UnitVocoder, repeat_units, sound_context

# Units whose durations are predicted at once.
_TIMED = 64


class Spelling(NamedTuple):
  """What unit words are made of, as arrays.

  Attributes:
    units: int32[U,W], the units of each word, filled up with 0.
    lengths: int32[U].
    dropped: int32[U], units of each word that the profile leaves out.
    known: int32, words that the unit language has; the decoder may have room for more.
  """

  units: Any
  lengths: Any
  dropped: Any
  known: Any


@struct.dataclass
class Speaking:
  """R rows.

  Attributes:
    cache: keys and values of the echo decoder.
    keys: bool[R,S], the slots of the prompt that may be seen.
    position: int32[R], rotary position of the first unit word.
    token: int32[R], the id that was chosen last and has not been fed yet.
    step: int32[R], ids chosen before it.
    words: int32[R,N], unit words from 0 that the unit language has.
    limit: int32[R], unit words of the slice at most.
    num_words: int32[R], unit words said, with those that it lacks.
    units: int32[R,F], reduced units.
    num_units: int32[R].
    durations: int32[R,F], frames of each; final for the first `timed` units.
    timed: int32[R].
    unknown: int32[R], words that the unit language does not have.
    dropped: int32[R], units that the profile leaves out.
    lost: int32[R], units without room.
    repeated: int32[R,L], see `guards.repeated`.
    temperature: float32[R], 0 = the likeliest id each time.
    going: bool[R], the slice has not ended.
    cut_off: bool[R], the budget of words ended it.
    looped: bool[R], a loop ended it.
  """

  cache: Any
  keys: Any
  position: Any
  token: Any
  step: Any
  words: Any
  limit: Any
  num_words: Any
  units: Any
  num_units: Any
  durations: Any
  timed: Any
  unknown: Any
  dropped: Any
  lost: Any
  repeated: Any
  temperature: Any
  going: Any
  cut_off: Any
  looped: Any


class Spoken(struct.PyTreeNode):
  """What the host looks at after a chunk.

  Attributes:
    going, num_words, num_units, unknown, dropped, cut_off, looped: as in `Speaking`.
    repeated: int32[R], newest words that are a repetition.
    frames: int32[R], frames that are final.
    lost: int32[R], frames without room.
  """

  going: Any
  num_words: Any
  num_units: Any
  unknown: Any
  dropped: Any
  cut_off: Any
  looped: Any
  repeated: Any
  frames: Any
  lost: Any


def spelling(words: Sequence[Sequence[int]], vocab_size: int, limit: int | None = None) -> Spelling:
  """Makes the arrays of a unit language.

  Args:
    words: units of each word.
    vocab_size: unit words of the decoder; what the language lacks is spelt with nothing.
    limit: units from this one on are left out; None = none.
  """
  kept = [[u for u in word if limit is None or u < limit] for word in words]
  widest = max(map(len, kept), default=1)
  units = np.zeros((vocab_size, max(1, widest)), np.int32)
  lengths, dropped = np.zeros(vocab_size, np.int32), np.zeros(vocab_size, np.int32)
  for i, (word, whole) in enumerate(zip(kept, words)):
    units[i, : len(word)] = word
    lengths[i], dropped[i] = len(word), len(whole) - len(word)
  return Spelling(units, lengths, dropped, np.int32(len(words)))


def empty(
  cfg: EchoXConfig, rows: int, max_words: int, max_frames: int, separate: bool = False
) -> Speaking:
  """Makes a state in which nothing is spoken.

  Args:
    cfg: the model.
    rows: R, slices at once.
    max_words: N, unit words of a slice.
    max_frames: F, frames of a slice.
    separate: whether the layers of the echo decoder are, see `llama.separate_layers`.
  """
  width = prompt_width(cfg)

  def zeros(dtype, *shape):
    return jnp.zeros((rows, *shape), dtype)

  return Speaking(
    cache=llama.init_cache(
      cfg.unit_decoder.trunk, rows, width + generate.unit_steps(cfg, max_words), separate
    ),
    keys=zeros(bool, width),
    words=zeros(jnp.int32, max_words),
    units=zeros(jnp.int32, max_frames),
    durations=zeros(jnp.int32, max_frames),
    repeated=zeros(jnp.int32, guards.ROUNDS),
    temperature=zeros(jnp.float32),
    going=zeros(bool),
    cut_off=zeros(bool),
    looped=zeros(bool),
    **{
      name: zeros(jnp.int32)
      for name in (
        'position',
        'limit',
        'token',
        'step',
        'num_words',
        'num_units',
        'timed',
        'unknown',
        'dropped',
        'lost',
      )
    },
  )


def prompt_width(cfg: EchoXConfig) -> int:
  """Gives the positions of a slice before its first unit word."""

  def made(states):
    table = jnp.zeros((cfg.llm.vocab_size, cfg.llm.hidden_size), states.dtype)
    return generate.unit_prompt(cfg, table, states, jnp.ones(1, jnp.int32)).valid

  shape = (1, positions.longest_slice(cfg), cfg.llm.hidden_size)
  return jax.eval_shape(made, jax.ShapeDtypeStruct(shape, cfg.llm.dtype)).shape[1]


def begin_slice(
  params: dict,
  cfg: EchoXConfig,
  speaking: Speaking,
  row: Int[Array, ''],
  states: Float[Array, 'A D'],
  ids: Int[Array, ' A'],
  start: Int[Array, ''],
  stop: Int[Array, ''],
  temperature: Float[Array, ''],
  words_per_token: int = 0,
) -> Speaking:
  """Reads a slice into a row.

  Args:
    params: groups `echo`, `denoising_adapter`, `unit_text_embedding`.
    cfg: the model.
    speaking: of all rows.
    row: a row that is not going.
    states: of an answer.
    ids: its tokens, which they predicted.
    start, stop: the slice of them, at most `max_slice_tokens` long.
    temperature: 0 = the likeliest id each time. Else, as another try, ids are drawn, and the first
      is not EOT.
    words_per_token: unit words of each token at most; 0 = as many as there is room for.
  """
  most = cfg.streaming.max_slice_tokens
  own, tokens = (
    jax.lax.dynamic_slice_in_dim(jnp.pad(x, ((0, most), *((0, 0),) * (x.ndim - 1))), start, most)
    for x in (states, ids)
  )
  read = read_answer(params, cfg, own[None], tokens[None])
  table, length = params['unit_text_embedding']['embedding'], (stop - start)[None]
  closed = unit_decoder.close_slices(cfg, table, read, tokens[None], length)
  prompt = generate.unit_prompt(cfg, table, *closed)
  inner, head, _ = generate.unit_choices(params['echo'], cfg, table)
  width = prompt.valid.shape[1]
  hidden, new = UnitDecoder(cfg).apply(
    {'params': inner},
    prompt.embeddings,
    prompt.positions,
    Mask(prompt.valid, causal=True),
    llama.init_cache(cfg.unit_decoder.trunk, 1, width, llama.are_layers_separate(inner)),
    jnp.int32(0),
    method='hidden',
  )
  again = generate.Draw(temperature[None], jnp.zeros(1, jnp.int32))
  first = generate.choose_unit(cfg, head, hidden[:, -1], again)[0]
  limit = speaking.words.shape[1]
  if words_per_token:
    limit = jnp.minimum(limit, words_per_token * length[0])

  zero = {
    name: conversations.cleared(getattr(speaking, name), row)
    for name in (
      *('step', 'num_words', 'num_units', 'timed', 'unknown', 'dropped', 'lost', 'cut_off'),
      *('repeated', 'looped'),
    )
  }
  return speaking.replace(
    cache=jax.tree.map(
      lambda held, one: conversations.put_slots(held, one, row), speaking.cache, new
    ),
    keys=speaking.keys.at[row].set(prompt.valid[0]),
    position=speaking.position.at[row].set(prompt.after[0]),
    token=speaking.token.at[row].set(first),
    limit=speaking.limit.at[row].set(limit),
    temperature=speaking.temperature.at[row].set(temperature),
    going=speaking.going.at[row].set(True),
    **zero,
  )


def speak_chunk(
  params: dict,
  cfg: EchoXConfig,
  loop_times: int,
  spelling: Spelling,
  speaking: Speaking,
  steps: Int[Array, ''],
) -> tuple[Speaking, Spoken]:
  """Says at most `steps` more ids in every row that is going, and times the units they are made of.

  Args:
    params: as in `begin_slice`, and group `vocoder`.
    cfg: the model.
    loop_times: static: a row ends that has said a round of words so many times; 0 = none does.
    spelling: of the unit language.
    speaking: of all rows.
    steps: ids of each row.
  """
  eot, vocab = cfg.special_ids.eot, cfg.llm.vocab_size
  inner, head, text_rows = generate.unit_choices(
    params['echo'], cfg, params['unit_text_embedding']['embedding']
  )
  rows, width = jnp.arange(speaking.keys.shape[0]), speaking.keys.shape[1]
  max_words, max_units = speaking.words.shape[1], speaking.units.shape[1]
  most = generate.unit_steps(cfg, max_words)
  keys = jnp.pad(speaking.keys, ((0, 0), (0, most)), constant_values=True)
  slots = jnp.arange(width + most)

  def step(carry):
    i, s = carry
    going = s.going & (s.token != eot)
    word = s.token - vocab
    full = going & (word >= 0) & (s.num_words >= s.limit)
    said = going & (word >= 0) & ~full
    known = said & (word < spelling.known)
    at = jnp.clip(word, 0, spelling.units.shape[0] - 1)
    held = s.num_words - s.unknown
    repeated = guards.repeated(s.repeated, s.words, held, word) * known[:, None]
    looped = known & guards.in_loop(repeated, loop_times)
    length = jnp.where(known, spelling.lengths[at], 0)
    place = s.num_units[:, None] + jnp.arange(spelling.units.shape[1])
    wanted = jnp.arange(spelling.units.shape[1]) < length[:, None]
    units = s.units.at[rows[:, None], jnp.where(wanted, place, max_units)].set(
      spelling.units[at], mode='drop'
    )
    total = s.num_units + length
    hidden, cache = UnitDecoder(cfg).apply(
      {'params': inner},
      generate.embed_unit(inner, cfg, text_rows, s.token),
      (s.position + s.step)[:, None],
      Mask(keys & (slots <= width + s.step[:, None])),
      s.cache,
      width + s.step,
      method='hidden',
    )
    cut_off = full | (going & (s.step + 1 >= most))
    return i + 1, s.replace(
      cache=cache,
      token=generate.choose_unit(cfg, head, hidden[:, 0], generate.Draw(s.temperature, s.step + 1)),
      step=s.step + going,
      words=s.words.at[rows, jnp.where(known, held, max_words)].set(word, mode='drop'),
      num_words=s.num_words + said,
      units=units,
      num_units=jnp.minimum(total, max_units),
      lost=s.lost + jnp.maximum(total - max_units, 0),
      unknown=s.unknown + (said & ~known),
      dropped=s.dropped + jnp.where(known, spelling.dropped[at], 0),
      repeated=jnp.where(going[:, None], repeated, s.repeated),
      going=going & ~cut_off & ~looped,
      cut_off=s.cut_off | cut_off,
      looped=s.looped | looped,
    )

  def goes_on(carry):
    return (carry[0] < steps) & carry[1].going.any()

  _, speaking = jax.lax.while_loop(goes_on, step, (jnp.int32(0), speaking))
  speaking = time_units(params, cfg, speaking)
  frames, lost = final_frames(speaking)
  return speaking, Spoken(
    frames=frames,
    lost=lost,
    repeated=speaking.repeated.max(axis=1),
    **{
      name: jnp.copy(getattr(speaking, name))
      for name in ('going', 'num_words', 'num_units', 'unknown', 'dropped', 'cut_off', 'looped')
    },
  )


def unsay(
  cfg: EchoXConfig,
  spelling: Spelling,
  speaking: Speaking,
  row: Int[Array, ''],
  count: Int[Array, ''],
  temperature: Float[Array, ''],
) -> Speaking:
  """Takes back words that a loop has repeated; the ids before them stay in the cache.

  Args:
    cfg: the model.
    spelling: of the unit language.
    speaking: of all rows.
    row: a row that has `looped`.
    count: its newest words to take back, 1 or more.
    temperature: at which it goes on from there; 0 = it does not.
  """
  held = speaking.num_words[row] - speaking.unknown[row]
  _, behind = duration_context(cfg.vocoder.duration)
  # The last word that stays is taken back too and fed again, so that a new id is drawn after it.
  count += (temperature > 0) & (held > count)
  at, own = jnp.arange(speaking.words.shape[1]), speaking.words[row]
  gone = (at >= held - count) & (at < held)

  def less(name, by):
    return getattr(speaking, name).at[row].add(-by)

  num_units = less('num_units', jnp.sum(jnp.where(gone, spelling.lengths[own], 0)))
  return speaking.replace(
    num_words=less('num_words', count),
    num_units=num_units,
    timed=speaking.timed.at[row].min(jnp.maximum(num_units[row] - behind, 0)),
    dropped=less('dropped', jnp.sum(jnp.where(gone, spelling.dropped[own], 0))),
    step=less('step', count),
    token=speaking.token.at[row].set(cfg.llm.vocab_size + own[held - count]),
    repeated=conversations.cleared(speaking.repeated, row),
    temperature=speaking.temperature.at[row].set(temperature),
    going=speaking.going.at[row].set(temperature > 0),
    looped=speaking.looped.at[row].set(temperature <= 0),
  )


def sound(
  params: dict,
  cfg: EchoXConfig,
  speaking: Speaking,
  row: Int[Array, ''],
  begin: Int[Array, ''],
  window: int,
) -> Float[Array, ' S']:
  """Makes the sound, float32, of `window` frames of a row from `begin` on.

  Frames that are not final are silent. The last of a window are final if `vocoder.sound_context`
  frames behind it are, or the slice has ended: wait for more.
  """
  context, hop = sound_context(cfg.vocoder), cfg.vocoder.code_hop_size
  own = jax.tree.map(
    lambda field: jax.lax.dynamic_index_in_dim(field, row),
    {name: getattr(speaking, name) for name in ('units', 'durations', 'timed')},
  )
  budget = speaking.units.shape[1]
  durations = _final(own['durations'], own['timed'])
  frames, _, _ = repeat_units(own['units'], durations, budget)
  first = jnp.maximum(begin - context, 0)  # an inverse STFT begins with the slice itself
  at = first + jnp.arange(window + 2 * context)
  shown = (at < durations.sum())[None]
  at = jnp.minimum(at, budget - 1)
  units = jnp.where(shown, frames[:, at], 0)
  vocoder = UnitVocoder(cfg.vocoder).bind({'params': params['vocoder']})
  if cfg.vocoder.source_filter:
    pitch = vocoder.pitch(frames, jnp.arange(budget)[None] < durations.sum())
    start = excitation.start(pitch, first, hop, cfg.vocoder.sample_rate)
    wave = vocoder.generate(units, shown, pitch=jnp.where(shown, pitch[:, at], 0), start=start)
  else:
    wave = vocoder.generate(units, shown)
  return jax.lax.dynamic_slice_in_dim(wave[0], (begin - first) * hop, window * hop)


def final_frames(speaking: Speaking) -> tuple[Int[Array, ' R'], Int[Array, ' R']]:
  """Gives the frames of each row that are final, and those that find no room."""
  budget = speaking.units.shape[1]
  total = _final(speaking.durations, speaking.timed).sum(axis=1)
  return jnp.minimum(total, budget), jnp.maximum(total - budget, 0) + speaking.lost


def time_units(params: dict, cfg: EchoXConfig, speaking: Speaking) -> Speaking:
  """Predicts the durations of units whose neighbours are known by now: they are final."""
  before, behind = duration_context(cfg.vocoder.duration)
  most = speaking.units.shape[1]
  waiting = jnp.where(speaking.going, behind, 0)
  goal = jnp.maximum(speaking.num_units - waiting, 0)
  block = jnp.arange(min(_TIMED, most))
  around = jnp.arange(-before, len(block) + behind)
  rows = jnp.arange(speaking.units.shape[0])[:, None]

  def more(carry: tuple[Array, Array]) -> Array:
    return (carry[0] < goal).any()

  def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
    timed, durations = carry
    at = timed[:, None] + around
    there = (at >= 0) & (at < speaking.num_units[:, None])
    units = jnp.take_along_axis(speaking.units, jnp.clip(at, 0, most - 1), axis=1)
    found = UnitVocoder(cfg.vocoder).apply(
      {'params': params['vocoder']}, jnp.where(there, units, 0), there, method='durations'
    )[:, before : before + len(block)]
    place = timed[:, None] + block
    place = jnp.where(place < goal[:, None], place, most)  # out of range: dropped
    durations = durations.at[rows, place].set(jnp.minimum(found, most), mode='drop')
    return jnp.maximum(timed, jnp.minimum(timed + len(block), goal)), durations

  timed, durations = jax.lax.while_loop(more, step, (speaking.timed, speaking.durations))
  return speaking.replace(timed=timed, durations=durations)


def _final(durations: Array, timed: Array) -> Array:
  """int32[R,F], 0 where a duration may still change."""
  return jnp.where(jnp.arange(durations.shape[1]) < timed[:, None], durations, 0)
