"""Llama decoder: grouped-query attention, rotary positions with llama3 scaling, SwiGLU, RMSNorm,
LoRA, KV cache (facts 4). By its config also a Qwen2 (biases on q, k, v) or a Qwen3 (RMS norms on
each head of q and k).

Parameters: `embed_tokens/embedding` [V,D],
`trunk/layers/{self_attn/{q,k,v,o}_proj,
mlp/{gate,up,down}_proj, input_layernorm,
post_attention_layernorm}`
with a leading layer axis, `trunk/norm/scale`, `lm_head/embedding` [V,D] (absent when tied).
With `qkv_bias`, `{q,k,v}_proj` hold a `bias`; with `qk_norm`, `self_attn/{q,k}_norm/scale` [H].
"Hidden" below is always after the final norm.
"""

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors
from echox_jax.config import EchoXConfig, LlamaConfig, LoraConfig, RopeScaling
from echox_jax.models import layers, quantize
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.attention import Mask, attention, cached_attention
from echox_jax.parallel.sharding import constrain

ACTIVATION = ('batch', 'length', 'act_embed')  # float[B,T,D] between layers
# {'key','value'}: float[layers,B,K,slots,H]; of separate layers {'layers_0': {'key','value'}, ...}
# with float[B,K,slots,H]. Heads come first: a CPU would copy the other order for every token.
Cache = dict[str, Any]

FIRST_HEAD = 'first_head'  # collection of `query`, `key` of each layer's first head
HEAD = 'head'  # see `transpose_head`
# Projections that see the same input, see `join_projections`.
_JOINT = {'qkv_proj': ('q_proj', 'k_proj', 'v_proj'), 'gate_up_proj': ('gate_proj', 'up_proj')}

# What a layer saves for the backward pass; the rest is recomputed. `dots` saves the matmuls with
# weights.
REMAT_POLICIES = {
  'none': None,
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def init_cache(cfg: LlamaConfig, batch: Any, slots: int, separate: bool = False) -> Cache:
  """Makes an empty KV cache with room for `slots` positions.

  Args:
    cfg: of the trunk.
    batch: rows; may be a symbolic size of `jax.export`.
    slots: positions.
    separate: whether the layers are, see `separate_layers`.
  """
  shape = (batch, cfg.num_kv_heads, slots, cfg.head_dim)

  def empty(*leading):
    return {name: jnp.zeros((*leading, *shape), cfg.dtype) for name in ('key', 'value')}

  if separate:
    return {f'layers_{i}': empty() for i in range(cfg.num_layers)}
  return empty(cfg.num_layers)


def write_slots(
  held: Float[Array, 'B K S H'], new: Float[Array, 'B T K H'], index: Int[Array, '...']
) -> Float[Array, 'B K S H']:
  """Writes keys or values into the slots from `index` on: one number for all rows, or one a row."""
  new = jnp.swapaxes(new.astype(held.dtype), 1, 2)
  if jnp.ndim(index) == 0:
    return jax.lax.dynamic_update_slice_in_dim(held, new, index, axis=2)
  write = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
  return jax.vmap(write)(held, new, index)


def separate_layers(params: dict) -> dict:
  """Takes the layers of a trunk apart: `layers` with a leading layer axis -> `layers_0` ...

  A scan over layers copies the weights of each out of the stack. For one token on a CPU that takes
  longer than the products.

  Args:
    params: of a module that holds a `trunk`.
  """
  trunk = dict(params['trunk'])
  stacked = trunk.pop('layers')
  number = jax.tree.leaves(stacked)[0].shape[0]
  apart = {f'layers_{i}': jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(number)}
  return {**params, 'trunk': trunk | apart}


def join_projections(params: dict) -> dict:
  """Puts kernels, and their biases, side by side that see the same input: q, k and v as `qkv_proj`,
  gate and up as `gate_up_proj`. For one token, one long product takes less time than several short
  ones.

  Args:
    params: of a module that holds a `trunk`, without LoRA.
  """
  made = {
    name: join_projections(leaf) if isinstance(leaf, dict) else leaf
    for name, leaf in params.items()
  }
  for joint, parts in _JOINT.items():
    if parts[0] in made:
      together = [made.pop(part) for part in parts]
      made[joint] = {
        leaf: jnp.concatenate([one[leaf] for one in together], axis=-1) for leaf in together[0]
      }
  return made


def transpose_head(params: dict, table: Float[Array, 'V D']) -> dict:
  """Holds an output table as `head` [D,V]. For a product of several rows, a CPU transposes a long
  [V,D] each time, which takes ten times longer than the product.

  Args:
    params: of `Llama` or `UnitDecoder`; a table that is tied stays beside it.
    table: of `head_embedding`, or the rows of it that can be chosen.
  """
  rest = {name: group for name, group in params.items() if name != 'lm_head'}
  return {**rest, HEAD: jnp.array(table.T)}


def quantise_head(params: dict) -> dict:
  """Holds the `head` of `transpose_head` as int8: a quarter of what a token reads of it."""
  return {**params, HEAD: quantize.with_rows(quantize.quantize({quantize.KERNEL: params[HEAD]}))}


def are_layers_separate(params: dict) -> bool:
  """Whether `separate_layers` made these params of a module that holds a `trunk`."""
  return 'layers' not in params['trunk']


def rope_frequencies(
  head_dim: int, theta: float | int, scaling: RopeScaling | None
) -> Float[np.ndarray, ' half']:
  """Returns the rotation of each head pair in radians per position, float32, with llama3 scaling
  (facts 4).
  """
  freqs = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
  if scaling is None:
    return freqs.astype(np.float32)
  wavelength = 2 * np.pi / freqs
  ratio = scaling.original_max_positions / wavelength
  span = scaling.high_freq_factor - scaling.low_freq_factor
  smooth = np.clip((ratio - scaling.low_freq_factor) / span, 0.0, 1.0)
  return ((1 - smooth) * freqs / scaling.factor + smooth * freqs).astype(np.float32)


def apply_rope(
  x: Float[Array, 'B T N H'], positions: Int[Array, 'B T'], freqs: Float[np.ndarray, ' half']
) -> Float[Array, 'B T N H']:
  """Applies rotary positions to heads, half-split layout (`rotate_half`), in the dtype of `x`."""
  angles = positions[..., None].astype(jnp.float32) * freqs
  sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(
    x.dtype
  )


def _project(
  module: nn.Module,
  joint: str,
  features: tuple[int, ...],
  axes: tuple[str, ...],
  use_bias: bool,
  x: Array,
  deterministic: bool,
) -> list[Array]:
  """Projects x by each part of `joint`, one by one or by the kernel of `join_projections`."""
  cfg = module.cfg
  if module.has_variable('params', joint):
    dense = layers.Dense(sum(features), ('embed', axes[0]), use_bias, dtype=cfg.dtype, name=joint)
    return jnp.split(dense(x, deterministic), np.cumsum(features)[:-1], axis=-1)
  return [
    _projection(cfg, name, size, ('embed', axis), use_bias)(x, deterministic)
    for name, size, axis in zip(_JOINT[joint], features, axes)
  ]


class Attention(nn.Module):
  """Grouped-query self-attention, optionally with a KV cache."""

  cfg: LlamaConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    positions: Int[Array, 'B T'],
    mask: Mask,
    cache: Cache | None,
    index: Int[Array, '...'] | None,
    deterministic: bool,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    cfg = self.cfg
    freqs = rope_frequencies(cfg.head_dim, cfg.rope_theta, cfg.rope_scaling)
    sizes = (cfg.num_heads, cfg.num_kv_heads, cfg.num_kv_heads)
    q, k, v = (
      y.reshape(*y.shape[:2], -1, cfg.head_dim)
      for y in _project(
        self,
        'qkv_proj',
        tuple(size * cfg.head_dim for size in sizes),
        ('heads', 'kv_heads', 'kv_heads'),
        cfg.qkv_bias,
        x,
        deterministic,
      )
    )
    if cfg.qk_norm:
      norm = functools.partial(layers.RMSNorm, cfg.rms_norm_eps, cfg.dtype)
      q, k = norm(name='q_norm')(q), norm(name='k_norm')(k)
    q = constrain(apply_rope(q, positions, freqs), 'batch', 'length', 'heads', None)
    k, v = (
      constrain(y, 'batch', 'key_length', 'kv_heads', None)
      for y in (apply_rope(k, positions, freqs), v)
    )
    if cache is None:
      self.sow(FIRST_HEAD, 'query', q[:, :, 0])
      self.sow(FIRST_HEAD, 'key', k[:, :, 0])
      out = attention(q, k, v, mask, backend=cfg.attention)
    else:
      k, v = write_slots(cache['key'], k, index), write_slots(cache['value'], v, index)
      cache = {'key': k, 'value': v}
      out = cached_attention(q, k, v, mask, backend=cfg.attention)
    out = out.reshape(*out.shape[:2], -1)
    out = _projection(cfg, 'o_proj', cfg.hidden_size, ('heads', 'embed'))(out, deterministic)
    return out, cache


class Mlp(nn.Module):
  """SwiGLU feed-forward."""

  cfg: LlamaConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B T D'], deterministic: bool) -> Float[Array, 'B T D']:
    cfg, size = self.cfg, self.cfg.intermediate_size
    gate, up = _project(self, 'gate_up_proj', (size, size), ('mlp', 'mlp'), False, x, deterministic)
    inner = constrain(nn.silu(gate) * up, 'batch', 'length', 'mlp')
    return _projection(cfg, 'down_proj', cfg.hidden_size, ('mlp', 'embed'))(inner, deterministic)


class Block(nn.Module):
  """Pre-norm attention and feed-forward with residuals: the body of the scan over layers."""

  cfg: LlamaConfig
  deterministic: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    cache: Cache | None,
    positions: Int[Array, 'B T'],
    mask: Mask,
    index: Int[Array, '...'] | None,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    norm = functools.partial(layers.RMSNorm, self.cfg.rms_norm_eps, self.cfg.dtype)
    out, cache = Attention(self.cfg, name='self_attn')(
      norm(name='input_layernorm')(x), positions, mask, cache, index, self.deterministic
    )
    x = x + out
    x = x + Mlp(self.cfg, name='mlp')(norm(name='post_attention_layernorm')(x), self.deterministic)
    return constrain(x, *ACTIVATION), cache


class Trunk(nn.Module):
  """All layers and the final norm, from embeddings to hidden states. The LLM and the unit decoder
  share this module.
  """

  cfg: LlamaConfig

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'B T D'],
    positions: Int[Array, 'B T'],
    mask: Mask,
    cache: Cache | None = None,
    index: Int[Array, '...'] | None = None,
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    """Returns the hidden states after the final norm, and the cache.

    Args:
      inputs: embeddings.
      positions: rotary positions.
      mask: attention mask over these positions, or over the cache's slots.
      cache: keys and values of earlier calls; this call writes its own from slot `index` on.
      index: first slot to write, of all rows or of each.
      deterministic: no LoRA dropout.
    """
    cfg = self.cfg
    if cfg.remat not in REMAT_POLICIES:
      raise errors.ConfigError(f'remat is {cfg.remat!r}: use one of {", ".join(REMAT_POLICIES)}.')
    inputs = constrain(inputs.astype(cfg.dtype), *ACTIVATION)
    norm = layers.RMSNorm(cfg.rms_norm_eps, cfg.dtype, name='norm')
    if not self.is_initializing() and not self.has_variable('params', 'layers'):
      x, cache = self._layer_by_layer(inputs, cache, positions, mask, index, deterministic)
      return norm(x), cache
    body = (
      Block
      if cfg.remat == 'none'
      else nn.remat(Block, prevent_cse=False, policy=REMAT_POLICIES[cfg.remat])
    )
    scanned = nn.scan(
      body,
      length=cfg.num_layers,
      variable_axes={'params': 0, FIRST_HEAD: 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      out_axes=0,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    x, cache = scanned(cfg, deterministic, name='layers')(inputs, cache, positions, mask, index)
    return norm(x), cache

  def _layer_by_layer(
    self,
    x: Array,
    cache: Cache | None,
    positions: Array,
    mask: Mask,
    index: Array | None,
    deterministic: bool,
  ) -> tuple[Array, Cache | None]:
    """The layers of `separate_layers`, without a scan."""
    grown = {}
    for i in range(self.cfg.num_layers):
      name = f'layers_{i}'
      own = None if cache is None else cache[name]
      x, grown[name] = Block(self.cfg, deterministic, name=name)(x, own, positions, mask, index)
    return x, None if cache is None else grown


class Llama(nn.Module):
  """The LLM: token embeddings, trunk, head. Separate methods let the caller splice in speech
  embeddings.
  """

  cfg: LlamaConfig

  def setup(self):
    cfg = self.cfg
    self.embed_tokens = layers.Embed(cfg.vocab_size, cfg.hidden_size, dtype=cfg.dtype)
    if not cfg.tie_embeddings:
      self.lm_head = layers.Embed(cfg.vocab_size, cfg.hidden_size, dtype=cfg.dtype)
    self.trunk = Trunk(cfg)

  def embed(self, ids: Int[Array, 'B T']) -> Float[Array, 'B T D']:
    """Looks up the embeddings of tokens."""
    return constrain(self.embed_tokens(ids), *ACTIVATION)

  def hidden(
    self,
    inputs: Float[Array, 'B T D'],
    positions: Int[Array, 'B T'],
    mask: Mask,
    cache: Cache | None = None,
    index: Int[Array, '...'] | None = None,
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    """Calls the `Trunk` with these arguments."""
    return self.trunk(inputs, positions, mask, cache, index, deterministic)

  def logits(self, hidden: Float[Array, '*b D']) -> Float[Array, '*b V']:
    """Returns the logits of the next token, in float32."""
    if self.has_variable('params', HEAD):
      table = self.get_variable('params', HEAD)
      if isinstance(table, Mapping):
        return quantize.scaled_product(hidden.astype(self.cfg.dtype), table).astype(jnp.float32)
      return jnp.matmul(hidden.astype(table.dtype), table, preferred_element_type=jnp.float32)
    return (self.embed_tokens if self.cfg.tie_embeddings else self.lm_head).attend(hidden)

  def __call__(self, ids: Int[Array, 'B T'], deterministic: bool = True) -> Float[Array, 'B T V']:
    """Runs the text-only causal forward pass and returns float32 logits. Initialisation uses it
    too.
    """
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    return self.logits(
      self.hidden(self.embed(ids), positions, Mask(causal=True), deterministic=deterministic)[0]
    )


def head_embedding(params: dict) -> Float[Array, 'V D']:
  """Returns the output head table from the params of `Llama` or `UnitDecoder`."""
  return params['lm_head' if 'lm_head' in params else 'embed_tokens']['embedding']


def head_row(params: dict, token: int) -> Float[Array, ' D']:
  """Returns the row of a token in the output head table (the trigger score needs that of ".")."""
  if HEAD not in params:
    return head_embedding(params)[token]
  head = params[HEAD]
  return quantize.row(head, token) if isinstance(head, Mapping) else head[:, token]


def apply_llm(params: dict, cfg: EchoXConfig, method: str, *args: Any) -> Any:
  """Calls a method of `Llama` with the group `llm` of a model's parameters."""
  return Llama(cfg.llm).apply({'params': params['llm']}, *args, method=method)


def init_llm(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of the LLM."""
  return Llama(cfg.llm).init(key, jnp.zeros((1, 2), jnp.int32))['params']


def _projection(
  cfg: LlamaConfig, name: str, features: int, axes: tuple[str, str], use_bias: bool = False
) -> layers.Dense:
  lora = cfg.lora if name in cfg.lora.targets else LoraConfig()
  return layers.Dense(features, axes, use_bias, lora, cfg.dtype, name=name)
