"""What a source-filter vocoder filters: a pulse train at the pitch of the voice, and white noise.

The pulses hold every harmonic below the Nyquist frequency, all equally strong, as in neural
source-filter models (arXiv 1904.12088) and HiFTNet (arXiv 2309.09493); the network only shapes
their spectra. A pulse train of N harmonics has a closed form, the Dirichlet kernel, which takes two
sines a sample. The noise is a table that is read in a circle from the place in the speech on, so
that sound made in windows is that of one piece.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from echox_jax.models.arrays import Array, Float, Int, UInt
from echox_jax.models.convolution import frames_of

REFERENCE = 200.0  # Hz: pitches are predicted, and shown to the network, as distances from it
NOISE_FRAMES = 512  # frames until the noise repeats itself
_SPREAD = 4.0  # a voice moves by about a quarter around its mean: makes the feature's spread 1
_SEED = 0
_PERIOD = 2.0**32


class Start(NamedTuple):
  """Where in its speech a window begins.

  Attributes:
    frame: int32[B], number of its first frame.
    phase: uint32[B], of the pulses at the centre of that frame; 2 ** 32 is a whole period. Integers
      add up to the same phase in whatever order, and lose nothing in long speech.
  """

  frame: Array
  phase: Array


def features(pitch: Float[Array, 'B F']) -> Float[Array, 'B F 2']:
  """Describes the pitch, in Hz (0 = unvoiced), to a network: height (0 where there is none), and
  whether there is one.
  """
  return jnp.stack([_SPREAD * height(pitch), (pitch > 0).astype(jnp.float32)], axis=-1)


def height(pitch: Float[Array, 'B F']) -> Float[Array, 'B F']:
  """Natural logarithm of the pitch, in Hz, over `REFERENCE`; 0 where there is none."""
  return jnp.log(jnp.where(pitch > 0, pitch, REFERENCE) / REFERENCE)


def start(pitch: Float[Array, 'B F'], frame: Int[Array, ''], hop: int, rate: int) -> Start:
  """Where a window begins that starts with a frame of speech of this pitch."""
  before = jnp.arange(pitch.shape[1]) < frame
  phase = jnp.where(before, _advance(pitch, hop, rate), 0).sum(axis=1, dtype=jnp.uint32)
  return Start(jnp.full(pitch.shape[0], frame, jnp.int32), phase)


def pulses(
  pitch: Float[Array, 'B F'], hop: int, rate: int, phase: UInt[Array, ' B'] | None = None
) -> Float[Array, 'B S']:
  """Makes a pulse train of root mean square 1 where it is voiced, and silence elsewhere.

  Between the centres of two voiced frames the pitch changes evenly; towards an unvoiced frame it
  stays, and the pulses fade.

  Args:
    pitch: in Hz at the centre of each frame; 0 = unvoiced.
    hop: samples of a frame.
    rate: samples a second.
    phase: at the centre of the first frame, as in `Start`; None = 0.

  Returns:
    frames * hop samples; those before the centre of the first frame are silent.
  """
  left, right = _ends(pitch)
  steps = _advance(pitch, hop, rate)
  begin = jnp.cumsum(steps, axis=1, dtype=jnp.uint32) - steps
  begin = begin if phase is None else begin + phase[:, None]
  at = jnp.arange(hop) / hop
  now = left[..., None] + (right - left)[..., None] * at
  passed = (left[..., None] * at + (right - left)[..., None] * at**2 / 2) * (hop / rate)
  cycles = _fraction(begin.astype(jnp.float32)[..., None] / _PERIOD + passed)
  voiced = (pitch > 0).astype(jnp.float32)
  loudness = voiced[..., None] * (1 - at) + _next(voiced)[..., None] * at
  count = jnp.floor((rate / 2 - 100) / now)  # harmonics; no energy at the Nyquist frequency itself
  below = jnp.sin(jnp.pi * cycles)
  at_pulse = jnp.abs(below) < 1e-4
  kernel = jnp.where(
    at_pulse,
    2 * count + 1,
    jnp.sin(2 * jnp.pi * _fraction((count + 0.5) * cycles)) / jnp.where(at_pulse, 1.0, below),
  )
  wave = (kernel - 1) / 2 * jnp.sqrt(2 / count) * loudness
  wave = jnp.pad(wave.reshape(pitch.shape[0], -1), ((0, 0), (hop // 2, 0)))
  return wave[:, : pitch.shape[1] * hop]


def noise(first: Int[Array, ' B'], frames: int, hop: int) -> Float[Array, 'B S']:
  """Gives white noise, standard deviation 1, of `frames` frames of speech from the `first` on."""
  table = np.random.default_rng(_SEED).standard_normal((NOISE_FRAMES, hop)).astype(np.float32)
  at = (first[:, None] + jnp.arange(frames)) % NOISE_FRAMES
  return jnp.asarray(table)[at].reshape(first.shape[0], frames * hop)


def stft(
  wave: Float[Array, 'B S'], n_fft: int, hop: int
) -> tuple[Float[Array, 'B F bins'], Float[Array, 'B F bins']]:
  """Real and imaginary parts of an STFT with a periodic Hann window, as matmuls. It has S / hop + 1
  frames; frame t is centred on sample t * hop. `vocoder.inverse_stft` inverts it.
  """
  frames = frames_of(jnp.pad(wave, ((0, 0), (n_fft // 2, n_fft // 2))), n_fft, hop)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
  angle = 2 * np.pi * np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) / n_fft
  real, imaginary = (window[:, None] * wave for wave in (np.cos(angle), -np.sin(angle)))
  return frames @ jnp.asarray(real, frames.dtype), frames @ jnp.asarray(imaginary, frames.dtype)


def _ends(pitch: Array) -> tuple[Array, Array]:
  """Pitches with which the pulses go from the centre of each frame to that of the next."""
  after = _next(pitch)
  left = jnp.where(pitch > 0, pitch, jnp.where(after > 0, after, REFERENCE))
  return left, jnp.where(after > 0, after, left)


def _advance(pitch: Array, hop: int, rate: int) -> Array:
  """uint32[B,F], phase from the centre of each frame to that of the next."""
  left, right = _ends(pitch)
  return (_fraction((left + right) * (hop / 2 / rate)) * _PERIOD).astype(jnp.uint32)


def _next(values: Array) -> Array:
  """Those of the next frame; there is nothing behind the last one."""
  return jnp.pad(values[:, 1:], ((0, 0), (0, 1)))


def _fraction(x: Array) -> Array:
  return x - jnp.floor(x)
