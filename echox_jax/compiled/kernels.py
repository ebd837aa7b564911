"""FLOPs of Pallas kernels, which are single instructions in a program's text.

A kernel may declare its FLOPs. JAX's splash attention does not, so its kernels are recognised by
name. They compute all whole blocks of queries and keys that the mask touches. If the kernel
computes the mask, it has the query positions as an extra operand, besides the two for segments.
Such a mask counts as causal, the only kind that this code uses. Without the operand, all blocks
count.
"""

import math
import re

from echox_jax.compiled import hlo

# Number of matmuls of [query block, key block, width], and the names of the block sizes.
_PRODUCTS = {
  'fwd': (2, 'block_q', 'block_kv'),
  'dkv': (4, 'block_q_dkv', 'block_kv_dkv'),
  'dq': (3, 'block_q_dq', 'block_kv_dq'),
}
_SPLASH = re.compile(r'splash_m[hq]a_(fwd|dkv|dq)')


def is_kernel(instruction: hlo.Instruction) -> bool:
  """Returns whether the instruction is a Pallas kernel."""
  return 'custom_call_target="tpu_custom_call"' in instruction.rest


def flops(instruction: hlo.Instruction, inside: hlo.Computation) -> float | None:
  """Returns the FLOPs of one run of a kernel in the computation `inside`; None if unknown."""
  noted = re.search(r'"flops":\s*"?(\d+)', instruction.rest)
  if noted:
    return float(noted[1])
  kind = _SPLASH.search(instruction.op_name) or _SPLASH.search(instruction.name)
  return _splash(kind[1], instruction, inside) if kind else None


def _splash(kind: str, instruction: hlo.Instruction, inside: hlo.Computation) -> float | None:
  """Counts splash attention FLOPs; the first floating-point operands are queries [..., T, width]
  and keys [..., S, width].
  """
  names = [name for name in instruction.operands if name in inside]
  shapes = [shape for name in names for shape in inside[name].shapes]
  arrays = [shape.dims for shape in shapes if shape.dtype in ('bf16', 'f16', 'f32')]
  products, block_q, block_kv = _PRODUCTS[kind]
  sizes = {name: int(n) for name, n in re.findall(r'\\"(\w+)\\":\s*(\d+)', instruction.rest)}
  if len(arrays) < 2 or len(arrays[0]) < 3 or not {block_q, block_kv} <= sizes.keys():
    return None
  if kind == 'dkv' and re.search(r'\\"use_fused_bwd_kernel\\":\s*true', instruction.rest):
    products += 1  # the fused kernel also computes the gradient of the queries
  (*rows, queries, width), keys = arrays[0], arrays[1][-2]
  positions = [
    shape
    for shape in shapes
    if shape.dtype == 's32' and shape.dims[-1:] in ((128,), (queries,), (keys,))
  ]
  causal = len(positions) % 2 == 1
  pairs = 0
  for start in range(0, queries, sizes[block_q]):
    seen = min(keys, start + sizes[block_q]) if causal else keys
    touched = min(keys, math.ceil(seen / sizes[block_kv]) * sizes[block_kv])
    pairs += min(sizes[block_q], queries - start) * touched
  return 2.0 * products * math.prod(rows) * pairs * width
