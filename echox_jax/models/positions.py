"""Position limits: the maximum row lengths of the LLM and of the unit decoders.

Rotary positions have no table that could run out; `max_positions` is the context length of
training. Training, inference and conversion all use this module, so no row exceeds it unnoticed.
"""

from collections.abc import Container

import jax
import jax.numpy as jnp

from echox_jax import errors, prompts
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.models.arrays import Array, Int
from echox_jax.models.attention import segment_positions


def speech(cfg: EchoXConfig) -> int:
  """Returns the maximum number of positions that a clip adds to the one of its AUDIO id."""
  return cfg.adapter.shrink_budget - 1


def question_room(cfg: EchoXConfig, slots: int, max_new_tokens: int, audio: bool) -> int:
  """Returns the LLM positions left for the ids of a question after the longest speech and
  answer.
  """
  return slots - max_new_tokens - (speech(cfg) if audio else 0)


def slice_row(cfg: EchoXConfig, words: int) -> int:
  """Returns the unit decoder positions of the longest slice with `words` unit words, BOS and
  EOT.
  """
  profile = prompts.get_profile(cfg.profile)
  prefix = prompts.slice_prefix(cfg.special_ids, profile)
  suffix = prompts.slice_suffix(cfg.special_ids, profile)
  return len(prefix) + longest_slice(cfg) + len(suffix) + words + 2


def longest_slice(cfg: EchoXConfig) -> int:
  """Returns the tokens of the longest slice as the unit decoder reads it."""
  return cfg.streaming.max_slice_tokens + bool(cfg.unit_decoder.closing_ids)


def max_unit_words(cfg: EchoXConfig, budget: int) -> int:
  """Returns the maximum unit words of a slice: `budget`, or the number that fits the positions.

  A slice that needs more is cut off and counted, like any slice over budget.
  """
  return min(budget, cfg.unit_decoder.trunk.max_positions - slice_row(cfg, 0))


def check(cfg: EchoXConfig, engine: EngineConfig, groups: Container[str]) -> None:
  """Checks that a model has enough positions for the answers that its budgets allow.

  Args:
    cfg: the model.
    engine: the budgets.
    groups: the parameter groups of the model; it needs an adapter to hear and an echo decoder to
      speak.

  Raises:
    ConfigError: there is no position left for a question or for a unit word.
  """
  hears = 'adapter' in groups
  if (
    'llm' in groups and question_room(cfg, cfg.llm.max_positions, engine.max_new_tokens, hears) < 1
  ):
    beside = f' and adapter.shrink_budget {cfg.adapter.shrink_budget}' if hears else ''
    raise errors.ConfigError(
      f'the model has no position for a question beside engine.max_new_tokens '
      f'{engine.max_new_tokens}{beside}, since llm.max_positions is {cfg.llm.max_positions}: '
      'lower the budgets.'
    )
  if 'echo' in groups and max_unit_words(cfg, engine.max_unit_words) < 1:
    raise errors.ConfigError(
      'the model has no position for a unit word beside streaming.max_slice_tokens '
      f'{cfg.streaming.max_slice_tokens}, since unit_decoder.trunk.max_positions is '
      f'{cfg.unit_decoder.trunk.max_positions}: lower it in the config of the model.'
    )


def of_unit_rows(
  cfg: EchoXConfig, ids: Int[Array, 'B T'], segments: Int[Array, 'B T'] | None
) -> Int[Array, 'B T']:
  """Returns the rotary positions of whole rows of the unit decoder.

  Args:
    cfg: its `unit_decoder.text_stride` determines them.
    ids: text and unit words, the latter behind BOS.
    segments: of packed rows, each with its own positions; None = one a row.
  """
  segments = jnp.zeros_like(ids) if segments is None else segments
  plain = segment_positions(segments)
  stride = cfg.unit_decoder.text_stride
  if not stride:
    return plain
  words = ids >= cfg.llm.vocab_size
  begins = jnp.pad(~words[:, :-1] & words[:, 1:], ((0, 0), (0, 1)))  # BOS
  at = jnp.arange(ids.shape[1])
  since = at - jax.lax.cummax(jnp.where(begins, at, -1), axis=1)
  return jnp.where(since <= plain, since, stride * plain)
