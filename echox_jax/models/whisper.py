"""Whisper encoder (facts 2): two convolutions, learned positions, pre-norm transformer layers,
final LayerNorm.

Parameters: `conv1`, `conv2` {kernel [3,in,out], bias}; `embed_positions` [positions,D];
`layers/{self_attn_layer_norm, self_attn/{q,k,v,out}_proj, final_layer_norm, fc1, fc2}` with a
leading layer axis (the key projection has no bias); `layer_norm` {scale, bias}. Dense kernels are
[in, out].

Whisper was trained on 30 s windows. Shorter inputs use only the first positions, so no compute goes
to silence that would fill the window. The states differ slightly from those of a padded window;
half a second of zeros after the speech keeps them accurate.
"""

import functools

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from echox_jax.config import EchoXConfig, WhisperConfig
from echox_jax.models import layers
from echox_jax.models.arrays import Array, Float, Int
from echox_jax.models.attention import Mask
from echox_jax.parallel.sharding import constrain


def num_states(
  mel_frames: Int[Array, '*b'] | int | np.integer,
) -> Int[Array, '*b'] | int | np.integer:
  """Returns the number of encoder states (50 Hz) of `mel_frames` (100 Hz)."""
  return (mel_frames + 1) // 2


class EncoderLayer(nn.Module):
  """x += attn(LN x); x += fc2(GELU(fc1(LN x))): the body of the scan over layers."""

  cfg: WhisperConfig

  @nn.compact
  def __call__(self, carry: tuple[Array, Array], number: Array, mask: Mask, tap: Array):
    cfg = self.cfg
    x, tapped = carry
    norm = functools.partial(layers.LayerNorm, cfg.layer_norm_eps, cfg.dtype)
    dense = functools.partial(layers.Dense, use_bias=True, dtype=cfg.dtype)
    attend = layers.MultiHeadAttention(
      cfg.num_heads, key_bias=False, backend=cfg.attention, dtype=cfg.dtype, name='self_attn'
    )
    x = x + attend(norm(name='self_attn_layer_norm')(x), mask=mask)
    y = dense(cfg.intermediate_size, ('embed', 'mlp'), name='fc1')(norm(name='final_layer_norm')(x))
    y = constrain(nn.gelu(y, approximate=False), 'batch', 'length', 'mlp')
    x = constrain(
      x + dense(cfg.hidden_size, ('mlp', 'embed'), name='fc2')(y), 'batch', 'length', 'act_embed'
    )
    return (x, jnp.where(number == tap, x, tapped)), None


class WhisperEncoder(nn.Module):
  """Log-mel frames -> encoder states."""

  cfg: WhisperConfig

  def __call__(
    self,
    mel: Float[Array, 'B F M'],
    lengths: Int[Array, ' B'] | None = None,
    output_layer: int | None = None,
  ) -> Float[Array, 'B E D']:
    """Returns the states after `output_layer`.

    Args:
      mel: log-mel frames at 100 Hz, at most 2 * max_positions.
      lengths: mel frames of each clip; the rest is masked, so a clip gives the same states alone
        and in a batch. None: all frames count.
      output_layer: 1-based; None = the last layer followed by the final LayerNorm.

    Returns:
      `num_states` states at 50 Hz. States in a clip's padding are meaningless.

    Raises:
      ValueError: there are too many frames, or the encoder has no such layer.
    """
    final, layer = self.final_and_layer(mel, lengths, output_layer or self.cfg.num_layers)
    return final if output_layer is None else layer

  @nn.compact
  def final_and_layer(
    self, mel: Float[Array, 'B F M'], lengths: Int[Array, ' B'] | None, output_layer: int
  ) -> tuple[Float[Array, 'B E D'], Float[Array, 'B E D']]:
    """Returns the final states and the states after `output_layer` (1-based) in one pass; arguments
    as in `__call__`.
    """
    cfg = self.cfg
    if not 1 <= output_layer <= cfg.num_layers:
      raise ValueError(
        f'output_layer is {output_layer}, the encoder has layers 1 to {cfg.num_layers}.'
      )
    conv = functools.partial(
      nn.Conv,
      cfg.hidden_size,
      (3,),
      padding=1,
      dtype=cfg.dtype,
      kernel_init=nn.with_logical_partitioning(
        layers.default_init, ('conv_kernel', 'conv_in', 'conv_out')
      ),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ('conv_out',)),
    )
    x = nn.gelu(conv(name='conv1')(_hide(mel, lengths)), approximate=False)
    x = nn.gelu(conv(strides=2, name='conv2')(_hide(x, lengths)), approximate=False)
    positions = self.param(
      'embed_positions',
      nn.with_logical_partitioning(layers.default_init, ('positions', 'embed')),
      (cfg.max_positions, cfg.hidden_size),
      jnp.float32,
    )
    t = x.shape[1]
    if t > cfg.max_positions:
      raise ValueError(
        f'{t} states, but the encoder has {cfg.max_positions} positions: cut the audio.'
      )
    x = x + positions[:t].astype(x.dtype)
    mask = Mask(None if lengths is None else jnp.arange(t) < num_states(lengths)[:, None])
    scanned = nn.scan(
      EncoderLayer,
      length=cfg.num_layers,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    (x, tapped), _ = scanned(cfg, name='layers')(
      (x, jnp.zeros_like(x)), jnp.arange(1, cfg.num_layers + 1), mask, jnp.asarray(output_layer)
    )
    return layers.LayerNorm(cfg.layer_norm_eps, cfg.dtype, name='layer_norm')(x), tapped


def init_whisper(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of the encoder."""
  return WhisperEncoder(cfg.whisper).init(key, jnp.zeros((1, 4, cfg.whisper.num_mel_bins)))[
    'params'
  ]


def _hide(x: Array, lengths: Array | None) -> Array:
  """Zeroes the frames beyond `lengths`, so that a convolution sees the same zero padding as for the
  clip alone.
  """
  return (
    x
    if lengths is None
    else jnp.where((jnp.arange(x.shape[1]) < lengths[:, None])[..., None], x, 0)
  )
