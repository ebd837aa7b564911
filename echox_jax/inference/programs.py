"""The programs that answering takes, compiled for the static sizes of a model and its budgets.

`Programs` holds nothing but functions of (params, state, ...). `launch.compile_check` lowers the
same ones.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax

from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import conversations, speaking
from echox_jax.inference import steps
from echox_jax.models import echox, llama, lora, positions
from echox_jax.models.arrays import Array
from echox_jax.models.llama import apply_llm

# Vectors of AVX-512 machines: XLA takes shorter ones unless told. It helps products of one row and
# slows down those of many, so only decoding is compiled so.
_CPU_DECODING = {'xla_cpu_prefer_vector_width': 512}


def prepare(params: dict, cfg: EchoXConfig, on_cpu: bool) -> tuple[dict, EchoXConfig]:
  """Makes parameters ready for answering: LoRA folded in, and on a CPU layers taken apart.

  Returns:
    The parameters and the config that fits them.
  """
  params = dict(params)
  if 'llm' in params and cfg.llm.lora.rank:
    params['llm'] = lora.merge(params['llm'], cfg.llm.lora)
    cfg = lora.merged_config(cfg)
  if on_cpu:
    for group in ('llm', 'echo'):
      if group in params:
        params[group] = llama.separate_layers(params[group])
  return params, cfg


class Programs:
  """Jitted functions; each takes the parameters first.

  Args:
    cfg: of `prepare`.
    budgets: static sizes.
    on_cpu: whether the parameters were prepared for a CPU.
  """

  def __init__(self, cfg: EchoXConfig, budgets: EngineConfig, on_cpu: bool):
    self._cfg, self._budgets, self._on_cpu = cfg, budgets, on_cpu
    self.slots = min(budgets.max_context, cfg.llm.max_positions)
    self.max_words = positions.max_unit_words(cfg, budgets.max_unit_words)
    decoding = {'compiler_options': _CPU_DECODING} if on_cpu else {}

    def jitted(function: Callable[..., Any], *sizes: int, **options: Any) -> Callable[..., Any]:
      """`function(params, cfg, *sizes, ...)` as a function of (params, ...)."""
      return jax.jit(lambda params, *args: function(params, cfg, *sizes, *args), **options)

    self.hear = jitted(_hear)
    self.read_first = jitted(functools.partial(_read, fresh=True), donate_argnums=1)
    self.read_further = jitted(functools.partial(_read, fresh=False), donate_argnums=1)
    self.decode_chunk = jitted(
      conversations.decode_chunk, budgets.first_slice_tokens, donate_argnums=1, **decoding
    )
    self.forget = jax.jit(conversations.forget, donate_argnums=0)
    self.begin_slice = jitted(_begin_slice, budgets.words_per_token, donate_argnums=1)
    self.speak_chunk = jitted(_speak_chunk, budgets.loop_times, donate_argnums=2, **decoding)
    self.unsay = jitted(_unsay, donate_argnums=2)
    self.sound = {
      frames: jitted(functools.partial(speaking.sound, window=frames))
      for frames in {budgets.first_window, budgets.window}
    }
    self.durations, self.wave = jitted(steps.durations), jitted(steps.wave)

  def conversations(self) -> conversations.Conversations:
    """Makes an empty state of the LLM."""
    return conversations.empty(
      self._cfg, self._budgets.conversations, self.slots, self._budgets.max_new_tokens, self._on_cpu
    )

  def speaking(self) -> speaking.Speaking:
    """Makes an empty state of the echo decoder."""
    return speaking.empty(
      self._cfg,
      speaking_rows(self._budgets),
      self.max_words,
      self._budgets.max_frames,
      self._on_cpu,
    )


def speaking_rows(budgets: EngineConfig) -> int:
  """Slices spoken at once: one a conversation, and two of one whose text has ended."""
  return max(2, budgets.conversations)


def _hear(params: dict, cfg: EchoXConfig, audio: Array, lengths: Array) -> Any:
  """Sound float32[1,S] -> what the LLM hears."""
  states, state_lengths = steps.encode(params, cfg, audio, lengths)
  return steps.embed(params, cfg, states, state_lengths)


def _read(
  params: dict,
  cfg: EchoXConfig,
  state: conversations.Conversations,
  row: Array,
  ids: Array,
  heard: Any,
  sampling: Any,
  limit: Array,
  fresh: bool,
) -> conversations.Conversations:
  """Reads a question int32[1,T], with speech in the place of its AUDIO id."""
  embeddings = apply_llm(params, cfg, 'embed', ids)
  spliced = echox.splice(cfg, ids, embeddings, heard)
  return conversations.read(params, cfg, state, row, spliced, sampling, limit, fresh)


def _begin_slice(
  params: dict,
  cfg: EchoXConfig,
  words_per_token: int,
  said: speaking.Speaking,
  row: Array,
  states: Array,
  conversation: Array,
  start: Array,
  stop: Array,
  temperature: Array,
) -> speaking.Speaking:
  """`states` float[B,A,D] of all conversations."""
  own = jax.lax.dynamic_index_in_dim(states, conversation, keepdims=False)
  return speaking.begin_slice(
    params, cfg, said, row, own, start, stop, temperature, words_per_token
  )


def _speak_chunk(
  params: dict,
  cfg: EchoXConfig,
  loop_times: int,
  spelling: speaking.Spelling,
  said: speaking.Speaking,
  active: Array,
  count: Array,
) -> tuple[speaking.Speaking, speaking.Spoken]:
  """`active` bool[R]: rows that somebody still listens to."""
  said = said.replace(going=said.going & active)
  return speaking.speak_chunk(params, cfg, loop_times, spelling, said, count)


def _unsay(params: dict, cfg: EchoXConfig, *args: Any) -> speaking.Speaking:
  """Takes the parameters like all programs, though it needs none."""
  del params
  return speaking.unsay(cfg, *args)
