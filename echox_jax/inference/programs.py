"""The programs that answering takes, compiled for the static sizes of a model and its budgets.

`Programs` holds nothing but functions of (params, state, ...). `launch.compile_check` lowers the
same ones.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from echox_jax import prompts
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import conversations, speaking
from echox_jax.inference import compiled, hearing, placement, steps
from echox_jax.inference.questions import bucket
from echox_jax.models import echox, positions
from echox_jax.models.adapter import EmbeddedSpeech
from echox_jax.models.arrays import Array, Int
from echox_jax.models.llama import apply_llm
from echox_jax.parallel.sharding import take_row
from echox_jax.units.unit_language import UnitLanguage

# Vectors of AVX-512 machines: XLA takes shorter ones unless told. It helps products of one row and
# slows down those of many, so only decoding is compiled so.
_CPU_DECODING = {'xla_cpu_prefer_vector_width': 512}


class Programs:
  """Jitted functions; each takes the parameters first.

  Args:
    cfg: of `placement.prepare`.
    budgets: static sizes.
    mesh: what everything is split over; None = one device.

  Raises:
    ConfigError: the LLM cannot choose among `engine.hypotheses`.
  """

  def __init__(self, cfg: EchoXConfig, budgets: EngineConfig, mesh: Mesh | None = None):
    hearing.check(cfg, budgets)
    self._cfg, self._budgets, self.mesh = cfg, budgets, mesh
    self._on_cpu = mesh is None and jax.default_backend() == 'cpu'
    self.slots = min(budgets.max_context, cfg.llm.max_positions)
    self.max_words = positions.max_unit_words(cfg, budgets.max_unit_words)
    decoding = {'compiler_options': _CPU_DECODING} if self._on_cpu else {}
    thinks, says = self._shardings(self._conversations), self._shardings(self._speaking)

    self._folder = None if mesh else compiled.folder(cfg, budgets)

    def using(
      name: str, state: Any, function: Callable[..., Any], *sizes: int, also: tuple = (), **options
    ) -> Callable[..., Any]:
      """A function that uses up a state, argument 1, and returns the next, where `state` says."""
      where = (state, *also) if also else state
      options = dict(donate_argnums=1, out_shardings=where, **options)
      return self.jitted(name, function, *sizes, fixed=2, **options)

    self._samples = steps.buckets(cfg, budgets).samples
    self.hear = self.jitted('hear', functools.partial(hearing.hear, budgets))
    self.choose_among = {
      nodes: self.jitted(f'choose_{nodes}', functools.partial(hearing.choose, budgets, nodes))
      for nodes in steps.buckets(cfg, budgets).nodes
    }
    self.cut = {
      slots: self.jitted(f'cut_{slots}', functools.partial(_cut, slots))
      for slots in steps.buckets(cfg, budgets).slots
    }
    # On accelerators it would take as long, and flash kernels only read what is whole.
    self.knows_opening = (
      self._on_cpu and not prompts.get_profile(cfg.profile).mask_prompt_eot  # seen alike by all
    )
    self.read_opening = self.jitted('read_opening', conversations.read_opening)
    self.read_first = using(
      'read_first', thinks, functools.partial(_read, conversations.read_first)
    )
    self.read_further = using(
      'read_further', thinks, functools.partial(_read, conversations.read_further)
    )
    ends = dict(ending_ids=budgets.ending_ids, loop_times=budgets.text_loop_times)
    think = functools.partial(conversations.decode_chunk, **ends)
    self.decode_chunk = using(
      'decode_chunk',
      thinks,
      functools.partial(_of_rows, think),
      budgets.first_slice_tokens,
      also=(None,),
      **decoding,
    )
    self.forget = using('forget', thinks, _forget)
    self.begin_slice = using('begin_slice', says, _begin_slice, budgets.words_per_token)
    self.speak_chunk = using(
      'speak_chunk',
      says,
      functools.partial(_of_rows, _speak_chunk),
      budgets.loop_times,
      also=(None,),
      **decoding,
    )
    self.unsay = using('unsay', says, _unsay)
    self.least_windows = (budgets.first_window, budgets.window)  # longer ones only save work
    self.sound = {
      frames: self.jitted(f'sound_{frames}', functools.partial(speaking.sound, window=frames))
      for frames in {*self.least_windows, *steps.windows(budgets)}
    }
    self.durations = self.jitted('durations', steps.durations)
    self.wave = self.jitted('wave', steps.wave)

  def jitted(
    self, name: str, function: Callable[..., Any], *sizes: int, fixed: int = 1, **options: Any
  ) -> compiled.Program | placement.OnMesh:
    """`function(params, cfg, *sizes, ...)` as a program of (params, ...).

    Args:
      name: of the program.
      function: pure.
      sizes: static ones.
      fixed: see `compiled.Program`.
      options: of `jax.jit`.
    """
    made = jax.jit(lambda params, *args: function(params, self._cfg, *sizes, *args), **options)
    if self.mesh is not None:
      return placement.OnMesh(made, self.mesh)
    return compiled.Program(made, name, self._folder, fixed, **options)

  def listen(
    self, params: dict, waves: Sequence[np.ndarray]
  ) -> tuple[EmbeddedSpeech, Int[Array, 'Q L']]:
    """Recordings at 16 kHz, float32, none longer than the largest size -> (what the LLM hears, CTC
    labels of its slots). Where the programs of the fitting size are not compiled yet, those of a
    larger one do the work.
    """
    lengths = np.asarray([len(wave) for wave in waves], np.int32)

    def hears(size: int) -> bool:
      sound = jax.ShapeDtypeStruct((len(waves), size), np.float32)
      return compiled.is_ready(self.hear, params, sound, lengths)

    def chooses(nodes: int) -> bool:
      return compiled.is_ready(self.choose_among[nodes], params, found)

    size = bucket(self._samples, int(lengths.max()), hears)
    padded_waves = np.stack([np.pad(wave, (0, size - len(wave))) for wave in waves])
    found = self.hear(params, padded_waves, lengths)
    if not self.choose_among:
      return found
    sizes, needed = tuple(self.choose_among), int(jax.device_get(found.nodes).max())
    return self.choose_among[bucket(sizes, min(needed, sizes[-1]), chooses)](params, found)

  def widths(self, number: int) -> Sequence[int]:
    """How many of `number` rows a chunk can work for, in ascending order. On a CPU it takes longer,
    the more there are.
    """
    return [*(own for own in (1, 4) if self._on_cpu and own < number), number]

  def rows(self, wanted: Sequence[int], number: int) -> Int[np.ndarray, ' W']:
    """The fewest of `number` rows that a chunk can work for, so that `wanted` are among them."""
    width = next(own for own in self.widths(number) if own >= len(wanted))
    others = [row for row in range(number) if row not in wanted]
    chosen = [*wanted, *others][:width] if width < number else range(number)
    return np.asarray(chosen, np.int32)

  def new_conversations(self) -> conversations.Conversations:
    """Makes an empty state of the LLM."""
    return self._made(self._conversations)

  def new_speaking(self) -> speaking.Speaking:
    """Makes an empty state of the echo decoder."""
    return self._made(self._speaking)

  def abstract_states(self) -> tuple[conversations.Conversations, speaking.Speaking]:
    """Returns the shapes of both states, and on a mesh their shardings."""

    def of(empty):
      shapes = jax.eval_shape(empty)
      if self.mesh is None:
        return shapes
      return jax.tree.map(
        lambda leaf, where: leaf.update(sharding=where), shapes, self._shardings(empty)
      )

    return of(self._conversations), of(self._speaking)

  def _conversations(self) -> conversations.Conversations:
    return conversations.empty(
      self._cfg, self._budgets.conversations, self.slots, self._budgets.max_new_tokens, self._on_cpu
    )

  def _speaking(self) -> speaking.Speaking:
    return speaking.empty(
      self._cfg,
      speaking_rows(self._budgets, self._on_cpu),
      self.max_words,
      self._budgets.max_frames,
      self._on_cpu,
    )

  def _shardings(self, empty: Callable[[], Any]) -> Any:
    """Where a state is on the mesh."""
    if self.mesh is None:
      return None
    return placement.of_state(jax.eval_shape(empty), self.mesh)

  def _made(self, empty: Callable[[], Any]) -> Any:
    return jax.jit(empty, out_shardings=self._shardings(empty))()


def speaking_rows(budgets: EngineConfig, on_cpu: bool = False) -> int:
  """Slices spoken at once: one a conversation, and two of one whose text has ended, but on a CPU,
  where two rows take as long as one after the other.
  """
  return budgets.conversations if on_cpu else max(2, budgets.conversations)


def _cut(slots: int, params: dict, cfg: EchoXConfig, heard: EmbeddedSpeech) -> EmbeddedSpeech:
  """The first slots of speech, in which all of it is: reading takes as long as there are slots."""
  del params, cfg
  return heard._replace(embeddings=heard.embeddings[:, :slots])


def _read(
  read: Callable[..., conversations.Conversations],
  params: dict,
  cfg: EchoXConfig,
  state: conversations.Conversations,
  rows: Array,
  ids: Array,
  heard: Any,
  sampling: Any,
  limits: Array,
  *opening: Any,
) -> conversations.Conversations:
  """Reads questions int32[Q,T], with speech in the place of their AUDIO ids."""
  embeddings = apply_llm(params, cfg, 'embed', ids)
  spliced = echox.splice(cfg, ids, embeddings, heard)
  return read(params, cfg, state, rows, spliced, sampling, limits, *opening)


def _of_rows(
  chunk: Callable[..., tuple[Any, Any]],
  params: dict,
  cfg: EchoXConfig,
  size: int,
  state: Any,
  rows: Array,
  *args: Any,
) -> tuple[Any, Any]:
  """Runs a chunk for some rows, int32[W], alone; the others stay as they are. As many as there are
  are taken in their order.
  """
  if rows.shape[0] == state.keys.shape[0]:
    return chunk(params, cfg, size, state, *args)
  some, seen = chunk(params, cfg, size, conversations.take_rows(state, rows), *args)
  return conversations.put_rows(state, some, rows), seen


def _begin_slice(
  params: dict,
  cfg: EchoXConfig,
  words_per_token: int,
  said: speaking.Speaking,
  row: Array,
  written: conversations.Written,
  conversation: Array,
  start: Array,
  stop: Array,
  temperature: Array,
) -> speaking.Speaking:
  """`written`: of all conversations."""
  states, ids = (take_row(x, conversation)[0] for x in written)
  return speaking.begin_slice(
    params, cfg, said, row, states, ids, start, stop, temperature, words_per_token
  )


def _forget(
  params: dict, cfg: EchoXConfig, state: conversations.Conversations, row: Array
) -> conversations.Conversations:
  """Takes the parameters like all programs, though it needs none."""
  del params, cfg
  return conversations.forget(state, row)


def _speak_chunk(
  params: dict,
  cfg: EchoXConfig,
  loop_times: int,
  said: speaking.Speaking,
  spelling: speaking.Spelling,
  active: Array,
  count: Array,
) -> tuple[speaking.Speaking, speaking.Spoken]:
  """`active` bool[W]: rows that somebody still listens to."""
  said = said.replace(going=said.going & active)
  return speaking.speak_chunk(params, cfg, loop_times, spelling, said, count)


def _unsay(
  params: dict,
  cfg: EchoXConfig,
  said: speaking.Speaking,
  spelling: speaking.Spelling,
  row: Array,
  count: Array,
  temperature: Array,
) -> speaking.Speaking:
  """Takes the parameters like all programs, though it needs none."""
  del params
  return speaking.unsay(cfg, spelling, said, row, count, temperature)


def spelling(language: UnitLanguage, cfg: EchoXConfig) -> speaking.Spelling:
  """Makes the arrays of a model's unit language, in numpy."""
  words = [language.decode([i]).tolist() for i in range(language.vocab_size)]
  limit = prompts.get_profile(cfg.profile).unit_id_limit
  return speaking.spelling(words, cfg.unit_decoder.unit_vocab_size, limit)
