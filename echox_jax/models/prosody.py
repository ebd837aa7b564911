"""How long the vocoder's units last and at what pitch: small convolutions over unit embeddings."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from echox_jax.config import DurationPredictorConfig, PitchPredictorConfig
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.convolution import Conv, hide
from echox_jax.models.layers import Dense, LayerNorm


class DurationPredictor(nn.Module):
  """Says of each reduced unit how long it lasts, from its embedding and those around it."""

  config: DurationPredictorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B R D'], mask: Bool[Array, 'B R'], deterministic: bool = True
  ) -> Float[Array, 'B R K']:
    """Gives logits of 1, 2 to `longest` frames, in float32; without `dilations` log(duration + 1)
    alone, K = 1 (released code: VariancePredictor). Positions outside the mask are seen as zero.
    Layers with a dilation above 1 look back alone, so that sound needs few later units.
    """
    cfg = self.config
    if cfg.dilations:
      x = jax.lax.stop_gradient(x)  # so that it can learn on alone: the sound stays as it is
      for i, dilation in enumerate(cfg.dilations):
        x = _layer(self, i, dilation, x, mask, deterministic, looks_back=dilation > 1)
      return Conv(cfg.longest, 1, dtype=self.dtype, name='proj')(x).astype(jnp.float32)
    for i in (1, 2):
      x = Conv(cfg.hidden_size, cfg.kernel_size, dtype=self.dtype, name=f'conv{i}')(hide(x, mask))
      x = LayerNorm(dtype=self.dtype, name=f'ln{i}')(nn.relu(x))
      x = nn.Dropout(cfg.dropout)(x, deterministic=deterministic)
    proj = Dense(1, ('conv_in', 'conv_out'), use_bias=True, dtype=self.dtype, name='proj')
    return proj(x).astype(jnp.float32)


class PitchPredictor(nn.Module):
  """Predicts the pitch of each frame from the embeddings around it."""

  config: PitchPredictorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B F D'], mask: Bool[Array, 'B F'] | None, deterministic: bool = True
  ) -> Float[Array, 'B F 2']:
    """Predicts log(pitch / `excitation.REFERENCE`), and the logit of whether there is one, in
    float32; frames outside the mask are seen as zero.
    """
    for i, dilation in enumerate(self.config.dilations):
      x = _layer(self, i, dilation, x, mask, deterministic)
    return Conv(2, 1, dtype=self.dtype, name='proj')(x).astype(jnp.float32)


def _layer(
  predictor: DurationPredictor | PitchPredictor,
  i: int,
  dilation: int,
  x: Array,
  mask: Array | None,
  deterministic: bool,
  looks_back: bool = False,
) -> Array:
  """Layer `i` of a compact predictor, residual but for the first."""
  cfg, dtype = predictor.config, predictor.dtype
  y = hide(x, mask)
  reach = (cfg.kernel_size - 1) * dilation
  y = Conv(
    cfg.hidden_size,
    cfg.kernel_size,
    dilation=dilation,
    padding=(reach, 0) if looks_back else None,
    dtype=dtype,
    name=f'conv{i}',
  )(y)
  y = LayerNorm(dtype=dtype, name=f'ln{i}')(nn.relu(y))
  y = nn.Dropout(cfg.dropout)(y, deterministic=deterministic)
  return x + y if i else y


def frames(outputs: Float[Array, 'B R K']) -> Int[Array, 'B R']:
  """The durations in frames, at least 1, that `DurationPredictor` says: the median of its
  distribution, or its number rounded (released code: half-even).
  """
  if outputs.shape[-1] == 1:
    return jnp.maximum(jnp.round(jnp.exp(outputs[..., 0]) - 1), 1).astype(jnp.int32)
  shorter = jnp.cumsum(jax.nn.softmax(outputs), axis=-1)
  return 1 + jnp.sum(shorter[..., :-1] < 0.5, axis=-1, dtype=jnp.int32)


def duration_context(cfg: DurationPredictorConfig) -> tuple[int, int]:
  """Gives the units before and behind a unit that its duration depends on."""
  side = cfg.kernel_size // 2
  if not cfg.dilations:
    return 2 * side, 2 * side
  around = side * sum(d == 1 for d in cfg.dilations)
  return around + 2 * side * sum(d for d in cfg.dilations if d > 1), around
