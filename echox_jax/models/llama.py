"""Llama decoder: grouped-query attention, rotary positions with llama3 scaling, SwiGLU, RMSNorm,
LoRA, KV cache (facts 4).

Parameters: `embed_tokens/embedding` [V,D],
`trunk/layers/{self_attn/{q,k,v,o}_proj,
mlp/{gate,up,down}_proj, input_layernorm,
post_attention_layernorm}`
with a leading layer axis, `trunk/norm/scale`, `lm_head/embedding` [V,D] (absent when tied).
"Hidden" below is always after the final norm.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors
from echox_jax.config import EchoXConfig, LlamaConfig, LoraConfig, RopeScaling
from echox_jax.models import layers
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.attention import Mask, attention
from echox_jax.parallel.sharding import constrain

ACTIVATION = ('batch', 'length', 'act_embed')  # float[B,T,D] between layers
Cache = dict[str, Array]  # {'key','value'}: float[layers,B,slots,K,H]

# What a layer saves for the backward pass; the rest is recomputed. `dots` saves the matmuls with
# weights.
REMAT_POLICIES = {
  'none': None,
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def init_cache(cfg: LlamaConfig, batch: Any, slots: int) -> Cache:
  """Makes an empty KV cache with room for `slots` positions; `batch` may be a symbolic size of
  `jax.export`.
  """
  shape = (cfg.num_layers, batch, slots, cfg.num_kv_heads, cfg.head_dim)
  return {'key': jnp.zeros(shape, cfg.dtype), 'value': jnp.zeros(shape, cfg.dtype)}


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
    index: Int[Array, ''] | None,
    deterministic: bool,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    cfg = self.cfg
    freqs = rope_frequencies(cfg.head_dim, cfg.rope_theta, cfg.rope_scaling)
    project = functools.partial(_projection, cfg)

    def heads(y):
      return y.reshape(*y.shape[:2], -1, cfg.head_dim)

    q = heads(project('q_proj', cfg.num_heads * cfg.head_dim, ('embed', 'heads'))(x, deterministic))
    k = heads(
      project('k_proj', cfg.num_kv_heads * cfg.head_dim, ('embed', 'kv_heads'))(x, deterministic)
    )
    v = heads(
      project('v_proj', cfg.num_kv_heads * cfg.head_dim, ('embed', 'kv_heads'))(x, deterministic)
    )
    q = constrain(apply_rope(q, positions, freqs), 'batch', 'length', 'heads', None)
    k, v = (
      constrain(y, 'batch', 'key_length', 'kv_heads', None)
      for y in (apply_rope(k, positions, freqs), v)
    )
    if cache is not None:
      k = jax.lax.dynamic_update_slice_in_dim(
        cache['key'], k.astype(cache['key'].dtype), index, axis=1
      )
      v = jax.lax.dynamic_update_slice_in_dim(
        cache['value'], v.astype(cache['value'].dtype), index, axis=1
      )
      cache = {'key': k, 'value': v}
    out = attention(q, k, v, mask, backend=cfg.attention)
    out = out.reshape(*out.shape[:2], -1)
    return project('o_proj', cfg.hidden_size, ('heads', 'embed'))(out, deterministic), cache


class Mlp(nn.Module):
  """SwiGLU feed-forward."""

  cfg: LlamaConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B T D'], deterministic: bool) -> Float[Array, 'B T D']:
    project = functools.partial(_projection, self.cfg)
    gate = project('gate_proj', self.cfg.intermediate_size, ('embed', 'mlp'))(x, deterministic)
    up = project('up_proj', self.cfg.intermediate_size, ('embed', 'mlp'))(x, deterministic)
    inner = constrain(nn.silu(gate) * up, 'batch', 'length', 'mlp')
    return project('down_proj', self.cfg.hidden_size, ('mlp', 'embed'))(inner, deterministic)


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
    index: Int[Array, ''] | None,
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
    index: Int[Array, ''] | None = None,
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    """Returns the hidden states after the final norm, and the cache.

    Args:
      inputs: embeddings.
      positions: rotary positions.
      mask: attention mask over these positions, or over the cache's slots.
      cache: keys and values of earlier calls; this call writes its own from slot `index` on.
      index: first slot to write.
      deterministic: no LoRA dropout.
    """
    cfg = self.cfg
    if cfg.remat not in REMAT_POLICIES:
      raise errors.ConfigError(f'remat is {cfg.remat!r}: use one of {", ".join(REMAT_POLICIES)}.')
    body = (
      Block
      if cfg.remat == 'none'
      else nn.remat(Block, prevent_cse=False, policy=REMAT_POLICIES[cfg.remat])
    )
    scanned = nn.scan(
      body,
      length=cfg.num_layers,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      out_axes=0,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    inputs = constrain(inputs.astype(cfg.dtype), *ACTIVATION)
    x, cache = scanned(cfg, deterministic, name='layers')(inputs, cache, positions, mask, index)
    return layers.RMSNorm(cfg.rms_norm_eps, cfg.dtype, name='norm')(x), cache


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
    index: Int[Array, ''] | None = None,
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    """Calls the `Trunk` with these arguments."""
    return self.trunk(inputs, positions, mask, cache, index, deterministic)

  def logits(self, hidden: Float[Array, '*b D']) -> Float[Array, '*b V']:
    """Returns the logits of the next token, in float32."""
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
  """Returns the output head table from the params of `Llama` or `UnitDecoder` (the trigger score
  needs the row of ".").
  """
  return params['lm_head' if 'lm_head' in params else 'embed_tokens']['embedding']


def init_llm(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of the LLM."""
  return Llama(cfg.llm).init(key, jnp.zeros((1, 2), jnp.int32))['params']


def _projection(cfg: LlamaConfig, name: str, features: int, axes: tuple[str, str]) -> layers.Dense:
  lora = cfg.lora if name in cfg.lora.targets else LoraConfig()
  return layers.Dense(features, axes, lora=lora, dtype=cfg.dtype, name=name)
