"""The order of rows: uniform as far as statistics can tell, its own in every epoch, shared by
processes without overlap or gap.

Seeds are fixed, so that nothing fails by chance; of truly random orders one in a thousand would
fail a single check.
"""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from data_pipeline import batches, selection
from echox_jax.training.experiment import ExperimentConfig

CHANCE, BLOCKS = 1e-3, 20


class Items(Sequence):
  """Rows that are their numbers."""

  def __init__(self, count):
    self.rows = selection.rows_of(count)

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, i):
    return {'item': np.int32(range(len(self))[i])}


def orders(count, epochs, seed):
  """int[epochs,count]."""
  stream = batches.ordered(Items(count), ExperimentConfig(seed=seed))
  return np.asarray([stream[place]['item'] for place in range(epochs * count)]).reshape(
    epochs, count
  )


# below and above the size at which the order is another's
@pytest.mark.parametrize('count, epochs', [(800, 20), (batches._FEW + 1, 2)])
@pytest.mark.parametrize('seed', [0, 7])
def test_orders_are_uniform(count, epochs, seed):
  order = orders(count, epochs, seed)
  assert (np.sort(order, axis=1) == np.arange(count)).all() and len(
    np.unique(order, axis=0)
  ) == epochs
  # Where items come: a table of blocks of items and of places, whose rows and columns have fixed
  # sums.
  block = np.arange(count) * BLOCKS // count
  table = np.zeros((BLOCKS, BLOCKS))
  np.add.at(table, (block[order], block), 1)
  chi_square = np.sum((table - table.mean()) ** 2) / table.mean()
  assert CHANCE < stats.chi2.sf(chi_square, (BLOCKS - 1) ** 2) < 1 - CHANCE
  assert neighbours(order, count) > CHANCE


def neighbours(order, count):
  """The least p-value of what items that follow one another have to do with one another."""
  gaps = np.diff(order, axis=1)
  apart = np.bincount((gaps % count).ravel() * BLOCKS // count, minlength=BLOCKS)
  # neighbours that stay neighbours
  kept = stats.poisson.sf(np.sum(gaps == 1) - 1, gaps.size / count)
  z = np.corrcoef(order[:, :-1].ravel(), order[:, 1:].ravel())[0, 1] * np.sqrt(gaps.size)
  return min(stats.chisquare(apart).pvalue, kept, 2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize('start', [0, 999_000, 1_500_000])
def test_a_stretch_of_a_million_is_spread_over_all_of_it(start):
  stream, count = batches.ordered(Items(10**6), ExperimentConfig()), 4000
  items = np.asarray([stream[start + place]['item'] for place in range(count)])
  assert len(np.unique(items)) > 0.99 * count  # the second goes on into the next epoch
  for group, groups in ((items // 10**4, 100), (items % 97, 97)):
    assert CHANCE < stats.chisquare(np.bincount(group, minlength=groups)).pvalue < 1 - CHANCE
  assert neighbours(items[None], 10**6) > CHANCE


def test_the_checks_see_an_order_that_is_not_random():
  in_turn = (np.arange(4000) * 617 + 5)[None] % 10**6
  assert neighbours(in_turn, 10**6) < CHANCE


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.data())
def test_processes_share_an_epoch_without_overlap_or_gap(batch_size, data):
  owner = data.draw(st.lists(st.integers(0, 3), min_size=batch_size, max_size=batch_size))
  count = data.draw(st.integers(100, 130))
  stream = batches.ordered(Items(count), ExperimentConfig(seed=data.draw(st.integers(0, 99))))
  shares = [
    share
    for process in range(4)
    if (share := tuple(row for row in range(batch_size) if owner[row] == process))
  ]
  gathers = [batches.Gather(stream, batch_size, share) for share in shares]
  taken = []
  for number in range(-(-2 * count // batch_size)):  # two epochs
    batch = np.full(batch_size, -1)
    for share, gather in zip(shares, gathers):
      assert (batch[list(share)] == -1).all()
      batch[list(share)] = gather(number)['item']
    taken.extend(batch)
  for epoch in range(2):
    assert sorted(taken[epoch * count : (epoch + 1) * count]) == list(range(count))
