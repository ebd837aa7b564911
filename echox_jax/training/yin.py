"""The pitch of recordings, by YIN (de Cheveigne and Kawahara 2002), in the step of the vocoder.

It runs where the batch is: batches carry no more than units and sound, and librosa's trackers are
for one clip on a CPU.
"""

import functools

import jax.numpy as jnp
import numpy as np

from echox_jax.models.arrays import Array, Float
from echox_jax.models.convolution import frames_of
from echox_jax.parallel.sharding import by_rows

LOWEST, HIGHEST = 50.0, 400.0  # Hz
_WINDOW = 0.032  # seconds that are compared
_THRESHOLD = 0.15  # the first period with a difference below it is taken (the paper: 0.1)
_UNVOICED = 0.35  # smallest difference above it: there is no period
_SILENT = 0.005  # root mean square of a frame without voice; full scale is 1


def pitch(wave: Float[Array, 'B S'], hop: int, rate: int) -> Float[Array, 'B F']:
  """Finds the pitch of speech at the centre of each frame of `hop` samples, in Hz; 0 = unvoiced.

  Args:
    wave: S = F * hop samples; full scale is 1.
    hop: samples of a frame.
    rate: samples a second.
  """
  return by_rows(functools.partial(_pitch, hop=hop, rate=rate), wave, differentiable=False)


def _pitch(wave: Array, hop: int, rate: int) -> Array:
  longest, window = round(rate / LOWEST), round(_WINDOW * rate)
  around = window + longest - hop  # samples of a frame that are before and behind the hop's own
  padded = jnp.pad(wave, ((0, 0), (around // 2, around - around // 2)))
  frames = frames_of(padded, window + longest, hop)
  difference, loudness = _difference(frames, window, longest)
  lags = np.arange(1, longest + 1)
  mean = jnp.cumsum(difference[..., 1:], axis=-1) / lags
  normal = difference[..., 1:] / jnp.maximum(mean, 1e-6)  # of lags 1, 2...
  before, here, after = normal[..., :-2], normal[..., 1:-1], normal[..., 2:]
  is_dip = (here <= before) & (here < after) & (lags[1:-1] >= rate / HIGHEST)
  dips = jnp.where(is_dip, here, jnp.inf)
  smallest = dips.min(axis=-1, keepdims=True)
  place = jnp.argmax(dips <= jnp.maximum(smallest, _THRESHOLD), axis=-1)  # the first of them

  def at(x):
    return jnp.take_along_axis(x, place[..., None], axis=-1)[..., 0]

  left, bottom, right = at(before), at(here), at(after)
  # the vertex of the parabola through the dip and its neighbours
  offset = 0.5 * (left - right) / jnp.maximum(left - 2 * bottom + right, 1e-6)
  period = place + 2 + jnp.clip(offset, -0.5, 0.5)
  voiced = (at(dips) < _UNVOICED) & (loudness > _SILENT)
  return jnp.where(voiced, rate / period, 0.0)


def _difference(frames: Array, window: int, longest: int) -> tuple[Array, Array]:
  """Squared difference of the first `window` samples and those 0 to `longest` later, float32[B,F,
  longest+1], and the root mean square of the former.
  """
  size = 1 << (frames.shape[-1] - 1).bit_length()  # nothing wraps: the lags end with the frame
  whole, first = (jnp.fft.rfft(x, size) for x in (frames, frames[..., :window]))
  product = jnp.fft.irfft(jnp.conj(first) * whole, size)[..., : longest + 1]
  energy = jnp.cumsum(jnp.pad(jnp.square(frames), ((0, 0), (0, 0), (1, 0))), axis=-1)
  energy = energy[..., window : window + longest + 1] - energy[..., : longest + 1]
  difference = jnp.maximum(energy[..., :1] + energy - 2 * product, 0)
  return difference, jnp.sqrt(jnp.maximum(energy[..., 0], 0) / window)
