"""k-means and reduced units."""

import numpy as np
import pytest
from sklearn import cluster

from echox_jax import errors
from echox_jax.units import kmeans


@pytest.fixture(scope='module')
def blobs():
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(20, 16)) * 10
  labels = rng.integers(0, 20, 4000)
  return (centres[labels] + rng.normal(size=(4000, 16)) * 0.1).astype(np.float32), labels


def test_separated_blobs_become_the_units(blobs):
  states, labels = blobs
  units = np.asarray(kmeans.assign(states, kmeans.fit(states, 20, iterations=8)))
  assert len(set(zip(units, labels))) == 20


def scattered(seed=0):
  """States without clear clusters, of unequal spread: where the start and the end both matter."""
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(6000, 12)) * rng.uniform(0.2, 2, 12)).astype(np.float32)


@pytest.mark.parametrize('seed', range(3))
def test_it_fits_as_well_as_scikit_learn(seed):
  states = scattered(seed)
  ours = kmeans.fit(states, 50, iterations=60, seed=seed)
  error = ((states - ours[np.asarray(kmeans.assign(states, ours))]) ** 2).sum()
  theirs = [cluster.KMeans(50, n_init=1, random_state=i).fit(states).inertia_ for i in range(4)]
  assert error <= 1.01 * max(theirs), 'their starts differ by 0.7 % among themselves'
  assert error <= 1.01 * cluster.KMeans(50, n_init=1, init=ours).fit(states).inertia_


def test_one_seed_gives_one_result(blobs):
  states = blobs[0][:1000]
  first, again, other = (kmeans.fit(states, 30, 4, seed) for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_no_cluster_stays_empty_where_there_are_states_enough(blobs):
  states = np.concatenate([np.zeros((500, 16), np.float32), blobs[0][:60]])
  units = np.asarray(kmeans.assign(states, kmeans.fit(states, 40, iterations=40)))
  assert len(set(units.tolist())) == 40


def test_copies_of_few_states_give_finite_centroids():
  states = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
  assert np.isfinite(kmeans.fit(states, 8, 8)).all()


def test_states_may_come_in_several_arrays(blobs):
  states = blobs[0][:2000].astype(np.float16)
  whole, split = (
    kmeans.fit(some, 20, 4) for some in (states, [states[:7], states[7:1500], states[1500:]])
  )
  np.testing.assert_array_equal(whole, split)


def test_clips_are_assigned_like_states(blobs):
  centroids = np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32) * 10
  lengths = [3, 1, 5000, 4000, 900, 20]
  clips = np.split(
    np.random.default_rng(2).normal(size=(sum(lengths), 16)).astype(np.float16) * 10,
    np.cumsum(lengths)[:-1],
  )
  units = list(kmeans.assign_clips(clips, centroids))
  assert list(map(len, units)) == lengths and list(kmeans.assign_clips([], centroids)) == []
  for clip, own in zip(clips, units):
    np.testing.assert_array_equal(own, kmeans.assign(clip, centroids))


def test_assign_is_the_nearest_centroid(blobs):
  states = blobs[0][:50]
  centroids = np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32) * 10
  expected = np.argmin(((states[:, None] - centroids) ** 2).sum(-1), axis=1)
  units = kmeans.assign(states.reshape(5, 10, 16), centroids)
  assert units.shape == (5, 10) and units.dtype == np.int32
  np.testing.assert_array_equal(np.ravel(units), expected)


def test_too_few_states():
  with pytest.raises(errors.DataError, match='3 speech states'):
    kmeans.fit(np.zeros((3, 2)), 4)


def test_save_and_load(tmp_path):
  centroids = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  kmeans.save(tmp_path / 'kmeans.safetensors', centroids)
  np.testing.assert_array_equal(kmeans.load(tmp_path / 'kmeans.safetensors'), centroids)
  (tmp_path / 'bad.safetensors').write_bytes(b'nothing')
  for name in ('bad.safetensors', 'absent.safetensors'):
    with pytest.raises(errors.CheckpointError):
      kmeans.load(tmp_path / name)


@pytest.mark.parametrize(
  'units, reduced, durations',
  [
    ([5, 5, 5, 2, 2, 5], [5, 2, 5], [3, 2, 1]),
    ([7], [7], [1]),
    ([], [], []),
    ([1, 2, 3], [1, 2, 3], [1, 1, 1]),
  ],
)
def test_reduce_and_expand(units, reduced, durations):
  got = kmeans.reduce_units(np.array(units, np.int32))
  assert (got[0].tolist(), got[1].tolist()) == (reduced, durations)
  assert kmeans.expand_units(*got).tolist() == units
