"""Bootstrap intervals."""

import numpy as np
import pytest

from echox_jax.evaluation import intervals

pytest.importorskip('scipy', reason="intervals need the extra 'eval'")


def test_the_interval_of_a_share_is_that_of_its_binomial():
  right = np.repeat([1, 0], [700, 300])
  found = intervals.mean(right, range(1000))
  spread = 1.96 * (0.7 * 0.3 / 1000) ** 0.5
  assert found.value == 0.7 and found.count == 1000
  assert found.low == pytest.approx(0.7 - spread, abs=0.004)
  assert found.high == pytest.approx(0.7 + spread, abs=0.004)


def test_a_difference_is_paired():
  rng = np.random.default_rng(0)
  one = rng.random(400) < 0.6
  other = one.copy()
  other[:20] = ~other[:20]  # alike but for 20 answers
  paired = intervals.mean(one.astype(int) - other.astype(int), range(400))
  width = paired.high - paired.low
  apart = [intervals.mean(side.astype(int), range(400)) for side in (one, other)]
  assert width < 0.5 * min(side.high - side.low for side in apart)


def test_voices_that_ask_the_same_are_drawn_together():
  right = np.repeat(np.random.default_rng(0).random(50) < 0.5, 4).astype(int)
  alone = intervals.mean(right, range(200))
  together = intervals.mean(right, np.repeat(np.arange(50), 4).tolist())
  ratio = (together.high - together.low) / (alone.high - alone.low)
  assert ratio == pytest.approx(2, rel=0.2) and together.value == alone.value


def test_a_ratio_weighs_by_words():
  found = intervals.ratio([0, 5], [95, 5], 'ab')
  assert found.value == 0.05 and (found.low, found.high) == (0.0, 1.0)


def test_nothing_to_draw_from():
  assert intervals.mean([], []) is None and intervals.ratio([0], [0], 'a') is None
  alone = intervals.mean([1, 0], 'aa')
  assert alone.value == 0.5 and alone.low is None and alone.rounded()['high'] is None
  same = intervals.mean([1] * 5, 'abcde')
  assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
  values = np.random.default_rng(0).normal(3.0, 2.0, 400)
  found = intervals.bootstrap_mean(values)
  assert found.mean == pytest.approx(values.mean()) and found.low < found.mean < found.high
  assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
  assert intervals.bootstrap_mean(values) == found


def test_pairs_remove_what_both_have_in_common():
  rng = np.random.default_rng(1)
  hard, noise = rng.normal(0, 5, 200), rng.normal(0, 0.1, (2, 200))
  apart = intervals.paired_bootstrap(hard + 0.2 + noise[0], hard + noise[1])
  assert 0.1 < apart.low < 0.2 < apart.high < 0.3
  assert intervals.paired_bootstrap(hard + 1.0, hard) == pytest.approx((1.0, 1.0, 1.0))


def test_seeds_that_differ_make_the_interval_wide():
  """Many questions tell nothing about another training run."""
  seeds = np.asarray([[0.2], [0.5], [0.8]]) + np.zeros((3, 500))
  found = intervals.bootstrap_mean(seeds)
  assert found.low == pytest.approx(0.2) and found.high == pytest.approx(0.8)
  one = intervals.paired_bootstrap(seeds, np.full((1, 500), 0.5))
  assert one.low == pytest.approx(-0.3) and one.high == pytest.approx(0.3)


def test_a_single_value_has_no_interval():
  found = intervals.bootstrap_mean([0.5])
  assert found.mean == 0.5 and np.isnan(found.low) and np.isnan(found.high)
