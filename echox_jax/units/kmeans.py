"""k-means over speech states, and the units it gives: one cluster id a state (50 Hz).

A unit is the nearest centroid by Euclidean distance, with no normalisation of the states (facts 11).
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors, tensor_files

Array = jax.Array

_NAME = 'centroids'  # of the one tensor in a file
_CHUNK = 8192  # states whose distances to all centroids are held at a time
_SEEDING_STATES = 20  # states a cluster that k-means++ looks at
_FRACTIONS = (8, 4, 2, 1)  # Lloyd's iterations go over 1/8, 1/4, 1/2 and all of the states in turn


def fit(states: np.ndarray, num_units: int, iterations: int = 30, seed: int = 0) -> np.ndarray:
  """k-means++ on a sample, then Lloyd's iterations over a growing share of the states: deterministic for one seed.

  A quarter of the iterations goes over each of 1/8, 1/4, 1/2 and all of the states (shuffled), which moves the centroids most
  of the way at a fraction of the cost. A cluster that loses all its states is set on one of the states that lie farthest off.

  Args:
    states: float[N,D].
    num_units: clusters, K <= N.
    iterations: Lloyd's iterations in all.
    seed: of the shuffle and the first centroids.

  Returns:
    float32[K,D] centroids.

  Raises:
    DataError: fewer states than units.
  """
  n = len(states)
  if n < num_units:
    raise errors.DataError(f'{n} speech states cannot make {num_units} units: give more speech or ask for fewer units.')
  shuffled = np.asarray(states, np.float32)[np.random.default_rng(seed).permutation(n)]
  sample = shuffled[:_SEEDING_STATES * num_units]
  centroids = _plus_plus(jnp.asarray(sample), num_units, jax.random.key(seed))
  for i, divisor in enumerate(_FRACTIONS):
    share = max(len(sample), n // divisor)
    steps = iterations * (i + 1) // len(_FRACTIONS) - iterations * i // len(_FRACTIONS)
    centroids = _lloyd(*_chunks(shuffled[:share]), centroids, steps)
  return np.asarray(centroids)


def assign(states: Array, centroids: Array) -> Array:
  """float[...,D] states and float[K,D] centroids -> int32[...] units: the argmin of ||x||^2 - 2 x.c + ||c||^2."""
  return jnp.argmin(_relative_distances(states.astype(jnp.float32), centroids), axis=-1).astype(jnp.int32)


def save(path: str | os.PathLike[str], centroids: np.ndarray) -> None:
  """Writes float[K,D] centroids as safetensors."""
  with tensor_files.TensorWriter(path, {_NAME: (centroids.shape, np.float32)}) as writer:
    writer.write(_NAME, centroids)


def load(path: str | os.PathLike[str]) -> np.ndarray:
  """float32[K,D] centroids written by `save`.

  Raises:
    CheckpointError: missing or damaged file.
  """
  try:
    return tensor_files.open_tensors(path)[_NAME]
  except (errors.CheckpointError, KeyError) as error:
    raise errors.CheckpointError(f'{path} holds no k-means centroids: run launch.precompute again.') from error


def reduce_units(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """int[T] units -> (reduced int32[R], durations int32[R]): consecutive repeats dropped, and how long each run was."""
  units = np.asarray(units, np.int32)
  starts = np.flatnonzero(np.diff(units, prepend=units[:1] - 1))
  return units[starts], np.diff(starts, append=len(units)).astype(np.int32)


def expand_units(reduced: np.ndarray, durations: np.ndarray) -> np.ndarray:
  """The inverse of `reduce_units`: int32[sum of durations]."""
  return np.repeat(np.asarray(reduced, np.int32), durations)


def _relative_distances(states: Array, centroids: Array) -> Array:
  """float[...,K]: squared distances less ||x||^2, which no choice of centroid changes."""
  return jnp.sum(centroids * centroids, axis=-1) - 2 * jnp.einsum('...D,KD->...K', states, centroids)


def _chunks(states: np.ndarray) -> tuple[Array, Array]:
  """float[N,D] -> (float[chunks,C,D], weights float[chunks,C]: 0 on the padding of the last chunk)."""
  n, d = states.shape
  size = min(_CHUNK, n)
  padding = -n % size
  weights = np.pad(np.ones(n, np.float32), (0, padding))
  return jnp.asarray(np.pad(states, ((0, padding), (0, 0))).reshape(-1, size, d)), jnp.asarray(weights.reshape(-1, size))


@functools.partial(jax.jit, static_argnames='num_units')
def _plus_plus(states: Array, num_units: int, key: Array) -> Array:
  """k-means++: each new centroid is a state drawn with probability proportional to its squared distance to the chosen."""
  n = len(states)
  squares = jnp.sum(states * states, axis=-1)
  first, rest = jax.random.split(key)

  def step(carry, key):
    nearest, chosen = carry
    distance = jnp.maximum(squares - 2 * states @ states[chosen] + squares[chosen], 0)
    nearest = jnp.minimum(nearest, distance).at[chosen].set(0)
    # log 0 = -inf rules out chosen states and their copies; where only copies are left, any state will do.
    logits = jnp.where(jnp.any(nearest > 0), jnp.log(nearest), 0.0)
    return (nearest, jax.random.categorical(key, logits)), chosen

  start = (jnp.full(n, jnp.inf), jax.random.randint(first, (), 0, n))
  _, chosen = jax.lax.scan(step, start, jax.random.split(rest, num_units))
  return states[chosen]


@functools.partial(jax.jit, static_argnames='iterations')
def _lloyd(chunks: Array, weights: Array, centroids: Array, iterations: int) -> Array:
  """`iterations` of: assign every state to its centroid, move every centroid to the mean of its states."""
  k = len(centroids)

  def iteration(_, centroids):
    def one(carry, chunk_and_weight):
      chunk, weight = chunk_and_weight
      sums, counts = carry
      distances = _relative_distances(chunk, centroids)
      units = jnp.argmin(distances, axis=-1)
      far = jnp.where(weight > 0, jnp.min(distances, axis=-1) + jnp.sum(chunk * chunk, axis=-1), -1.0)
      sums += jax.ops.segment_sum(chunk * weight[:, None], units, k)
      return (sums, counts + jax.ops.segment_sum(weight, units, k)), far

    (sums, counts), far = jax.lax.scan(one, (jnp.zeros_like(centroids), jnp.zeros(k)), (chunks, weights))
    empty = counts == 0
    _, farthest = jax.lax.top_k(far.reshape(-1), k)
    spare = chunks.reshape(-1, chunks.shape[-1])[farthest[jnp.cumsum(empty) - 1]]
    return jnp.where(empty[:, None], spare, sums / jnp.maximum(counts, 1)[:, None])

  return jax.lax.fori_loop(0, iterations, iteration, centroids)
