"""Sets mixed by weights: an endless stream of rows, of which each set has its share at any length, in an order of its own.

The set of a place follows from the place alone (Grain's mixing, as even as whole numbers allow). A set begins anew, in another
order, when all its rows have come; how often sets do so differs.
"""

import dataclasses
import math

from data_pipeline import selection
from echox_jax import errors
from echox_jax.training.experiment import ExperimentConfig
import grain
import numpy as np


def mixture(experiment: ExperimentConfig, rows: np.ndarray) -> grain.MapDataset:
  """The stream: by place (pass, number of the row), `pass` being how often that row has come before.

  Args:
    experiment: `data.weights` of the `data.sets`; written questions of stages that hear keep their share, `data.written_fraction`.
    rows: selection.ROW[N].

  Raises:
    ConfigError: weights that do not fit the sets.
    DataError: a set of which no row is left.
  """
  data = experiment.data
  if len(data.weights) != len(data.sets) or not all(weight > 0 and math.isfinite(weight) for weight in data.weights):
    raise errors.ConfigError(f'data.weights {data.weights} are not one number above 0 for each of {", ".join(data.sets)}: correct them.')
  spoken = rows['states'] > 0 if (rows['states'] > 0).any() else np.ones(len(rows), bool)
  groups = [np.flatnonzero((rows['source'] == number) & spoken) for number in range(len(data.sets))]
  empty = [name for name, group in zip(data.sets, groups) if not len(group)]
  if empty:
    raise errors.DataError(f'no row of {empty[0]} is left: take it out of data.sets, or raise the sizes in data.')
  weights = np.asarray(data.weights) / sum(data.weights)
  if not spoken.all():
    groups.append(np.flatnonzero(~spoken))
    weights = np.append(weights * (1 - data.written_fraction), data.written_fraction)
  seeds = np.random.SeedSequence(experiment.seed).generate_state(len(groups))
  parts = [grain.MapDataset.source(group).shuffle(seed=int(seed)).repeat().map_with_index(_Counted(len(group)))
           for group, seed in zip(groups, seeds)]
  return grain.MapDataset.mix(parts, weights)


@dataclasses.dataclass(frozen=True)
class _Counted:
  """The row at a place of a set's own stream, and the pass that the place is in."""
  rows: int

  def __call__(self, place: int, row: int) -> tuple[int, int]:
    return place // self.rows, int(row)


@dataclasses.dataclass(frozen=True)
class Taken:
  """The arrays of a row of the stream."""
  chosen: selection.Selection

  def __call__(self, place: tuple[int, int]) -> selection.Arrays:
    return self.chosen[place[1]]
