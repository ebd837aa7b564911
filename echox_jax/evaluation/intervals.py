"""Paired bootstrap: how sure a score, or the difference of two scores, is.

Every score here is a ratio of sums over questions: right answers / answers, edits / words.
Questions are drawn again with replacement, each with all that belongs to it: both sides of a
difference, and all voices that ask the same. So what is drawn is independent, and a difference is
paired.
"""

from collections.abc import Hashable, Sequence
import dataclasses
import warnings

import numpy as np

from echox_jax.errors import MissingExtraError

_SEED = 0
_DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A score with its 95 % interval.

  Attributes:
    value: sum of numerators / sum of denominators.
    low, high: of the interval; None where there is one cluster alone.
    count: rows that it is made of.
  """

  value: float
  low: float | None
  high: float | None
  count: int

  def rounded(self) -> dict[str, float | int | None]:
    """For JSON."""
    values = {'value': self.value, 'low': self.low, 'high': self.high}
    return {k: None if v is None else round(v, 4) for k, v in values.items()} | {
      'count': self.count
    }


def ratio(
  numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable]
) -> Estimate | None:
  """Ratio of two sums with its percentile interval; None if the denominators are all 0.

  Args:
    numerators, denominators: of each row.
    clusters: rows with the same one are drawn together.

  Raises:
    MissingExtraError: scipy is not installed.
  """
  numbers = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
  which = np.asarray([numbers[name] for name in clusters], np.int64)
  above, below = (
    np.bincount(which, np.asarray(values, np.float64), len(numbers))
    for values in (numerators, denominators)
  )
  if not below.sum():
    return None
  value = float(above.sum() / below.sum())
  low, high = _interval(above, below) if len(numbers) > 1 else (None, None)
  return Estimate(value, low, high, len(which))


def mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
  """Mean with its interval; None without values."""
  return ratio(values, np.ones(len(values)), clusters)


def _interval(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
  try:
    from scipy import stats
  except ImportError as error:
    raise MissingExtraError('scipy', 'eval', 'Making intervals') from error

  def statistic(above, below, axis):
    return above.sum(axis=axis) / np.maximum(below.sum(axis=axis), np.finfo(float).tiny)

  with warnings.catch_warnings():
    warnings.simplefilter('ignore', stats.DegenerateDataWarning)  # all rows alike: no width
    found = stats.bootstrap(
      (above, below),
      statistic,
      paired=True,
      vectorized=True,
      n_resamples=_DRAWS,
      batch=200,
      method='percentile',
      rng=np.random.default_rng(_SEED),
    ).confidence_interval
  return float(found.low), float(found.high)
