"""Means and differences with bootstrap intervals (scipy)."""

from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
  """A mean and the bounds of its interval; the bounds are NaN for a single value."""

  mean: float
  low: float
  high: float


def bootstrap_mean(
  values: np.ndarray, *, seed: int = 0, resamples: int = 2000, level: float = LEVEL
) -> Interval:
  """The mean of `values` with its percentile bootstrap interval.

  Args:
    values: float[N] of N questions, or float[S,N] of S seeds that answered the same questions.
      Questions are drawn with replacement, and seeds too, independently: the interval is for other
      questions and another training run.
    seed: of the draws.
    resamples: number of draws.
    level: share of them that the interval holds.
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

  found = stats.bootstrap(
    axes,
    mean_of,
    n_resamples=resamples,
    batch=200,
    vectorized=True,
    method='percentile',
    confidence_level=level,
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Interval(mean, float(found.low), float(found.high))


def paired_bootstrap(
  a: np.ndarray, b: np.ndarray, *, seed: int = 0, resamples: int = 2000
) -> Interval:
  """The mean difference a - b of pairs with its interval; arguments as in `bootstrap_mean`, and
  a[i] and b[i] answer the same question. One seed of `b` is compared with every seed of `a`.
  """
  a, b = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
  return bootstrap_mean(a - b, seed=seed, resamples=resamples)
