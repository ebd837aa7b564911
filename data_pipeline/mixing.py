"""The order of rows: an endless, shuffled stream in which each set appears in proportion to its
weight.

A row's place in the stream alone decides its set (Grain's mixing, as even as whole numbers allow).
When all rows of a set have come, the set starts again in another order; sets do so at different
times. Without weights, all rows form one set and a pass is an epoch.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import grain
import numpy as np

from echox_jax import errors
from echox_jax.training.experiment import ExperimentConfig

ENDLESS = 2**40
_REMEMBERED = 32  # passes of sets


def mixture(experiment: ExperimentConfig, rows: np.ndarray) -> grain.MapDataset:
  """The stream: place -> (pass, row number). `pass` counts how often that row has come before.

  Args:
    experiment: `data.weights` of the `data.sets`. In stages that hear, written questions keep
      their share, `data.written_fraction`.
    rows: selection.ROW[N].

  Raises:
    ConfigError: the weights do not fit the sets.
    DataError: a set has no rows left.
  """
  data = experiment.data
  if not data.weights:
    return grain.MapDataset.range(ENDLESS).map(_Part(np.arange(len(rows)), (experiment.seed,)))
  if len(data.weights) != len(data.sets) or not all(
    weight > 0 and math.isfinite(weight) for weight in data.weights
  ):
    raise errors.ConfigError(
      f'data.weights {data.weights} are not one number above 0 for each of '
      f'{", ".join(data.sets)}: correct them.'
    )
  spoken = rows['states'] > 0 if (rows['states'] > 0).any() else np.ones(len(rows), bool)
  groups = [np.flatnonzero((rows['source'] == number) & spoken) for number in range(len(data.sets))]
  empty = [name for name, group in zip(data.sets, groups) if not len(group)]
  if empty:
    raise errors.DataError(
      f'no row of {empty[0]} is left: take it out of data.sets, or raise the sizes in data.'
    )
  weights = np.asarray(data.weights) / sum(data.weights)
  if not spoken.all():
    groups.append(np.flatnonzero(~spoken))
    weights = np.append(weights * (1 - data.written_fraction), data.written_fraction)
  parts = [
    grain.MapDataset.range(ENDLESS).map(_Part(group, (experiment.seed, number)))
    for number, group in enumerate(groups)
  ]
  return grain.MapDataset.mix(parts, weights)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
  """The rows of one set in shuffled passes: place -> (pass, row number)."""

  rows: np.ndarray
  seed: tuple[int, ...]

  def __call__(self, place: int) -> tuple[int, int]:
    number, at = divmod(place, len(self.rows))
    return number, int(self.rows[permutation(len(self.rows), *self.seed, number)[at]])


@functools.lru_cache(_REMEMBERED)
def permutation(count: int, *seed: int) -> np.ndarray:
  """int[count]: the numbers 0, 1, 2... in an order that depends only on the seed."""
  return np.random.default_rng(seed).permutation(count)


@dataclasses.dataclass(frozen=True)
class Taken:
  """The item of the row at a place in the stream: its arrays, if the items are a `Selection`."""

  items: Sequence[Any]

  def __call__(self, place: tuple[int, int]) -> Any:
    return self.items[place[1]]
