"""What the cells of an ablation show: scores and paired differences with intervals, as rows of
tables, and in plain words.

A record is one question and its answer (`launch.ablate.answering.records`). All cells answer the
same questions in the same order. Intervals are for other questions and other seeds
(`intervals.bootstrap_mean`).
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from echox_jax import errors
from echox_jax.evaluation.intervals import Interval, bootstrap_mean, paired_bootstrap

Record = Mapping[str, Any]
# Of one variant, by seed and question; the seed None: nothing was trained, so there are no seeds.
Answers = Mapping[int | None, Sequence[Record]]
Cells = Sequence[Sequence[Record]]

# Whether training has heard the spoken answer of a fact; `known`: not it, but all of its words.
HEARD, KNOWN, NEW = 'heard', 'known', 'new'
SPLITS = {'heard': (HEARD,), 'unheard': (KNOWN, NEW), 'new words': (NEW,)}
_SHOWN = ('heard', 'unheard')  # in differences and in words


@dataclasses.dataclass(frozen=True)
class Row:
  """One variant.

  Attributes:
    name, what: of the variant, and in words.
    seeds: how many cells it has, each of its own seed.
    s2t: share of right texts, over all questions.
    s2s: share of spoken answers that the judge hears as right, by split.
    gap: s2t - s2s of the same answers, over all questions.
    wer: words that the judge hears wrong, against the text, over all questions.
    difference: s2s against the base, by split; over the seeds that both have; empty for the base
      itself and where there is no such seed.
    lag, first_audio_s, slices: means; `first_audio_s` is None where no times were taken.
  """

  name: str
  what: str
  seeds: int
  s2t: Interval
  s2s: dict[str, Interval]
  gap: Interval
  wer: float
  difference: dict[str, Interval]
  lag: float
  first_audio_s: float | None
  slices: float


def row(name: str, what: str, answers: Answers, base: Answers | None = None) -> Row:
  """The scores of a variant, and its differences from `base`; a split without questions is left
  out.

  Raises:
    DataError: the two answered different questions.
  """
  cells = list(answers.values())
  everyone = [*cells, *(base or {}).values()]
  if len({tuple(record['id'] for record in cell) for cell in everyone}) != 1:
    raise errors.DataError(
      f'the cells of {name!r} and of what it is compared with answered different questions: '
      'remove the folder of the ablation, or what changed in its data.'
    )
  everything = [record for cell in cells for record in cell]
  s2t, s2s = (_table(cells, kind, HEARD, KNOWN, NEW) for kind in ('s2t', 's2s'))
  found = {split: kinds for split, kinds in SPLITS.items() if _table(cells, 's2s', *kinds).size}
  own, theirs = _paired(answers, base or {})
  times = [r['first_audio_s'] for r in everything if r['first_audio_s'] is not None]
  spoken = [r['lag'] for r in everything if r['slices']]
  return Row(
    name,
    what,
    len(cells),
    bootstrap_mean(s2t),
    {split: bootstrap_mean(_table(cells, 's2s', *kinds)) for split, kinds in found.items()},
    paired_bootstrap(s2t, s2s),
    sum(r['errors'] for r in everything) / max(1, sum(r['words'] for r in everything)),
    {
      split: paired_bootstrap(_table(own, 's2s', *kinds), _table(theirs, 's2s', *kinds))
      for split, kinds in found.items()
      if own
    },
    float(np.mean(spoken)) if spoken else 0.0,
    float(np.median(times)) if times else None,
    float(np.mean([r['slices'] for r in everything])),
  )


def _paired(answers: Answers, base: Answers) -> tuple[Cells, Cells]:
  """The cells of both that are compared: those of the same seeds, and what was not trained with
  every seed.
  """
  if None in answers:
    return [answers[None]] if base else [], list(base.values())
  shared = [seed for seed in answers if seed in base]
  return [answers[seed] for seed in shared], [base[seed] for seed in shared]


def _table(cells: Cells, kind: str, *splits: str) -> np.ndarray:
  """bool[cells,questions]: which answers of the splits are right."""
  return np.asarray([[r[kind] for r in cell if r['split'] in splits] for cell in cells], bool)


def markdown(rows: Sequence[Row], timed: bool = False) -> str:
  """A table; differences whose interval excludes 0 are bold. `timed`: with the columns of
  streaming.
  """
  splits = [split for split in SPLITS if split in rows[0].s2s]
  compared = [split for split in _SHOWN if split in splits]
  head = ['variant', 'cells', 'S2T', *(f'S2S, {split}' for split in splits), 'WER']
  head += ['tokens before the first cut', 'first sound, s', 'slices'] if timed else ['S2T − S2S']
  head += [f'difference, {split}' for split in compared]
  lines = [head, ['---'] * len(head)]
  for one in rows:
    first = '–' if one.first_audio_s is None else f'{one.first_audio_s:.3f}'
    cells = [one.what, str(one.seeds), _share(one.s2t)]
    cells += [_share(one.s2s[split]) for split in splits]
    cells += [f'{one.wer:.3f}']
    cells += [f'{one.lag:.1f}', first, f'{one.slices:.2f}'] if timed else [_signed(one.gap)]
    if one is rows[0]:
      cells += ['base'] * len(compared)
    else:
      cells += [_signed(one.difference.get(split)) for split in compared]
    lines.append(cells)
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n'


def _share(interval: Interval) -> str:
  return f'{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]'


def _signed(interval: Interval | None) -> str:
  if interval is None:
    return '–'
  text = f'{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]'
  return f'**{text}**' if is_certain(interval) else text


def is_certain(difference: Interval) -> bool:
  """Whether its interval excludes 0."""
  return difference.low > 0 or difference.high < 0


def against(base: str, one: Row) -> str:
  """A sentence on how a variant compares with the base on each split, whichever way that falls."""
  verdicts = []
  for split, found in one.difference.items():
    if split not in _SHOWN:
      continue
    points, low, high = (100 * value for value in found)
    verdict = 'cannot be told apart'
    if is_certain(found):
      verdict = f'is right {"more" if found.mean > 0 else "less"} often'
    bounds = f'{points:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}'
    verdicts.append(f'{verdict} on {split} facts ({bounds})')
  return f'Against {base}, {one.what} {" and ".join(verdicts)}.'


def in_words(title: str, rows: Sequence[Row]) -> str:
  """A paragraph on one question; the first row is the base."""
  base, *others = rows
  listed = [against(base.what, one) for one in others if one.difference]
  return f'**{title}.** {" ".join(listed)}'


def caution(rows: Sequence[Row]) -> str:
  """A sentence on how many of all differences would look certain by chance alone."""
  found = [one.difference[split] for one in rows for split in _SHOWN if split in one.difference]
  certain = sum(map(is_certain, found))
  return (
    f'Of {len(found)} differences, {certain} exclude 0; by chance alone, if no variant mattered, '
    f'{len(found) / 20:.1f} would.'
  )
