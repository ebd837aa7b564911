"""How much the unit language shortens speech: words per second against the longest word (K units)
and the size of the vocabulary.

Fitted on one split of a data set with units, measured on another, unseen split. Shares are of the
rate of reduced units (repeats dropped): 0.5 = half as many tokens. `--figure` draws the curves.

Figures: `units_per_second` (reduced); `curve`: for each kind, K and requested size, the number of
words found (`vocabulary`), and `words_per_second` and `share` of the fitted and the held-out
speech; `chosen`: the row of --chosen_k and the largest vocabulary; `lossless`: for how many random
and real sequences units -> words -> units is exact in that language; `hours` of each split;
`fit_seconds`.
"""

import argparse
from collections.abc import Iterator, Sequence
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import dataset
from data_pipeline.selection import split_name
from echox_jax import rates, storage
from echox_jax.config import UnitsConfig
from echox_jax.errors import DataError
from echox_jax.evaluation import figures
from echox_jax.storage import Path
from echox_jax.units import unit_language
from echox_jax.units.kmeans import reduce_units

UNITS_A_SECOND = rates.SAMPLE_RATE / rates.UNIT_HOP


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--units',
    type=storage.check_readable,
    required=True,
    metavar='DIR',
    help='folder that `python -m launch.precompute` wrote (out/demo/precomputed)',
  )
  command.add_argument(
    '--fitted', default='answers/train', help='split to fit on (default %(default)s)'
  )
  command.add_argument(
    '--held_out', default='answers/holdout', help='split to measure on (default %(default)s)'
  )
  command.add_argument(
    '--num_units', type=int, default=500, help='number of k-means units (default %(default)s)'
  )
  command.add_argument(
    '--k', type=_numbers, default=(2, 3, 4, 5, 6, 8), help='longest words (default 2,3,4,5,6,8)'
  )
  command.add_argument(
    '--vocabulary',
    type=_numbers,
    default=(1000, 2000, 4000, 8000),
    help='vocabulary sizes (default 1000,2000,4000,8000)',
  )
  command.add_argument(
    '--chosen_k', type=int, default=5, help='K of the language to check (default %(default)s)'
  )
  command.add_argument(
    '--sequences',
    type=int,
    default=10_000,
    help='random sequences, and real ones, to check (default %(default)s)',
  )
  command.add_argument(
    '--figure',
    type=storage.check_writable,
    metavar='FILE.png',
    help='draw the curves (needs the extra `demo`)',
  )


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(map(int, text.split(',')))


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  if options.figure:
    figures.check_installed()
  splits = {name: _units(options.units, name) for name in (options.fitted, options.held_out)}
  seconds = {name: sum(map(len, units)) / UNITS_A_SECOND for name, units in splits.items()}
  reduced = {name: [reduce_units(units)[0] for units in clips] for name, clips in splits.items()}
  rate = {name: sum(map(len, reduced[name])) / seconds[name] for name in splits}
  started, rows, chosen = time.monotonic(), [], None
  sizes = [
    ('ngram', k, size)
    for k in sorted({*options.k, options.chosen_k})
    for size in options.vocabulary
  ]
  sizes += [('bpe', options.chosen_k, size) for size in options.vocabulary]
  for kind, k, size in tqdm(sizes, desc='fitting', unit='language'):
    cfg = UnitsConfig(num_units=options.num_units, language=kind, max_word_units=k, vocab_size=size)
    language = unit_language.fit(reduced[options.fitted], cfg)
    row = {'kind': kind, 'k': k, 'asked': size, 'vocabulary': language.vocab_size}
    for what, name in (('fitted', options.fitted), ('held_out', options.held_out)):
      share = language.compression(reduced[name])
      row[what] = {'words_per_second': round(share * rate[name], 2), 'share': round(share, 4)}
    rows.append(row)
    if (kind, k, size) == ('ngram', options.chosen_k, max(options.vocabulary)):
      chosen = language, row
  language, row = chosen
  if options.figure:
    storage.atomic_write_bytes(options.figure, figures.unit_languages(rows))
  return {
    'units_per_second': round(rate[options.fitted], 2),
    'hours': {name: round(value / 3600, 3) for name, value in seconds.items()},
    'chosen': row,
    'lossless': _lossless(language, reduced[options.fitted], options.sequences),
    'curve': rows,
    'fit_seconds': round(time.monotonic() - started, 1),
  }


def _units(folder: Path, name: str) -> list[np.ndarray]:
  """int32[frames] of every turn with units."""
  found = [
    turn.units
    for example in dataset.read_examples(folder, *split_name(name))
    for turn in example.turns
    if len(turn.units)
  ]
  if not found:
    raise DataError(
      f'{folder} has no units in {name}: name a folder that `python -m '
      'launch.precompute` wrote, and its sets.'
    )
  return found


def _lossless(
  language: unit_language.UnitLanguage, real: Sequence[np.ndarray], count: int
) -> dict[str, str]:
  """For how many sequences units -> words -> units is exact: random sequences, and random segments
  of real ones.
  """
  rng = np.random.default_rng(0)
  made = (rng.integers(language.num_units, size=rng.integers(1, 200)) for _ in range(count))

  def stretches() -> Iterator[np.ndarray]:
    for _ in range(count):
      clip = real[rng.integers(len(real))]
      start, stop = np.sort(rng.integers(len(clip) + 1, size=2))
      yield clip[start:stop]

  def same(sequences):
    return sum(
      np.array_equal(language.decode(language.encode(units)), units) for units in sequences
    )

  return {'random': f'{same(made)} of {count}', 'real': f'{same(stretches())} of {count}'}
