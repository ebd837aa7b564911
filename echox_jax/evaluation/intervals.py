"""Bootstrap: how sure a score, or the difference of two scores, is.

Every score here is a ratio of sums over questions: right answers / answers, edits / words.
Questions are drawn again with replacement, each with all that belongs to it: both sides of a
difference, and all voices that ask the same. So what is drawn is independent, and a difference is
paired. Where a model was trained several times, with other seeds, these are drawn too.
"""

from collections.abc import Callable, Hashable, Sequence
import dataclasses
from typing import NamedTuple
import warnings

import numpy as np

from echox_jax.errors import MissingExtraError
from echox_jax.models.arrays import Float

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


class Interval(NamedTuple):
  """A mean and the bounds of its 95 % interval; the bounds are NaN for a single value."""

  mean: float
  low: float
  high: float


def bootstrap_mean(values: Float[np.ndarray, '...']) -> Interval:
  """The mean of `values` with its interval.

  Args:
    values: float[N] of N questions, or float[S,N] of S seeds that answered the same questions.
      Questions are drawn with replacement, and seeds too, independently: the interval is for other
      questions and another training run.

  Raises:
    MissingExtraError: scipy is not installed.
  """
  table = np.atleast_2d(np.asarray(values, np.float64))
  axes = [np.arange(size) for size in table.shape if size > 1]
  mean = float(table.mean())
  if not axes:
    return Interval(mean, float('nan'), float('nan'))

  def mean_of(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
    del axis  # the last one
    rows, columns = drawn if len(drawn) == 2 else (np.zeros((*drawn[0].shape[:-1], 1), int), *drawn)
    if len(drawn) == 1 and table.shape[1] == 1:
      rows, columns = columns, rows
    return table[rows[..., :, None], columns[..., None, :]].mean(axis=(-2, -1))

  return Interval(mean, *_bounds(axes, mean_of))


def paired_bootstrap(a: Float[np.ndarray, '...'], b: Float[np.ndarray, '...']) -> Interval:
  """The mean difference a - b of pairs with its interval; arguments as in `bootstrap_mean`, and
  a[i] and b[i] answer the same question. One seed of `b` is compared with every seed of `a`.
  """
  a, b = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
  return bootstrap_mean(a - b)


def _interval(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
  def statistic(above, below, axis):
    return above.sum(axis=axis) / np.maximum(below.sum(axis=axis), np.finfo(float).tiny)

  return _bounds((above, below), statistic, paired=True)


def _bounds(
  data: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], paired: bool = False
) -> tuple[float, float]:
  """The bounds between which the statistic of 95 % of the draws lies."""
  try:
    from scipy import stats
  except ImportError as error:
    raise MissingExtraError('scipy', 'eval', 'Making intervals') from error
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', stats.DegenerateDataWarning)  # all rows alike: no width
    found = stats.bootstrap(
      data,
      statistic,
      paired=paired,
      vectorized=True,
      n_resamples=_DRAWS,
      batch=200,
      method='percentile',
      rng=np.random.default_rng(_SEED),
    ).confidence_interval
  return float(found.low), float(found.high)
