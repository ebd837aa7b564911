"""HuBERT base encoder (facts 11): convolutions over the waveform, a positional convolution,
post-norm transformer layers.

Parameters: `feature_extractor/conv_{i}` {kernel [k,in,out]}, `feature_extractor/group_norm` (first
convolution only); `feature_layer_norm`, `feature_projection`; `pos_conv` {kernel [k,in/groups,out],
bias} (weight norm folded); `encoder_layer_norm`;
`layers/{attention/{q,k,v,out}_proj,
layer_norm, intermediate_dense, output_dense,
final_layer_norm}` with a leading layer axis. The input is not normalised (base models).
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import EchoXConfig, HubertConfig
from echox_jax.models import layers
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.attention import Mask


def num_states(
  cfg: HubertConfig, samples: Int[Array, '*b'] | int | np.integer
) -> Int[Array, '*b'] | int | np.integer:
  """Returns the number of states (50 Hz) of a clip of `samples`: 1 s gives 49."""
  for kernel, stride in zip(cfg.conv_kernel, cfg.conv_stride):
    samples = (samples - kernel) // stride + 1
  return samples


class GroupNorm(nn.Module):
  """Group norm with one channel per group: normalises each channel over the time of its clip."""

  epsilon: float

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B T C'], valid: Bool[Array, 'B T 1']
  ) -> Float[Array, 'B T C']:
    """Normalises in float32 with the statistics of the `valid` frames."""
    scale = self.param(
      'scale', nn.with_logical_partitioning(nn.initializers.ones, ('norm',)), (x.shape[-1],)
    )
    bias = self.param(
      'bias', nn.with_logical_partitioning(nn.initializers.zeros, ('norm',)), (x.shape[-1],)
    )
    mean = functools.partial(jnp.mean, axis=1, keepdims=True, where=valid)
    x = x.astype(jnp.float32)
    x = x - mean(x)
    return x * jax.lax.rsqrt(mean(x * x) + self.epsilon) * scale + bias


class FeatureExtractor(nn.Module):
  """Waveform -> 50 Hz features: convolutions with no bias and no padding, each followed by GELU."""

  cfg: HubertConfig

  @nn.compact
  def __call__(
    self, audio: Float[Array, 'B S'], lengths: Int[Array, ' B']
  ) -> Float[Array, 'B T C']:
    """Computes the features of clips at 16 kHz, of `lengths` samples each."""
    x = audio[..., None].astype(self.cfg.dtype)
    for i, (width, kernel, stride) in enumerate(
      zip(self.cfg.conv_dim, self.cfg.conv_kernel, self.cfg.conv_stride)
    ):
      x = _conv(
        width,
        (kernel,),
        strides=stride,
        padding='VALID',
        use_bias=False,
        dtype=self.cfg.dtype,
        name=f'conv_{i}',
      )(x)
      lengths = (lengths - kernel) // stride + 1
      if i == 0:
        x = GroupNorm(self.cfg.layer_norm_eps, name='group_norm')(x, _valid(x, lengths)).astype(
          self.cfg.dtype
        )
      x = nn.gelu(x, approximate=False)
    return x


class EncoderLayer(nn.Module):
  """x = LN(x + attn(x)); x = LN(x + MLP(x)): the body of the scan over layers."""

  cfg: HubertConfig

  @nn.compact
  def __call__(self, carry: tuple[Array, Array], number: Array, mask: Mask, tap: Array):
    cfg = self.cfg
    x, tapped = carry
    norm = functools.partial(layers.LayerNorm, cfg.layer_norm_eps, cfg.dtype)
    dense = functools.partial(layers.Dense, use_bias=True, dtype=cfg.dtype)
    attended = layers.MultiHeadAttention(
      cfg.num_heads, backend=cfg.attention, dtype=cfg.dtype, name='attention'
    )(x, mask=mask)
    x = norm(name='layer_norm')(x + attended)
    y = nn.gelu(
      dense(cfg.intermediate_size, ('embed', 'mlp'), name='intermediate_dense')(x),
      approximate=False,
    )
    x = norm(name='final_layer_norm')(
      x + dense(cfg.hidden_size, ('mlp', 'embed'), name='output_dense')(y)
    )
    return (x, jnp.where(number == tap, x, tapped)), None


class HubertEncoder(nn.Module):
  """Waveform -> encoder states."""

  cfg: HubertConfig

  def __call__(
    self,
    audio: Float[Array, 'B S'],
    lengths: Int[Array, ' B'] | None = None,
    output_layer: int | None = None,
  ) -> Float[Array, 'B E D']:
    """Returns the states after `output_layer`.

    Args:
      audio: 16 kHz.
      lengths: samples of each clip; the rest is masked, so a clip gives the same states alone and
        in a batch. None: all samples count.
      output_layer: 1-based; 0 = the input of the first layer, None = the last layer.

    Returns:
      `num_states` states. States in a clip's padding are meaningless.

    Raises:
      ValueError: the encoder has no such layer.
    """
    return self.final_and_layer(
      audio, lengths, self.cfg.num_layers if output_layer is None else output_layer
    )[1]

  @nn.compact
  def final_and_layer(
    self, audio: Float[Array, 'B S'], lengths: Int[Array, ' B'] | None, output_layer: int
  ) -> tuple[Float[Array, 'B E D'], Float[Array, 'B E D']]:
    """Returns the last states and the states after `output_layer` in one pass; arguments as in
    `__call__`.
    """
    cfg = self.cfg
    if not 0 <= output_layer <= cfg.num_layers:
      raise ValueError(
        f'output_layer is {output_layer}, the encoder has layers 0 to {cfg.num_layers}.'
      )
    if lengths is None:
      lengths = jnp.full(audio.shape[0], audio.shape[1])
    norm = functools.partial(layers.LayerNorm, cfg.layer_norm_eps, cfg.dtype)
    x = norm(name='feature_layer_norm')(
      FeatureExtractor(cfg, name='feature_extractor')(audio, lengths)
    )
    x = layers.Dense(
      cfg.hidden_size,
      ('conv_out', 'embed'),
      use_bias=True,
      dtype=cfg.dtype,
      name='feature_projection',
    )(x)
    valid = _valid(x, num_states(cfg, lengths))
    x = jnp.where(valid, x, 0)
    # An even kernel with equal padding on both sides gives one frame too many; drop the last.
    half = cfg.num_conv_pos_embeddings // 2
    nearby = _conv(
      cfg.hidden_size,
      (cfg.num_conv_pos_embeddings,),
      padding=((half, half - 1),),
      feature_group_count=cfg.num_conv_pos_embedding_groups,
      dtype=cfg.dtype,
      name='pos_conv',
    )(x)
    x = norm(name='encoder_layer_norm')(x + nn.gelu(nearby, approximate=False))
    scanned = nn.scan(
      EncoderLayer,
      length=cfg.num_layers,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    carry, _ = scanned(cfg, name='layers')(
      (x, x), jnp.arange(1, cfg.num_layers + 1), Mask(valid[..., 0]), jnp.asarray(output_layer)
    )
    return carry


_conv = functools.partial(
  nn.Conv,
  kernel_init=nn.with_logical_partitioning(
    layers.default_init, ('conv_kernel', 'conv_in', 'conv_out')
  ),
  bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ('conv_out',)),
)


def init_hubert(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of the encoder."""
  return HubertEncoder(cfg.hubert).init(key, jnp.zeros((1, 16000)))['params']


def _valid(x: Array, lengths: Array) -> Array:
  """Returns bool[B,T,1]: which frames of float[B,T,C] are within int[B] `lengths`."""
  return (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
