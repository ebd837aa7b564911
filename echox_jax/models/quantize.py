"""Weight-only int8: half the bytes of bfloat16 for each token that is decoded.

Each output channel of a kernel has a scale of its own; products are computed in the dtype of the
layer, on integers that it holds exactly. Tables, norms and biases stay as they are, and so do
heads, but for that of the LLM on a CPU.

A CPU takes the kernels as `rows`, one for each output channel: XLA then widens the numbers within
the product, so that a token reads a quarter of the bytes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from echox_jax.models.arrays import Array, Float, Int

KERNEL, ROWS, SCALE = 'kernel', 'kernel_rows', 'kernel_scale'
# So many rows of x are multiplied one after the other, each with all of the kernel.
_FEW = 8
# Rows of a kernel that are widened at a time for more rows of x: 39 positions of an LLM of 135
# million parameters take 148 ms, 385 ms with all at once, 190 ms in float32.
_BLOCK, _LEAST = 192, 32
_LARGEST = 127


def quantize(params: dict) -> dict:
  """Quantises every kernel of `layers.Dense` in a tree of LLM or unit decoder parameters."""
  made = {name: quantize(leaf) if isinstance(leaf, dict) else leaf for name, leaf in params.items()}
  if KERNEL in params:
    made[KERNEL], made[SCALE] = quantize_kernel(params[KERNEL])
  return made


def quantize_kernel(
  kernel: Float[Array, '*layers D F'],
) -> tuple[Int[Array, '*layers D F'], Float[Array, '*layers F']]:
  """Returns int8 values and float32 scales, so that values * scales is nearly the kernel."""
  kernel = kernel.astype(jnp.float32)
  scale = jnp.max(jnp.abs(kernel), axis=-2) / _LARGEST
  scale = jnp.where(scale > 0, scale, 1.0)
  return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale


def with_rows(params: dict) -> dict:
  """Turns every quantised kernel [D,F] of a tree into its `rows` [F,D]."""
  made = {
    name: with_rows(leaf) if isinstance(leaf, dict) else leaf for name, leaf in params.items()
  }
  if SCALE in params:
    made[ROWS] = made.pop(KERNEL).T
  return made


def scaled_product(x: Float[Array, '*b D'], kernel: Mapping[str, Array]) -> Float[Array, '*b F']:
  """The product of x and a kernel held as `rows` with their scales, in the dtype of x."""
  return matmul_rows(x, kernel[ROWS]) * kernel[SCALE].astype(x.dtype)


def row(kernel: Mapping[str, Array], channel: int) -> Float[Array, ' D']:
  """What one output channel multiplies with, float32."""
  return kernel[ROWS][channel] * kernel[SCALE][channel]


def matmul_rows(x: Float[Array, '*b D'], rows: Int[Array, 'F D']) -> Float[Array, '*b F']:
  """The product of x and int8 `rows` of a kernel, without their scales, in the dtype of x."""
  flat = x.reshape(-1, x.shape[-1])
  if flat.shape[0] <= _FEW:
    # as if rows depended on x: else a loop over tokens would widen them before it begins
    flat, rows = jax.lax.optimization_barrier((flat, rows))
    each = [_product(flat[i : i + 1], rows.astype(x.dtype)) for i in range(flat.shape[0])]
    out = jnp.concatenate(each)
  else:
    out = _by_blocks(flat, rows)
  return out.reshape(*x.shape[:-1], rows.shape[0])


def _by_blocks(x: Float[Array, 'B D'], rows: Int[Array, 'F D']) -> Float[Array, 'B F']:
  """Widens and multiplies as many rows at a time as stay in the cache of a core: XLA would write
  all the widened numbers to memory first.
  """
  size = max(n for n in range(1, _BLOCK + 1) if rows.shape[0] % n == 0)

  def of_block(_: None, some: Array) -> tuple[None, Array]:
    # by way of int32, XLA takes a fifth of the time
    return None, _product(x, some.astype(jnp.int32).astype(x.dtype))

  if size < _LEAST:
    return of_block(None, rows)[1]
  _, out = jax.lax.scan(of_block, None, rows.reshape(-1, size, rows.shape[1]))
  return jnp.moveaxis(out, 0, 1).reshape(x.shape[0], -1)


def _product(x: Float[Array, 'B D'], rows: Float[Array, 'F D']) -> Float[Array, 'B F']:
  return jax.lax.dot_general(x, rows, (((1,), (1,)), ((), ())))
