"""k-means over speech states. Each state (50 Hz) becomes a unit, its cluster id.

A unit is the nearest centroid by Euclidean distance, without normalisation of the states (facts
11).
"""

from collections.abc import Iterable, Iterator, Sequence
import functools
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from echox_jax import errors, tensor_files
from echox_jax.models.arrays import Array, Float, Int

_NAME = 'centroids'  # name of the only tensor in a file
_CHUNK = 8192  # states whose distances to all centroids are in memory at a time
_SEEDING_STATES = 20  # k-means++ samples this many states per cluster
_FRACTIONS = (8, 4, 2, 1)  # Lloyd's iterations use 1/8, 1/4, 1/2 and all of the states in turn


def fit(
  states: Float[np.ndarray, 'E D'] | Sequence[Any],
  num_units: int,
  iterations: int = 30,
  seed: int = 0,
) -> Float[np.ndarray, 'U D']:
  """Fits centroids: k-means++ on a sample, then Lloyd's iterations over growing mini-batches;
  deterministic for a given seed.

  A quarter of the iterations uses each of 1/8, 1/4, 1/2 and all of the states (shuffled). The small
  fractions move the centroids most of the way at a fraction of the cost. A cluster that loses all
  its states moves to one of the states farthest from their centroids.

  The states are sharded over all devices of all processes; every process makes the same call. The
  partial sums are added in a fixed order, so the result does not depend on the number of devices.

  Args:
    states: one array or a sequence of arrays; an array may be anything with `shape` and `dtype`
      that `np.asarray` reads.
    num_units: clusters, at most as many as states.
    iterations: total number of Lloyd's iterations.
    seed: seed of the shuffle and the first centroids.

  Returns:
    float32 centroids.

  Raises:
    DataError: there are fewer states than units.
  """
  arrays = [states] if isinstance(states, np.ndarray) else states
  n = sum(array.shape[0] for array in arrays)
  if n < num_units:
    raise errors.DataError(
      f'{n} speech states cannot make {num_units} units: give more speech or ask for fewer units.'
    )
  mesh = Mesh(np.asarray(jax.devices()), ('data',), axis_types=(AxisType.Auto,))
  chunks, sample = _place(
    arrays, np.random.default_rng(seed).permutation(n), _SEEDING_STATES * num_units, mesh
  )
  centroids = np.asarray(_plus_plus(jnp.asarray(sample), num_units, jax.random.key(seed)))
  if jax.process_count() > 1:
    centroids = multihost_utils.broadcast_one_to_all(centroids)
  for i, divisor in enumerate(_FRACTIONS):
    share = max(len(sample), n // divisor)
    steps = iterations * (i + 1) // len(_FRACTIONS) - iterations * i // len(_FRACTIONS)
    centroids = np.asarray(_lloyd(chunks, centroids, share, steps, mesh))
  return centroids


def assign(states: Float[Array, '*b D'], centroids: Float[Array, 'U D']) -> Int[Array, '*b']:
  """Returns the unit, int32, of every state: the argmin of ||x||^2 - 2 x.c + ||c||^2 over the
  centroids c.
  """
  return jnp.argmin(_relative_distances(states.astype(jnp.float32), centroids), axis=-1).astype(
    jnp.int32
  )


def assign_clips(
  clips: Iterable[Float[np.ndarray, '_E D']], centroids: Float[np.ndarray, 'U D']
) -> Iterator[Int[np.ndarray, ' _E']]:
  """Yields the units, int32, of the states of each clip. Clips are batched, so all steps have the
  same shape.
  """
  held, count = [], 0
  for clip in clips:
    held.append(clip)
    count += len(clip)
    if count >= _CHUNK:
      yield from _assign_together(held, centroids)
      held, count = [], 0
  if held:
    yield from _assign_together(held, centroids)


def _assign_together(clips: Sequence[np.ndarray], centroids: np.ndarray) -> list[np.ndarray]:
  states = np.concatenate(clips).astype(np.float32)
  padded = np.pad(states, ((0, -len(states) % _CHUNK), (0, 0)))
  units = np.concatenate(
    [np.asarray(_assign(padded[i : i + _CHUNK], centroids)) for i in range(0, len(padded), _CHUNK)]
  )
  return np.split(units[: len(states)], np.cumsum([len(clip) for clip in clips])[:-1])


def save(path: str | os.PathLike[str], centroids: Float[np.ndarray, 'U D']) -> None:
  """Writes centroids as safetensors, in float32."""
  with tensor_files.TensorWriter(path, {_NAME: (centroids.shape, np.float32)}) as writer:
    writer.write(_NAME, centroids)


def load(path: str | os.PathLike[str]) -> Float[np.ndarray, 'U D']:
  """Reads the float32 centroids that `save` wrote.

  Raises:
    CheckpointError: the file is missing or damaged.
  """
  try:
    return tensor_files.open_tensors(path)[_NAME]
  except (errors.CheckpointError, KeyError) as error:
    raise errors.CheckpointError(
      f'{path} holds no k-means centroids: run launch.precompute again.'
    ) from error


def reduce_units(
  units: Int[np.ndarray, ' F'],
) -> tuple[Int[np.ndarray, ' R'], Int[np.ndarray, ' R']]:
  """Drops consecutive repeats; returns the reduced units and the length of each run in frames, both
  int32.
  """
  units = np.asarray(units, np.int32)
  starts = np.flatnonzero(np.diff(units, prepend=units[:1] - 1))
  return units[starts], np.diff(starts, append=len(units)).astype(np.int32)


def expand_units(
  reduced: Int[np.ndarray, ' R'], durations: Int[np.ndarray, ' R']
) -> Int[np.ndarray, ' F']:
  """Inverts `reduce_units`: returns the units, int32, of all frames."""
  return np.repeat(np.asarray(reduced, np.int32), durations)


def _relative_distances(states: Array, centroids: Array) -> Array:
  """Returns float[...,K]: squared distances minus ||x||^2, which is the same for all centroids."""
  return jnp.sum(centroids * centroids, axis=-1) - 2 * jnp.einsum(
    '...D,KD->...K', states, centroids
  )


_assign = jax.jit(assign)


def _place(
  arrays: Sequence[Any], order: np.ndarray, sample_size: int, mesh: Mesh
) -> tuple[Array, np.ndarray]:
  """Shuffles the states and places them on the devices.

  Args:
    arrays: float[N,D] in total.
    order: int[N], the new order of the states.
    sample_size: number of leading states to return as the sample.
    mesh: mesh of all devices.

  Returns:
    (float[G,d,C,D]: chunks of C states, the second axis split over d devices, where chunk (G, 0)
    comes before chunk (G, 1); the sample float32[S,D]).
  """
  n, d, devices = len(order), arrays[0].shape[1], mesh.size
  size = min(_CHUNK, n)
  groups = -(-n // (size * devices))
  rank = np.empty(n, np.int64)  # new place of every state
  rank[order] = np.arange(n)
  sample = np.empty((min(sample_size, n), d), np.float32)
  mine = [
    i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()
  ]
  slot = np.full(devices, -1)
  slot[mine] = np.arange(len(mine))
  own = np.zeros((groups, len(mine), size, d), arrays[0].dtype)
  start = 0
  for array in arrays:
    values = np.asarray(array)
    place = rank[start : start + len(values)]
    sample[place[place < len(sample)]] = values[place < len(sample)]
    chunk = place // size
    here = slot[chunk % devices] >= 0
    own[chunk[here] // devices, slot[chunk[here] % devices], place[here] % size] = values[here]
    start += len(values)
  where = NamedSharding(mesh, PartitionSpec(None, 'data'))
  return jax.make_array_from_process_local_data(where, own, (groups, devices, size, d)), sample


@functools.partial(jax.jit, static_argnames='num_units')
def _plus_plus(states: Array, num_units: int, key: Array) -> Array:
  """k-means++: draws each new centroid from the states with probability proportional to the squared
  distance to the nearest chosen centroid.
  """
  n = len(states)
  squares = jnp.sum(states * states, axis=-1)
  first, rest = jax.random.split(key)

  def step(carry, key):
    nearest, chosen = carry
    distance = jnp.maximum(squares - 2 * states @ states[chosen] + squares[chosen], 0)
    nearest = jnp.minimum(nearest, distance).at[chosen].set(0)
    # log 0 = -inf excludes chosen states and their duplicates; if only duplicates are left, any
    # state may be drawn.
    logits = jnp.where(jnp.any(nearest > 0), jnp.log(nearest), 0.0)
    return (nearest, jax.random.categorical(key, logits)), chosen

  start = (jnp.full(n, jnp.inf), jax.random.randint(first, (), 0, n))
  _, chosen = jax.lax.scan(step, start, jax.random.split(rest, num_units))
  return states[chosen]


@functools.partial(jax.jit, static_argnames=('share', 'iterations', 'mesh'))
def _lloyd(chunks: Array, centroids: Array, share: int, iterations: int, mesh: Mesh) -> Array:
  """Runs `iterations` Lloyd steps: assign each of the first `share` states to its centroid, then
  move every centroid to the mean of its states.
  """
  k, (_, devices, size, _) = len(centroids), chunks.shape
  groups = -(-share // (size * devices))

  def on_each_device(own: Array, centroids: Array) -> Array:
    own, device = own[:groups, 0], jax.lax.axis_index('data')  # [groups,C,D]
    # global index of each state
    place = (jnp.arange(groups)[:, None] * devices + device) * size + jnp.arange(size)

    def iteration(_, centroids):
      def one(carry, chunk_and_place):
        chunk, place = chunk_and_place
        chunk, weight = chunk.astype(jnp.float32), (place < share).astype(jnp.float32)
        distances = _relative_distances(chunk, centroids)
        units = jnp.argmin(distances, axis=-1)
        far = jnp.where(
          weight > 0, jnp.min(distances, axis=-1) + jnp.sum(chunk * chunk, axis=-1), -1.0
        )
        sums = (
          jax.ops.segment_sum(chunk * weight[:, None], units, k),
          jax.ops.segment_sum(weight, units, k),
        )
        return jax.lax.scan(
          lambda total, part: (jax.tree.map(jnp.add, total, part), None),
          carry,
          jax.lax.all_gather(sums, 'data'),
        )[0], far

      (sums, counts), far = jax.lax.scan(
        one, (jnp.zeros_like(centroids), jnp.zeros(k)), (own, place)
      )
      empty = counts == 0
      spare = _farthest(own, far, place, k)[jnp.cumsum(empty) - 1]
      return jnp.where(empty[:, None], spare, sums / jnp.maximum(counts, 1)[:, None])

    return jax.lax.fori_loop(0, iterations, iteration, centroids)

  whole = PartitionSpec()
  return jax.shard_map(
    on_each_device,
    mesh=mesh,
    in_specs=(PartitionSpec(None, 'data'), whole),
    out_specs=whole,
    check_vma=False,
  )(chunks, centroids)


def _farthest(own: Array, far: Array, place: Array, k: int) -> Array:
  """Returns float32[k,D]: the states of all devices with the greatest `far`; ties go to the lowest
  global index.
  """
  values, at = jax.lax.top_k(far.reshape(-1), min(k, far.size))
  device = jax.lax.axis_index('data')
  best = jax.lax.all_gather(
    (-values, place.reshape(-1)[at], jnp.full_like(at, device), at), 'data', tiled=True
  )
  _, _, owners, at = (x[:k] for x in jax.lax.sort(best, num_keys=2))
  found = own.reshape(-1, own.shape[-1])[at].astype(jnp.float32)
  return jax.lax.psum(jnp.where((owners == device)[:, None], found, 0.0), 'data')
