"""HiFi-GAN discriminators, used in vocoder training only: multi-period and multi-scale (HiFi-GAN,
section 2.3).

A period discriminator folds the waveform into p rows of every p-th sample, so its 2D (k x 1)
convolutions become 1D convolutions over [B * p, T / p]. Kernels are plain. The published models add
weight norm, and spectral norm on the first scale; these change the optimisation but not the
expressible functions.
"""

from typing import NamedTuple

from flax import linen as nn
import jax.numpy as jnp

from echox_jax.config import DiscriminatorConfig
from echox_jax.models.arrays import Array, Float
from echox_jax.models.convolution import Conv


class DiscriminatorOutput(NamedTuple):
  """Output of one discriminator: logits float32[B,N], feature maps, each float[B or B*p,T,C]."""

  logits: Array
  features: list[Array]


class PeriodDiscriminator(nn.Module):
  """Scores the waveform folded to rows of period `period`."""

  period: int
  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, wave: Float[Array, 'B T']) -> DiscriminatorOutput:
    """Scores waveforms."""
    cfg, p = self.config, self.period
    b, t = wave.shape
    wave = jnp.pad(wave, ((0, 0), (0, -t % p)), mode='reflect')
    x = wave.reshape(b, -1, p).transpose(0, 2, 1).reshape(b * p, -1, 1)
    features = []
    for i, channels in enumerate(cfg.period_channels):
      stride = 3 if i < len(cfg.period_channels) - 1 else 1
      x = nn.leaky_relu(
        Conv(channels, 5, stride, dtype=jnp.dtype(cfg.dtype), name=f'convs_{i}')(x), 0.1
      )
      features.append(x)
    x = Conv(1, 3, dtype=jnp.dtype(cfg.dtype), name='conv_post')(x)
    return DiscriminatorOutput(x.reshape(b, -1).astype(jnp.float32), [*features, x])


class ScaleDiscriminator(nn.Module):
  """Scores the waveform at one rate with long strided convolutions."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, wave: Float[Array, 'B T']) -> DiscriminatorOutput:
    """Scores waveforms."""
    cfg = self.config
    x, features = wave[..., None], []
    layers = zip(
      cfg.scale_channels, cfg.scale_kernel_sizes, cfg.scale_strides, cfg.scale_groups, strict=True
    )
    for i, (channels, kernel, stride, groups) in enumerate(layers):
      x = Conv(
        channels, kernel, stride, groups=groups, dtype=jnp.dtype(cfg.dtype), name=f'convs_{i}'
      )(x)
      x = nn.leaky_relu(x, 0.1)
      features.append(x)
    x = Conv(1, 3, dtype=jnp.dtype(cfg.dtype), name='conv_post')(x)
    return DiscriminatorOutput(x[..., 0].astype(jnp.float32), [*features, x])


class Discriminators(nn.Module):
  """All period discriminators, then the scale discriminators on the waveform average-pooled by 1,
  2, 4, ...
  """

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, wave: Float[Array, 'B T']) -> list[DiscriminatorOutput]:
    """Scores waveforms; returns one output per discriminator."""
    cfg = self.config
    verdicts = [PeriodDiscriminator(p, cfg, name=f'period_{p}')(wave) for p in cfg.periods]
    for i in range(cfg.num_scales):
      if i:
        wave = nn.avg_pool(wave[..., None], (4,), (2,), padding=((2, 2),))[..., 0]
      verdicts.append(ScaleDiscriminator(cfg, name=f'scale_{i}')(wave))
    return verdicts


def init_discriminators(key: Array, cfg: DiscriminatorConfig) -> dict:
  """Makes boxed parameters of all discriminators."""
  return Discriminators(cfg).init(key, jnp.zeros((1, 4096)))['params']
