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
# So many rows of x are multiplied one after the other. For more than one row at once, XLA writes
# the widened numbers to memory first.
_FEW = 8
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
  else:  # from int8 to float32 by way of int32, XLA takes a fifth of the time
    out = _product(flat, rows.astype(jnp.int32).astype(x.dtype))
  return out.reshape(*x.shape[:-1], rows.shape[0])


def _product(x: Float[Array, 'B D'], rows: Float[Array, 'F D']) -> Float[Array, 'B F']:
  return jax.lax.dot_general(x, rows, (((1,), (1,)), ((), ())))
