"""SpecAugment (arXiv 1904.08779) without warping: stretches of time and of bands of a log-mel are
hidden. In training only.
"""

import jax
import jax.numpy as jnp

from echox_jax.models.arrays import Array, Float, Int

_SPANS = 2  # of each kind
_HIDDEN = 0.0  # what is put there; Whisper's log-mels are about -1 to 1


def spec_augment(
  mel: Float[Array, 'B F M'],
  lengths: Int[Array, ' B'],
  key: Array,
  time: float | int,
  bands: float | int,
) -> Float[Array, 'B F M']:
  """Hides two spans of time and two of bands in each clip.

  Args:
    mel: log-mel frames.
    lengths: frames of each clip.
    key: of all clips.
    time, bands: the fraction of a clip, or of the bands, that spans cover together at most.

  Returns:
    The frames, 0 where they are hidden; nothing is hidden where a fraction is 0.
  """
  batch, frames, bins = mel.shape
  time_key, band_key = jax.random.split(key)
  late = _spans(time_key, lengths, frames, time)
  high = _spans(band_key, jnp.full(batch, bins), bins, bands)
  return jnp.where(late[:, :, None] | high[:, None, :], _HIDDEN, mel)


def _spans(key: Array, lengths: Array, size: int, fraction: float | int) -> Array:
  """bool[B,size]: random spans within the first lengths[b] places."""
  size_key, start_key = jax.random.split(key)

  def below(key, limit):
    return jnp.floor(jax.random.uniform(key, (len(lengths), _SPANS)) * limit).astype(jnp.int32)

  sizes = below(size_key, jnp.floor(lengths * (fraction / _SPANS))[:, None] + 1)
  starts = below(start_key, lengths[:, None] - sizes + 1)
  at = jnp.arange(size)[None, None]
  return jnp.any((at >= starts[..., None]) & (at < (starts + sizes)[..., None]), axis=1)
