"""Checksums of parameters: the same number from numpy and from devices, however they share it.

The bits of each element, as an unsigned integer, times an odd weight of its position, summed modulo
2**32. One changed element always changes the sum, because an odd weight has an inverse; elements
that changed places, or lost their values, leave it as it was in one case of some four billion. It
reveals damage and mix-ups, not forgery.
"""

from collections.abc import Mapping
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

_BLOCK = 1 << 20  # elements that share a weight of their block: numpy needs a table of this length
_BLOCKS = 2**32 // _BLOCK  # after so many blocks their weights begin again
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
# They set the weights within a block apart from those of the blocks.
_WITHIN, _BETWEEN = np.uint32(0x243F6A88), np.uint32(0x85A308D3)


def of_host(array: np.ndarray) -> str:
  """Checksum of an array in host memory, with a few megabytes beside it.

  Args:
    array: of any shape, its elements of at most 4 bytes.

  Returns:
    8 hexadecimal digits; dtype and shape are not part of it, but bits and their order (C) are.
  """
  bits = np.ascontiguousarray(array).reshape(-1).view(_UNSIGNED[array.dtype.itemsize])
  within, between, total = _table(_BLOCK, _WITHIN), _table(_BLOCKS, _BETWEEN), 0
  for start in range(0, len(bits), _BLOCK):
    part = bits[start:start + _BLOCK].astype(np.uint32)
    weight = int(between[start // _BLOCK % _BLOCKS])
    total += int(np.dot(part, within[:len(part)])) * weight  # exact modulo 2**32, as uint32 is
  return f'{total % 2**32:08x}'


def of_devices(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
  """The same of arrays on devices, each of which sums what it holds.

  All processes that share the arrays call this together.
  """
  return {name: f'{int(np.asarray(total)):08x}' for name, total in _sums(dict(arrays)).items()}


@jax.jit
def _sums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {name: _sum(array) for name, array in arrays.items()}


def _sum(array: jax.Array) -> jax.Array:
  bits = lax.bitcast_convert_type(array, _UNSIGNED[array.dtype.itemsize]).astype(jnp.uint32)
  position = jnp.zeros(array.shape, jnp.uint32)  # in C order, modulo 2**32
  for axis in range(array.ndim):
    stride = math.prod(array.shape[axis + 1:]) % 2**32
    position += lax.broadcasted_iota(jnp.uint32, array.shape, axis) * np.uint32(stride)
  within = _weights(position % np.uint32(_BLOCK), _WITHIN)
  between = _weights(position // np.uint32(_BLOCK), _BETWEEN)
  return jnp.sum(bits * within * between, dtype=jnp.uint32)


def _weights(numbers, salt: np.uint32):
  """Odd numbers that look random, from uint32 arrays of numpy or jax.

  The steps are those of the finaliser of MurmurHash3.
  """
  mixed = (numbers ^ salt) * np.uint32(0x9E3779B1)
  mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(0x85EBCA6B)
  mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
  return (mixed ^ (mixed >> np.uint32(16))) | np.uint32(1)


@functools.cache
def _table(length: int, salt: np.uint32) -> np.ndarray:
  """uint32[length], the weights of 0 to length - 1."""
  return _weights(np.arange(length, dtype=np.uint32), salt)
