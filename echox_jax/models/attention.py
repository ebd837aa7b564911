"""Scaled dot-product attention with the best backend of the platform: plain matmuls, splash
attention (TPU), cuDNN (GPU), or one head after another (CPU).

All backends agree up to rounding at valid positions. At padding positions their results are finite
but differ.
"""

from collections.abc import Callable
import functools
import logging
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from echox_jax import errors
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.parallel import sharding

BACKENDS = ('xla', 'splash', 'cudnn', 'by_head', 'auto')
_BEST = {'tpu': 'splash', 'gpu': 'cudnn', 'cpu': 'by_head'}
# From this many scores per clip and head, a CPU is faster if it takes one head after another.
_MANY_SCORES = 128 * 128
# Slots of a cache that one new token reads at a time, as far as they are in use; so few slots that
# reading all at once takes less time than blocks do.
_BLOCK, _FEW_SLOTS = 64, 320
_MASKED = -1e30  # finite, so that a fully masked row stays finite
_LANES, _MAX_BLOCK = 128, 512  # splash block sizes are multiples of _LANES, up to _MAX_BLOCK


@struct.dataclass
class Mask:
  """An attention mask: a query sees a key only if every field that is set allows it.

  Attributes:
    keys: bool[B,S], real keys; a cache may have more slots after them, which `causal` must hide.
    segments: int[B,T], S = T: segments of a packed row see only themselves.
    allowed: bool, broadcastable to [B,1,T,S]: any mask that the other fields cannot express.
    causal: no position sees later ones; each sees itself, real or not.
  """

  keys: Array | None = None
  segments: Array | None = None
  allowed: Array | None = None
  causal: bool = struct.field(pytree_node=False, default=False)

  def dense(self, queries: Any, keys: Any) -> Bool[Array, 'rows 1 T S'] | None:
    """Returns which keys each query may see; None = all keys.

    An axis of length 1 stands for all rows or all queries. Both numbers may be symbolic
    (`jax.export`).
    """
    seen = []
    if self.keys is not None:
      seen.append(jnp.pad(self.keys, ((0, 0), (0, keys - self.keys.shape[1])))[:, None])
    if self.segments is not None:
      seen.append(self.segments[:, :, None] == self.segments[:, None])
    if self.causal:
      itself = jnp.eye(queries, keys, dtype=bool)
      seen = [x | itself for x in seen] + [jnp.tril(jnp.ones((1, queries, keys), bool))]
    seen = [x[:, None] for x in seen] + ([] if self.allowed is None else [self.allowed])
    return functools.reduce(jnp.logical_and, seen) if seen else None


def segment_positions(segments: Int[Array, 'B T']) -> Int[Array, 'B T']:
  """Returns positions 0, 1, 2... that restart in every segment."""
  at = jnp.arange(segments.shape[1])
  begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  return at - jax.lax.cummax(jnp.where(begins, at, 0), axis=1)


def attention(
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B S K H'],
  value: Float[Array, 'B S K H'],
  mask: Mask = Mask(),
  dropout: Callable[[Array], Array] | None = None,
  backend: str = 'xla',
) -> Float[Array, 'B T N H']:
  """Computes attention with grouped key/value heads; the softmax is in float32.

  Args:
    query: N heads.
    key: K heads; N is a multiple of K.
    value: K heads.
    mask: the attention mask.
    dropout: applied to the attention weights.
    backend: `xla`, `splash`, `cudnn`, `by_head`, or `auto` (the platform's best). If it is not
      available, `xla` replaces it and the log says why.

  Returns:
    The weighted sums of the values, in their dtype.

  Raises:
    ConfigError: the backend is unknown.
  """
  if backend not in BACKENDS:
    raise errors.ConfigError(f'attention is {backend!r}: use one of {", ".join(BACKENDS)}.')
  chosen = _chosen(backend)
  if chosen == 'by_head' and dropout is None and query.shape[1] * key.shape[1] >= _MANY_SCORES:
    return by_head(query, key, value, mask)
  if chosen in ('splash', 'cudnn'):
    why_not = obstacle(chosen, query, key, mask, dropout is not None)
    if why_not is None:
      compute = functools.partial({'splash': splash, 'cudnn': cudnn}[chosen], causal=mask.causal)
      return _by_rows_and_heads(compute, query, key, value, mask.keys, mask.segments)
    say_once(
      logging.INFO if backend == 'auto' else logging.WARNING,
      f'attention {chosen!r} is not available here, {why_not}: using xla instead.',
    )
  return xla(query, key, value, mask, dropout)


def cached_attention(
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B K S H'],
  value: Float[Array, 'B K S H'],
  mask: Mask = Mask(),
  backend: str = 'xla',
) -> Float[Array, 'B T N H']:
  """Computes `attention` over the keys and values of a cache, whose heads come first."""
  by_keys = mask.keys is not None and not mask.causal
  by_blocks = query.shape[1] == 1 and by_keys and _chosen(backend) == 'by_head'
  if by_blocks and key.shape[2] > _FEW_SLOTS:  # asked last: slots may be symbolic
    return by_block(query, key, value, mask.keys)
  return attention(query, jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2), mask, None, backend)


def _chosen(backend: str) -> str:
  """The backend that a name stands for on this platform."""
  return _BEST.get(current_platform(), 'xla') if backend == 'auto' else backend


def xla(
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B S K H'],
  value: Float[Array, 'B S K H'],
  mask: Mask = Mask(),
  dropout: Callable[[Array], Array] | None = None,
) -> Float[Array, 'B T N H']:
  """Computes `attention` as two matmuls around a softmax, on every platform, for every mask."""
  b, t, n, h = query.shape
  k = key.shape[2]
  query = query.reshape(b, t, k, n // k, h) * h**-0.5
  scores = jnp.einsum('BTKGH,BSKH->BKGTS', query, key, preferred_element_type=jnp.float32)
  seen = mask.dense(t, key.shape[1])
  if seen is not None:
    scores = jnp.where(seen[:, :, None], scores, _MASKED)
  weights = jax.nn.softmax(scores, axis=-1)
  if dropout is not None:
    weights = dropout(weights)
  out = jnp.einsum('BKGTS,BSKH->BTKGH', weights.astype(value.dtype), value)
  return out.reshape(b, t, n, h)


def by_head(
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B S K H'],
  value: Float[Array, 'B S K H'],
  mask: Mask = Mask(),
) -> Float[Array, 'B T N H']:
  """Computes `attention` one key/value head after another, so that the scores of one fit the cache
  of a CPU; they are computed again in the backward pass.
  """
  b, t, n, h = query.shape
  k = key.shape[2]
  seen = mask.dense(t, key.shape[1])
  seen = None if seen is None else seen[:, 0]

  @jax.checkpoint
  def head(_, operands):
    q, k, v = operands  # [B,G,T,H], [B,S,H], [B,S,H]
    scores = jnp.einsum('BGTH,BSH->BGTS', q, k, preferred_element_type=jnp.float32)
    if seen is not None:
      scores = jnp.where(seen[:, None], scores, _MASKED)
    scores = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = scores.sum(axis=-1, keepdims=True)  # divided by at the end, where there is less of it
    out = jnp.einsum('BGTS,BSH->BGTH', scores.astype(v.dtype), v)
    return None, (out / total).astype(v.dtype)

  groups = (query * h**-0.5).reshape(b, t, k, n // k, h).transpose(2, 0, 3, 1, 4)
  keys, values = (x.transpose(2, 0, 1, 3) for x in (key, value))
  _, out = jax.lax.scan(head, None, (groups, keys, values))
  return out.transpose(1, 3, 0, 2, 4).reshape(b, t, n, h)


def by_block(
  query: Float[Array, 'B 1 N H'],
  key: Float[Array, 'B K S H'],
  value: Float[Array, 'B K S H'],
  keys: Bool[Array, 'B S'],
) -> Float[Array, 'B 1 N H']:
  """Computes `attention` of one new token over a cache, block by block up to the last slot that a
  row sees, so that slots which are not in use cost no time. It has no gradient.
  """
  b, _, n, h = query.shape
  k, slots = key.shape[1:3]
  size = min(_BLOCK, slots)
  used = jnp.max(jnp.where(keys, 1 + jnp.arange(slots), 0))
  query = query.reshape(b, k, n // k, h) * h**-0.5

  def block(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    # The last block may overlap the one before it: what that has seen is hidden.
    start = jnp.minimum(i * size, slots - size)
    own_key, own_value, seen = (
      jax.lax.dynamic_slice_in_dim(x, start, size, axis)
      for x, axis in ((key, 2), (value, 2), (keys, 1))
    )
    seen &= start + jnp.arange(size) >= i * size
    scores = jnp.einsum('BKGH,BKSH->BKGS', query, own_key, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[:, None, None], scores, _MASKED)
    largest, total, out = carry
    larger = jnp.maximum(largest, scores.max(axis=-1))
    weights = jnp.exp(scores - larger[..., None])
    before = jnp.exp(largest - larger)
    new = jnp.einsum('BKGS,BKSH->BKGH', weights.astype(value.dtype), own_value)
    return larger, total * before + weights.sum(axis=-1), out * before[..., None] + new

  start = (
    jnp.full((b, k, n // k), _MASKED),
    jnp.zeros((b, k, n // k)),
    jnp.zeros((b, k, n // k, h)),
  )
  _, total, out = jax.lax.fori_loop(0, (used + size - 1) // size, block, start)
  out = out / jnp.maximum(total, 1e-30)[..., None]  # a row that sees nothing gives 0
  return out.astype(value.dtype).reshape(b, 1, n, h)


def splash(
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B T K H'],
  value: Float[Array, 'B T K H'],
  keys: Bool[Array, 'B T'] | None,
  segments: Int[Array, 'B T'] | None,
  causal: bool,
  interpret: bool = False,
) -> Float[Array, 'B T N H']:
  """Computes `attention` with JAX's Pallas kernel for TPUs. It never stores the scores and skips
  fully masked blocks.

  Args:
    query, key, value: as in `attention`, of any length; padded to whole blocks here.
    keys, segments, causal: fields of `Mask`.
    interpret: runs without a TPU, slowly (for tests).
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  b, t, n, h = query.shape
  size = -(-t // _LANES) * _LANES

  def fill(x, value=0):
    return jnp.pad(x, ((0, 0), (0, size - t)) + ((0, 0),) * (x.ndim - 2), constant_values=value)

  segments = jnp.zeros((b, t), jnp.int32) if segments is None else segments.astype(jnp.int32)
  nobody = -1  # segment of padding and of keys that are not real
  ids = kernels.SegmentIds(
    fill(segments, nobody),
    fill(segments if keys is None else jnp.where(keys, segments, nobody), nobody),
  )

  block = max(x for x in range(_LANES, _MAX_BLOCK + 1, _LANES) if size % x == 0)
  names = (
    'block_q',
    'block_kv',
    'block_kv_compute',
    'block_q_dkv',
    'block_kv_dkv',
    'block_kv_dkv_compute',
    'block_q_dq',
    'block_kv_dq',
  )
  of_head = (masks.CausalMask if causal else masks.FullMask)((size, size))
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([of_head] * n),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=kernels.BlockSizes(**dict.fromkeys(names, block)),
    interpret=interpret,
  )

  def heads_first(x):
    return jnp.swapaxes(fill(x), 1, 2)

  out = jax.vmap(kernel)(heads_first(query * h**-0.5), heads_first(key), heads_first(value), ids)
  return jnp.swapaxes(out, 1, 2)[:, :t].astype(value.dtype)


def cudnn(
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B T K H'],
  value: Float[Array, 'B T K H'],
  keys: Bool[Array, 'B T'] | None,
  segments: Int[Array, 'B T'] | None,
  causal: bool,
) -> Float[Array, 'B T N H']:
  """Computes `attention` with cuDNN's flash attention; arguments as in `splash`. `keys` and
  `segments` become a dense mask, but `causal` does not.
  """
  seen = Mask(keys, segments).dense(query.shape[1], key.shape[1])
  if causal and seen is not None:
    seen |= jnp.eye(query.shape[1], dtype=bool)
  return jax.nn.dot_product_attention(
    query, key, value, mask=seen, is_causal=causal, implementation='cudnn'
  )


def obstacle(
  backend: str,
  query: Float[Array, 'B T N H'],
  key: Float[Array, 'B S K _'],
  mask: Mask,
  dropout: bool,
) -> str | None:
  """Returns why `splash` or `cudnn` cannot compute this call; None = it can."""
  platform, home = current_platform(), {made_for: name for name, made_for in _BEST.items()}[backend]
  head_dim = query.shape[3]
  reasons = (
    (platform != home, f'as this runs on {platform}, not {home}'),
    (dropout, 'as this call drops attention weights'),
    (mask.allowed is not None, 'as the mask is irregular'),
    (query.shape[1] != key.shape[1], 'as the keys come from a cache'),
    (sharding.axis_size('sequence') > 1, "as mesh axis 'sequence' splits the positions"),
    (
      not sharding.is_even(query.shape, _HEADS) or not sharding.is_even(key.shape, _KEY_HEADS),
      f'as the mesh does not divide {query.shape[0]} rows or {key.shape[2]} key/value heads',
    ),
    (
      backend == 'cudnn' and query.dtype not in (jnp.bfloat16, jnp.float16),
      f'as it takes bfloat16 or float16, not {query.dtype}',
    ),
    (
      backend == 'cudnn' and (head_dim > 128 or head_dim % 8),
      f'as it takes heads of 8, 16 ... 128, not {head_dim}',
    ),
  )
  return next((text for holds, text in reasons if holds), None)


_HEADS, _KEY_HEADS = ('batch', None, 'heads', None), ('batch', None, 'kv_heads', None)


def _by_rows_and_heads(
  compute, query: Array, key: Array, value: Array, *of_rows: Array | None
) -> Array:
  """Runs `compute` on each device's own rows and heads; the compiler cannot partition kernels."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return compute(query, key, value, *of_rows)
  heads, key_heads = (sharding.spec(names) for names in (_HEADS, _KEY_HEADS))
  rows = tuple(None if x is None else sharding.spec(('batch', None)) for x in of_rows)
  return jax.shard_map(
    compute,
    mesh=mesh,
    in_specs=(heads, key_heads, key_heads, *rows),
    out_specs=heads,
    check_vma=False,
  )(query, key, value, *of_rows)


def current_platform() -> str:
  """Returns the platform that the program is compiled for, which may not be the local one."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


@functools.cache
def say_once(level: int, message: str) -> None:
  """Logs each message only once."""
  logging.getLogger(__name__).log(level, message)
