"""Weight-only int8: half the bytes of bfloat16 for each token that is decoded.

Each output channel of a kernel has a scale of its own; products are computed in the dtype of the
layer, on integers that it holds exactly. Heads, tables, norms and biases stay as they are.
"""

import jax.numpy as jnp

from echox_jax.models.arrays import Array, Float, Int

KERNEL, SCALE = 'kernel', 'kernel_scale'
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
