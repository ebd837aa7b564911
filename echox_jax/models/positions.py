"""Positions: how long the rows of the LLM and of the unit decoders may become.

Rotary positions have no table that could run out: `max_positions` says how far a model was trained.
Training, answering and conversion all ask here, so that no row goes beyond it unnoticed.
"""

from collections.abc import Container

from echox_jax import errors, prompts
from echox_jax.config import EchoXConfig, EngineConfig


def speech(cfg: EchoXConfig) -> int:
  """Gives the positions that a clip takes at most, beside that of the AUDIO id whose place it
  takes.
  """
  return cfg.adapter.shrink_budget - 1


def question_room(cfg: EchoXConfig, max_new_tokens: int, audio: bool) -> int:
  """Says for how many ids of a question the LLM has positions beside the longest speech and
  answer.
  """
  return cfg.llm.max_positions - max_new_tokens - (speech(cfg) if audio else 0)


def slice_row(cfg: EchoXConfig, words: int) -> int:
  """Gives the positions of the unit decoder that the longest slice takes with `words` unit words,
  BOS and EOT.
  """
  profile = prompts.get_profile(cfg.profile)
  prefix = prompts.slice_prefix(cfg.special_ids, profile)
  suffix = prompts.slice_suffix(cfg.special_ids, profile)
  return len(prefix) + cfg.streaming.max_slice_tokens + len(suffix) + words + 2


def max_unit_words(cfg: EchoXConfig, budget: int) -> int:
  """Gives the unit words of a slice: `budget`, or as many as there are positions for.

  A slice that needs more is cut off and counted like any that exceeds its budget.
  """
  return min(budget, cfg.unit_decoder.trunk.max_positions - slice_row(cfg, 0))


def check(cfg: EchoXConfig, engine: EngineConfig, groups: Container[str]) -> None:
  """Checks that a model has positions for the answers that its budgets allow.

  Args:
    cfg: the model.
    engine: the budgets.
    groups: the parameter groups that it has; without an adapter it hears nothing, without an echo
      decoder it says nothing.

  Raises:
    ConfigError: no question fits beside an answer, or no unit word beside a slice.
  """
  hears = 'adapter' in groups
  if 'llm' in groups and question_room(cfg, engine.max_new_tokens, hears) < 1:
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
