"""FLOPs of kernels (Pallas), one instruction each in a program's text.

A kernel may note its own. JAX's splash attention does not: its kernels are known by their names.
They compute whole blocks of queries and keys, as many as their mask touches. A mask that is
computed in the kernel takes the positions of the queries as one more operand, beside the two of the
segments, and is taken for a causal one, the only kind of it that this code uses; without it all
blocks count.
"""

import math
import re

from echox_jax.compiled import hlo

# Products of [block of queries, block of keys, width]: how many, and which sizes the blocks have.
_PRODUCTS = {
  'fwd': (2, 'block_q', 'block_kv'),
  'dkv': (4, 'block_q_dkv', 'block_kv_dkv'),
  'dq': (3, 'block_q_dq', 'block_kv_dq'),
}
_SPLASH = re.compile(r'splash_m[hq]a_(fwd|dkv|dq)')


def is_kernel(instruction: hlo.Instruction) -> bool:
  """Whether the instruction is a kernel of Pallas."""
  return 'custom_call_target="tpu_custom_call"' in instruction.rest


def flops(instruction: hlo.Instruction, inside: hlo.Computation) -> float | None:
  """FLOPs of one run of a kernel, which stands in `inside`; None where they are not known."""
  noted = re.search(r'"flops":\s*"?(\d+)', instruction.rest)
  if noted:
    return float(noted[1])
  kind = _SPLASH.search(instruction.op_name) or _SPLASH.search(instruction.name)
  return _splash(kind[1], instruction, inside) if kind else None


def _splash(kind: str, instruction: hlo.Instruction, inside: hlo.Computation) -> float | None:
  """Queries [..., T, width] and keys [..., S, width] are the first operands with fractions."""
  names = [name for name in instruction.operands if name in inside]
  shapes = [shape for name in names for shape in inside[name].shapes]
  arrays = [shape.dims for shape in shapes if shape.dtype in ('bf16', 'f16', 'f32')]
  products, block_q, block_kv = _PRODUCTS[kind]
  sizes = {name: int(n) for name, n in re.findall(r'\\"(\w+)\\":\s*(\d+)', instruction.rest)}
  if len(arrays) < 2 or len(arrays[0]) < 3 or not {block_q, block_kv} <= sizes.keys():
    return None
  if kind == 'dkv' and re.search(r'\\"use_fused_bwd_kernel\\":\s*true', instruction.rest):
    products += 1  # it makes the gradient of the queries as well
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
