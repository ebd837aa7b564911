"""The table of training stages: their parameter groups, trained and frozen parts, checkpoints to
start from, and losses.

The paper has three stages. S2T trains the adapter and LoRA. T2C trains the unit decoder on frozen
text embeddings. Echo training trains adapter, LoRA, echo decoder and denoising adapter against the
frozen T2C. Here, `text` pretrains LLMs that are trained from scratch, `align` teaches the adapter
the words before the LLM listens, and `vocoder` is independent of the other stages.
"""

from collections.abc import Callable, Iterable
import dataclasses
import re
from typing import Any

from echox_jax import errors
from echox_jax.training import align_step, echo_step, s2t_step, vocoder_step
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import spelling

_LORA = r'llm/.*/lora_[ab]'
_LLM_BASE = r'llm/(?!.*/lora_[ab]$).*'
UNIT_TEXT = 'unit_text_embedding'  # the group that holds the table `unit_decoder.text_table` names
TEXT_TABLE = 'llm/TEXT_TABLE'  # placeholder for the table that `unit_decoder.text_table` names
TEXT_TABLES = ('embed_tokens', 'lm_head', spelling.NAME)  # no checkpoint has the last one


@dataclasses.dataclass(frozen=True)
class Stage:
  """One row of the table. Patterns are regular expressions that match a whole path, e.g.
  `llm/trunk/norm/scale`.

  Attributes:
    name: the name in configs and folders.
    groups: parameter groups that the stage holds.
    trainable: patterns of the trained parameters; all others are frozen: no gradient, no optimizer
      state.
    starts_from: stages whose checkpoints it starts from (default of `init_from`).
    inherits: groups that must come from these checkpoints; other groups start fresh if no
      checkpoint has them.
    copies: (group, source path) pairs: the group starts as a copy; for `TEXT_TABLE` the config
      names the path.
    uses_speech: holds the speech encoder too, unless its states are cached.
    loss: (params, batch, dropout key, experiment) -> (loss, metrics).
    optimizers: groups trained against each other, each with its own optimizer; empty = one
      optimizer for all.
  """

  name: str
  groups: tuple[str, ...]
  trainable: tuple[str, ...]
  loss: Callable[..., Any]
  starts_from: tuple[str, ...] = ()
  inherits: tuple[str, ...] = ()
  copies: tuple[tuple[str, str], ...] = ()
  uses_speech: bool = False
  optimizers: tuple[str, ...] = ()

  def groups_for(self, experiment: ExperimentConfig) -> tuple[str, ...]:
    """Returns the groups that the stage holds with this config."""
    spelled = experiment.model.adapter.spelled_ctc and 'adapter' in self.groups
    more = {UNIT_TEXT: spelled, 'whisper': self.uses_speech and not experiment.data.cached_states}
    return self.groups + tuple(g for g, held in more.items() if held and g not in self.groups)

  def copies_for(self, experiment: ExperimentConfig) -> dict[str, str]:
    """Returns {group: path that it starts as a copy of} with this config.

    Raises:
      ConfigError: `unit_decoder.text_table` names no table of the LLM.
    """
    table = experiment.model.unit_decoder.text_table
    if table not in TEXT_TABLES:
      raise errors.ConfigError(
        f'model.unit_decoder.text_table is {table!r}: use one of {", ".join(TEXT_TABLES)}.'
      )
    found = 'embed_tokens' if experiment.model.llm.tie_embeddings else table
    return {
      group: f'llm/{found}' if origin == TEXT_TABLE else origin
      for group, origin in self.copies
      if origin != TEXT_TABLE or table != spelling.NAME
    }


STAGES = {
  stage.name: stage
  for stage in (
    Stage('text', groups=('llm',), trainable=(_LLM_BASE,), loss=s2t_step.text_loss),
    Stage(
      'align',
      groups=('llm', 'adapter'),
      trainable=('adapter/.*',),
      loss=align_step.align_loss,
      starts_from=('text',),
      inherits=('llm',),
      uses_speech=True,
    ),
    Stage(
      's2t',
      groups=('llm', 'adapter'),
      trainable=('adapter/.*', _LORA),
      loss=s2t_step.s2t_loss,
      starts_from=('text',),
      inherits=('llm',),
      uses_speech=True,
    ),
    Stage(
      't2c',
      groups=(UNIT_TEXT, 't2c'),
      trainable=('t2c/.*',),
      loss=echo_step.t2c_loss,
      starts_from=('text',),
      inherits=(UNIT_TEXT,),
      copies=((UNIT_TEXT, TEXT_TABLE),),
    ),
    Stage(
      'echo',
      groups=('llm', 'adapter', UNIT_TEXT, 't2c', 'echo', 'denoising_adapter'),
      trainable=('adapter/.*', _LORA, 'echo/.*', 'denoising_adapter/.*'),
      loss=echo_step.echo_loss,
      starts_from=('s2t', 't2c'),
      inherits=('llm', 'adapter', UNIT_TEXT, 't2c'),
      copies=(('echo', 't2c'),),
      uses_speech=True,
    ),
    Stage(
      'vocoder',
      groups=('vocoder', 'discriminators'),
      trainable=('vocoder/.*', 'discriminators/.*'),
      loss=vocoder_step.generator_loss,
      optimizers=('vocoder', 'discriminators'),
    ),
  )
}


def get_stage(name: str) -> Stage:
  """Returns the stage called `name`.

  Raises:
    ConfigError: there is no such stage.
  """
  if name not in STAGES:
    raise errors.ConfigError(f'stage {name!r} is unknown: use one of {", ".join(STAGES)}.')
  return STAGES[name]


def trainable_paths(
  stage: Stage, paths: Iterable[str], only: tuple[str, ...] = ()
) -> frozenset[str]:
  """Returns the subset of `paths` that the stage trains, or with `train.only` the part of it that
  these patterns match.

  Raises:
    ConfigError: a pattern matches no path, so the model lacks parameters that the stage trains; or
      `only` names a pattern that the stage does not train.
  """
  stray = [pattern for pattern in only if pattern not in stage.trainable]
  if stray:
    raise errors.ConfigError(
      f'train.only names {stray[0]!r}, which stage {stage.name!r} does not train: use some of '
      f'{", ".join(stage.trainable)}.'
    )
  paths = list(paths)
  found = frozenset()
  for pattern in only or stage.trainable:
    matched = frozenset(p for p in paths if re.fullmatch(pattern, p))
    if not matched:
      hint = ' (set model.llm.lora.rank above 0)' if pattern == _LORA else ''
      raise errors.ConfigError(
        f'stage {stage.name!r} trains the parameters {pattern!r}, but this model has none: '
        f'change the model config{hint}.'
      )
    found |= matched
  return found
