"""Places host arrays on shardings, row by row. Host memory holds no more of a parameter than the
devices of this process.
"""

from collections.abc import Iterable, Iterator, Mapping
import itertools

import jax
import numpy as np


def place(
  rows: Iterable[tuple[str, int | None, np.ndarray]], specs: Mapping[str, jax.ShapeDtypeStruct]
) -> Iterator[tuple[str, jax.Array]]:
  """Yields each parameter as soon as all its rows have arrived.

  Args:
    rows: (name, row of the first axis or None = all rows, values); the rows of one parameter must
      be consecutive.
    specs: name -> shape, dtype and sharding.
  """
  for name, own in itertools.groupby(rows, lambda item: item[0]):
    spec = specs[name]
    parts = {
      _key(index): np.empty([len(range(size)[s]) for size, s in zip(spec.shape, index)], spec.dtype)
      for index in spec.sharding.addressable_devices_indices_map(spec.shape).values()
    }
    for _, row, value in own:
      for key, part in parts.items():
        if row is None:
          part[...] = value[_slices(key)]
        elif row in range(spec.shape[0])[_slices(key)[0]]:
          part[row - (key[0][0] or 0)] = value[_slices(key)[1:]]
    yield (
      name,
      jax.make_array_from_callback(
        spec.shape, spec.sharding, lambda index, parts=parts: parts[_key(index)]
      ),
    )


def _key(index: tuple[slice, ...]) -> tuple[tuple[int | None, int | None], ...]:
  """Converts slices to a hashable key."""
  return tuple((s.start, s.stop) for s in index)


def _slices(key: tuple[tuple[int | None, int | None], ...]) -> tuple[slice, ...]:
  return tuple(slice(*bounds) for bounds in key)
