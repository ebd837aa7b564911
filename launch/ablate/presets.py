"""What an ablation varies: one frozen table, a line for each variant.

A cell is a variant and a seed. Every cell trains the stage `echo` for the same number of steps,
from the same earlier stages, and differs from the variant `echo` in the fields that its line names.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any

from echox_jax import errors

BASE = 'echo'  # the variant that all others are compared with
_CONFIGS = Path(__file__).parents[2] / 'configs'

STREAMING = 'e'  # the block that trains nothing: it cuts the answers of finished cells
QUESTIONS = {  # by block, in the order of work: what matters most comes first
  'a': 'What teaches the echo decoder to speak',
  STREAMING: 'Streaming: where the answer is cut',
  'b': 'Weight of the denoising loss',
  'c': "Source of the text X' of the pseudo-labels",
  'g': 'Hours of spoken questions in echo training',
  'd': 'Unit language',
  'f': 'Speech adapter',
}


@dataclasses.dataclass(frozen=True)
class Variant:
  """One line of the table.

  Attributes:
    block: the question that it belongs to, a key of `QUESTIONS`.
    name: of its cells.
    what: the same in words, for the tables.
    echo: fields of the config that differ in stage `echo`.
    model: fields that differ in all stages of its own.
    own: earlier parts that it needs of its own: `precompute`, `s2t`, `t2c`.
    t2c: fields that differ in its own stage `t2c`.
    trains: False = nothing is trained: the frozen text-to-codec model speaks.
  """

  block: str
  name: str
  what: str
  echo: tuple[str, ...] = ()
  model: tuple[str, ...] = ()
  own: tuple[str, ...] = ()
  t2c: tuple[str, ...] = ()
  trains: bool = True


@dataclasses.dataclass(frozen=True)
class Cutting:
  """One way of cutting answers into slices: fields of the model's `streaming`, and the budget
  `first_slice_tokens`.
  """

  name: str
  what: str
  streaming: tuple[tuple[str, float], ...] = ()
  first_slice_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Preset:
  """A whole ablation.

  Attributes:
    config: file of the model and its stages.
    seeds: of the cells.
    questions: test questions of each split (heard, unheard) that every cell answers.
    corpus: arguments of `build.build_corpus`.
    stages: fields that differ from the config, by stage; `echo` holds for all cells.
    variants, cuttings: the table.
  """

  config: Path
  seeds: tuple[int, ...]
  questions: int
  corpus: Mapping[str, Any]
  stages: Mapping[str, tuple[str, ...]]
  variants: tuple[Variant, ...]
  cuttings: tuple[Cutting, ...]


NEVER = 10**6  # tokens: no answer is so long, so none is cut
_NEVER = (('min_tokens', NEVER), ('min_tokens_above_threshold', NEVER))
_WHOLE = tuple(f'model.streaming.{name}={value}' for name, value in _NEVER)
_RECORDED = (*_WHOLE, 'train.loss.echo_targets=recorded', 'data.max_unit_words=96')

VARIANTS = (
  Variant('a', 'echo', 'echo training'),
  Variant(
    'a',
    'conventional',
    'conventional training on recorded speech',
    echo=(*_RECORDED, 'train.loss.denoising_weight=0.0'),
  ),
  Variant(
    'a', 'conventional_denoised', 'conventional training with the denoising loss', echo=_RECORDED
  ),
  Variant('a', 'cascade', 'the cascade (the frozen T2C reads the text)', trains=False),
  Variant('a', 'untrained', 'no training (the frozen T2C takes the S2T states)', trains=False),
  Variant('b', 'lambda_0', 'λ = 0', echo=('train.loss.denoising_weight=0.0',)),
  Variant('b', 'lambda_0.3', 'λ = 0.3', echo=('train.loss.denoising_weight=0.3',)),
  Variant('b', 'lambda_3', 'λ = 3', echo=('train.loss.denoising_weight=3.0',)),
  Variant('c', 'gold', 'the given answer (gold)', echo=('train.loss.echo_text=gold',)),
  Variant(
    'c', 'generate', 'the generated answer (generate)', echo=('train.loss.echo_text=generate',)
  ),
  Variant(
    'd',
    'plain',
    'plain units',
    model=('model.units.language=plain', 'engine.max_unit_words=192'),
    echo=('data.max_unit_words=136',),
    t2c=('data.max_unit_words=192', 'data.max_tokens=224'),
    own=('precompute', 't2c'),
  ),
  Variant('d', 'bpe', 'BPE', model=('model.units.language=bpe',), own=('precompute', 't2c')),
  Variant(
    'f', 'released', 'the released adapter', model=('model.adapter.variant=released',), own=('s2t',)
  ),
  Variant('g', 'hours_25', '25 % of the questions', echo=('data.spoken_share=0.25',)),
  Variant('g', 'hours_50', '50 % of the questions', echo=('data.spoken_share=0.5',)),
)
# What `echo` is among the variants of each question.
AS_BASE = {
  'b': 'λ = 1',
  'c': 'the likeliest tokens (argmax)',
  'd': 'the n-gram unit language',
  'f': 'the adapter of the paper',
  'g': '100 % of the questions',
}
CUTTINGS = (
  Cutting('offline', 'offline', _NEVER),
  Cutting('threshold_0.8', 'threshold 0.8', (('threshold', 0.8),)),
  Cutting('threshold_0.5', 'threshold 0.5 (as in training)', (('threshold', 0.5),)),
  Cutting('threshold_0.2', 'threshold 0.2', (('threshold', 0.2),)),
  Cutting('first_6', 'threshold 0.5 with a first slice after 6 tokens', (('threshold', 0.5),), 6),
  Cutting('first_4', 'threshold 0.5 with a first slice after 4 tokens', (('threshold', 0.5),), 4),
)

# Echo and conventional training take the same rows: the facts whose answers are recorded in
# `answers/train`. No stage hears the answers of `answers/holdout`: these facts are unheard.
_NANO = Preset(
  config=_CONFIGS / 'echox_nano.py',
  seeds=(0, 1, 2),
  questions=64,
  corpus={},
  stages={
    't2c': ("data.sets=('answers/train',)", 'train.steps=700', 'train.checkpoint_every=350'),
    'echo': (
      "data.recordings=('answers/train',)",
      'data.eval_sets=()',
      'train.eval_every=0',
      'train.steps=100',  # 400 in the demo: 39 cells fit into 150 minutes
      'train.checkpoint_every=50',
      'train.optimizer.warmup_steps=10',
      'train.optimizer.learning_rate=1e-3',
    ),
  },
  variants=VARIANTS,
  cuttings=CUTTINGS,
)
_TINY = Preset(
  config=_CONFIGS / 'echox_tiny.py',
  seeds=(0, 1),
  questions=4,
  corpus=dict(max_facts=12, extra_sentences=4, test_facts=6, holdout_facts=4, workers=1),
  stages={'t2c': ("data.sets=('answers/train',)",), 'echo': _NANO.stages['echo'][:3]},
  variants=VARIANTS[:5],
  cuttings=(CUTTINGS[0], CUTTINGS[2], CUTTINGS[5]),
)
PRESETS = {'nano': _NANO, 'tiny': _TINY}


def blocks(preset: Preset) -> tuple[str, ...]:
  """The blocks of a preset, in the order of work."""
  found = {variant.block for variant in preset.variants}
  return tuple(block for block in QUESTIONS if block in found or block == STREAMING)


def chosen(preset: Preset, option: str) -> tuple[str, ...]:
  """The blocks that an option such as `a,e` names, in the order of work.

  Raises:
    ConfigError: the preset has no such block.
  """
  names, there = option.split(','), blocks(preset)
  if not set(names) <= set(there):
    raise errors.ConfigError(f'--only is {option!r}: give any of {",".join(sorted(there))}.')
  return tuple(block for block in there if block in names)


def get_preset(name: str) -> Preset:
  """Returns the preset called `name`.

  Raises:
    ConfigError: there is no such preset.
  """
  if name not in PRESETS:
    raise errors.ConfigError(f'there is no preset {name!r}: use one of {", ".join(PRESETS)}.')
  return PRESETS[name]
