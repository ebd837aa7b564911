"""Bootstrap intervals: as wide as theory says, over questions and over seeds."""

import numpy as np
import pytest

from echox_jax.evaluation.intervals import bootstrap_mean, paired_bootstrap


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
  values = np.random.default_rng(0).normal(3.0, 2.0, 400)
  found = bootstrap_mean(values)
  assert found.mean == pytest.approx(values.mean()) and found.low < found.mean < found.high
  assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
  assert bootstrap_mean(values) == found != bootstrap_mean(values, seed=1)


def test_pairs_remove_what_both_have_in_common():
  rng = np.random.default_rng(1)
  hard, noise = rng.normal(0, 5, 200), rng.normal(0, 0.1, (2, 200))
  apart = paired_bootstrap(hard + 0.2 + noise[0], hard + noise[1])
  assert 0.1 < apart.low < 0.2 < apart.high < 0.3
  assert paired_bootstrap(hard + 1.0, hard) == pytest.approx((1.0, 1.0, 1.0))


def test_seeds_that_differ_make_the_interval_wide():
  """Many questions tell nothing about another training run."""
  seeds = np.asarray([[0.2], [0.5], [0.8]]) + np.zeros((3, 500))
  found = bootstrap_mean(seeds)
  assert found.low == pytest.approx(0.2) and found.high == pytest.approx(0.8)
  one = paired_bootstrap(seeds, np.full((1, 500), 0.5))
  assert one.low == pytest.approx(-0.3) and one.high == pytest.approx(0.3)


def test_a_single_value_has_no_interval():
  found = bootstrap_mean([0.5])
  assert found.mean == 0.5 and np.isnan(found.low) and np.isnan(found.high)
