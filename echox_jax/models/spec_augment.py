"""SpecAugment (arXiv 1904.08779) without warping: masks time spans and bands of a log-mel, in
training only.
"""

import jax
import jax.numpy as jnp

from echox_jax.models.arrays import Array, Float, Int

_SPANS = 2  # number of time spans and of band spans
_HIDDEN = 0.0  # mask value; Whisper's log-mels are about -1 to 1


def spec_augment(
  mel: Float[Array, 'B F M'],
  lengths: Int[Array, ' B'],
  key: Array,
  time: float | int,
  bands: float | int,
) -> Float[Array, 'B F M']:
  """Masks two time spans and two band spans in each clip.

  Args:
    mel: log-mel frames.
    lengths: frames of each clip.
    key: one key for all clips.
    time, bands: the maximum fraction of a clip, or of the bands, that both spans cover together.

  Returns:
    The frames with masked values set to 0; a fraction of 0 masks nothing.
  """
  batch, frames, bins = mel.shape
  time_key, band_key = jax.random.split(key)
  late = _spans(time_key, lengths, frames, time)
  high = _spans(band_key, jnp.full(batch, bins), bins, bands)
  return jnp.where(late[:, :, None] | high[:, None, :], _HIDDEN, mel)


def _spans(key: Array, lengths: Array, size: int, fraction: float | int) -> Array:
  """Returns bool[B,size]: random spans within the first lengths[b] positions."""
  size_key, start_key = jax.random.split(key)

  def below(key, limit):
    return jnp.floor(jax.random.uniform(key, (len(lengths), _SPANS)) * limit).astype(jnp.int32)

  sizes = below(size_key, jnp.floor(lengths * (fraction / _SPANS))[:, None] + 1)
  starts = below(start_key, lengths[:, None] - sizes + 1)
  at = jnp.arange(size)[None, None]
  return jnp.any((at >= starts[..., None]) & (at < (starts + sizes)[..., None]), axis=1)
