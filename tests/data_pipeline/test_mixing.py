"""Sets mixed by weights: the shares, every row once a pass, exact resume, and what is refused."""

import collections
import dataclasses
import pickle

import numpy as np
import pytest

from data_pipeline import batches, mixing, selection
from echox_jax import errors
from echox_jax.training.experiment import DataConfig, ExperimentConfig
from tests.helpers.batch_jobs import experiment, same, take

SIZES, WEIGHTS = (30, 7, 200), (1.0, 2.0, 5.0)


def job(written_fraction=0.0, **data):
  return ExperimentConfig(
    data=DataConfig(
      sets=('a/train', 'b/train', 'c/train'),
      weights=WEIGHTS,
      written_fraction=written_fraction,
      **data,
    )
  )


def lines(written=0):
  source = np.repeat(np.arange(3), SIZES)
  return selection.rows_of(
    len(source) + written,
    source=np.append(source, np.zeros(written, int)),
    states=np.append(np.ones(len(source)), np.zeros(written)),
  )


@pytest.mark.parametrize(
  'written, shares', [(0, (1 / 8, 2 / 8, 5 / 8)), (12, (0.1, 0.2, 0.5, 0.2))]
)
def test_every_stretch_has_the_shares_and_every_pass_all_rows(written, shares):
  stream = mixing.mixture(job(written_fraction=0.2 if written else 0.0), lines(written))
  taken = [stream[place] for place in range(4000)]
  kind = np.repeat(np.arange(4), [*SIZES, written])
  for start in (0, 777, 3000):
    counts = np.bincount(
      [kind[row] for _, row in taken[start : start + 400]], minlength=len(shares)
    )
    np.testing.assert_allclose(counts / 400, shares, atol=0.01)
  passes = collections.defaultdict(list)
  for number, row in taken:
    passes[kind[row], number].append(row)
  for (group, number), rows in passes.items():
    assert len(set(rows)) == len(rows)
    if (group, number + 1) in passes:  # it was finished
      assert sorted(rows) == list(np.flatnonzero(kind == group))
  assert passes[1, 0] != passes[1, 1]
  assert taken == [pickle.loads(pickle.dumps(stream))[place] for place in range(4000)]
  other = mixing.mixture(
    dataclasses.replace(job(written_fraction=0.2 if written else 0.0), seed=1), lines(written)
  )
  assert taken != [other[place] for place in range(4000)]


@pytest.mark.parametrize('data', [{}, dict(packing=True, max_tokens=200), dict(buckets=(20, 40))])
def test_batches_of_mixed_sets_resume_and_are_shared(workdir, data):
  settings = experiment(
    's2t',
    batch_size=4,
    sets=('questions/train', 'questions/train'),
    weights=(3, 1),
    augment=dict(noise=0.1),
    **data,
  )
  whole = take(batches.make_iterator(settings, workdir), 12)
  parts = [batches.make_iterator(settings, workdir, share) for share in ([0, 2], [1, 3])]
  for expected in whole[:5]:
    a, b = map(next, parts)
    same(
      {name: np.stack([a[name], b[name]], axis=1).reshape(4, *a[name].shape[1:]) for name in a},
      expected,
    )
  resumed = batches.make_iterator(settings, workdir)
  resumed.set_state(parts[0].get_state())
  for expected in whole[5:]:
    same(next(resumed), expected)


def test_packed_rows_keep_the_shares():
  settings = job(packing=True, max_tokens=100)
  chosen = lines()
  chosen['tokens'], chosen['states'] = np.random.default_rng(0).integers(10, 50, len(chosen)), 0
  plan = batches.make_plan(dataclasses.replace(settings, stage='text'), chosen)
  examples = [index for number in range(60) for row in plan[number].rows for _, index in row]
  np.testing.assert_allclose(
    np.bincount(chosen['source'][examples]) / len(examples), (1 / 8, 2 / 8, 5 / 8), atol=0.02
  )


@pytest.mark.parametrize(
  'weights', [(1.0,), (1.0, 2.0, 0.0), (1.0, 2.0, -1.0), (1.0, 2.0, float('nan'))]
)
def test_weights_that_do_not_fit_are_refused(weights):
  with pytest.raises(
    errors.ConfigError, match='are not one number above 0 for each of a/train, b/train, c/train'
  ):
    mixing.mixture(
      dataclasses.replace(job(), data=dataclasses.replace(job().data, weights=weights)), lines()
    )


def test_a_set_without_rows_is_named():
  with pytest.raises(errors.DataError, match='no row of b/train is left'):
    mixing.mixture(job(), lines()[lines()['source'] != 1])
