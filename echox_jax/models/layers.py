"""Layers shared by every model part, each with logical axis names on its parameters.

Matmuls run in the module's `dtype`. Parameters, norms and softmax are float32.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from echox_jax.config import LoraConfig
from echox_jax.models import chunked_head, quantize
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.attention import Mask, attention
from echox_jax.parallel.sharding import constrain

default_init = nn.initializers.normal(0.02)  # facts 7: every Linear and Embedding is N(0, 0.02)
# PEFT initialises LoRA's A like a torch Linear, kaiming_uniform(a=sqrt(5)): uniform within 1 /
# sqrt(inputs).
lora_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


@jax.custom_vjp
def matmul(x: Float[Array, '*b D'], kernel: Float[Array, 'D F']) -> Float[Array, '*b F']:
  """x W, with a gradient of W that a CPU computes twice as fast.

  It is a product over all rows, for which XLA on a CPU first transposes one of x and the gradient
  of x W, element by element, together with what computes it. Here that is the narrower one; JAX's
  own rule always takes the gradient.
  """
  return x @ kernel


def _matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return x @ kernel, (x, kernel)


def _matmul_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  rows = tuple(range(x.ndim - 1))
  if x.shape[-1] <= gradient.shape[-1]:
    of_kernel = jnp.tensordot(x, gradient, axes=(rows, rows))
  else:
    of_kernel = jnp.tensordot(gradient, x, axes=(rows, rows)).T
  return gradient @ kernel.T, of_kernel.astype(kernel.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Dense(nn.Module):
  """y = x W (+ b), with an optional low-rank update (LoRA, paper section "Training settings").

  Attributes:
    features: output width.
    axes: logical names of the kernel's input and output axes.
    use_bias: adds a bias.
    lora: with rank > 0, adds alpha / rank * (dropout(x) A) B. B starts at zero, so the layer starts
      as a plain Dense.
  """

  features: int
  axes: tuple[str, str]
  use_bias: bool = False
  lora: LoraConfig = LoraConfig()
  dtype: Any = jnp.float32
  kernel_init: Callable[..., Array] = default_init

  @nn.compact
  def __call__(self, x: Float[Array, '*b D'], deterministic: bool = True) -> Float[Array, '*b F']:
    """Projects the last axis to `features`, in the module's dtype; `deterministic`: no dropout."""
    width = x.shape[-1]
    param = functools.partial(_param, self)
    x = x.astype(self.dtype)
    if self.has_variable('params', quantize.ROWS):
      y = quantize.matmul_rows(x, self.get_variable('params', quantize.ROWS))
    else:
      kernel = param('kernel', self.kernel_init, self.axes, (width, self.features))
      y = matmul(x, kernel.astype(self.dtype))
    if self.has_variable('params', quantize.SCALE):
      y *= self.get_variable('params', quantize.SCALE).astype(self.dtype)
    if self.use_bias:
      y += param('bias', nn.initializers.zeros, self.axes[1:], (self.features,)).astype(self.dtype)
    if self.lora.rank:
      a = param('lora_a', lora_init, (self.axes[0], 'lora_rank'), (width, self.lora.rank))
      out = self.axes[1] if self.axes[1] == 'embed' else 'lora_out'
      b = param(
        'lora_b', nn.initializers.zeros, ('lora_rank', out), (self.lora.rank, self.features)
      )
      dropped = nn.Dropout(self.lora.dropout)(x, deterministic=deterministic)
      low = matmul(dropped, a.astype(self.dtype))
      y += matmul(low, b.astype(self.dtype)) * (self.lora.alpha / self.lora.rank)
    return y


class Embed(nn.Module):
  """A table of vectors, parameter `embedding` [num, features]."""

  num: int
  features: int
  axes: tuple[str, str] = ('vocab', 'table_embed')
  dtype: Any = jnp.float32
  embedding_init: Callable[..., Array] = default_init

  def setup(self):
    self.embedding = _param(
      self, 'embedding', self.embedding_init, self.axes, (self.num, self.features)
    )

  def __call__(self, ids: Int[Array, '*b']) -> Float[Array, '*b D']:
    """Looks up the rows of `ids`."""
    return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)

  def attend(self, x: Float[Array, '*b D']) -> Float[Array, '*b V']:
    """Returns the dot products with all rows: logits, in float32."""
    return chunked_head.logits(x.astype(self.dtype), self.embedding)


class RMSNorm(nn.Module):
  """x * rsqrt(mean(x^2) + eps) * scale, in float32 (facts 4)."""

  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b D']) -> Float[Array, '*b D']:
    scale = _param(self, 'scale', nn.initializers.ones, ('norm',), (x.shape[-1],))
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
    return (x * scale).astype(self.dtype)


class LayerNorm(nn.Module):
  """LayerNorm with scale and bias, in float32."""

  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b D']) -> Float[Array, '*b D']:
    scale = _param(self, 'scale', nn.initializers.ones, ('norm',), (x.shape[-1],))
    bias = _param(self, 'bias', nn.initializers.zeros, ('norm',), (x.shape[-1],))
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
    return (x * scale + bias).astype(self.dtype)


class MultiHeadAttention(nn.Module):
  """Bidirectional attention with biases, as in Whisper, HuBERT and torch's MultiheadAttention.

  Attributes:
    num_heads: heads; must divide the width.
    key_bias: False for Whisper, whose key projection has no bias.
    dropout: rate on the attention weights.
    backend: as in `attention`.
  """

  num_heads: int
  key_bias: bool = True
  dropout: float = 0.0
  backend: str = 'xla'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    key_value: Float[Array, 'B S D'] | None = None,
    mask: Mask = Mask(),
    deterministic: bool = True,
  ) -> Float[Array, 'B T D']:
    """Lets `x` attend to `key_value`, by default to itself."""
    source = x if key_value is None else key_value
    width = x.shape[-1]
    heads = (self.num_heads, width // self.num_heads)
    dense = functools.partial(Dense, width, ('embed', 'heads'), dtype=self.dtype)
    q = dense(use_bias=True, name='q_proj')(x)
    k = dense(use_bias=self.key_bias, name='k_proj')(source)
    v = dense(use_bias=True, name='v_proj')(source)
    dropout = (
      functools.partial(nn.Dropout(self.dropout), deterministic=False)
      if self.dropout and not deterministic
      else None
    )
    q, k, v = (
      constrain(y.reshape(*y.shape[:-1], *heads), 'batch', length, 'heads', None)
      for y, length in ((q, 'length'), (k, 'key_length'), (v, 'key_length'))
    )
    out = attention(q, k, v, mask, dropout, self.backend)
    return Dense(width, ('heads', 'embed'), use_bias=True, dtype=self.dtype, name='out_proj')(
      out.reshape(*out.shape[:-2], width)
    )


def _param(
  module: nn.Module,
  name: str,
  init: Callable[..., Array],
  axes: tuple[str, ...],
  shape: tuple[int, ...],
) -> Array:
  """Creates a float32 parameter with logical axis names."""
  return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)
