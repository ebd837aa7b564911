"""Whisper's log-mel spectrogram in JAX (released Whisper front end; facts 2).

16 kHz mono, 25 ms periodic Hann window, 10 ms hop, centred frames with reflected edges, power
spectrum, Slaney mel filters, log10 with a floor 8 below the clip's maximum, scaled by (x + 4) / 4.
The Fourier transform is two matmuls with the window folded into the matrices. That is fast on every
accelerator and accurate enough in float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import rates
from echox_jax.models.arrays import Array, Float, Int

N_FFT = 400
CLIP_SAMPLES = 30 * rates.SAMPLE_RATE


def pad_or_trim(
  audio: Float[np.ndarray, '*b S'], samples: int = CLIP_SAMPLES
) -> Float[np.ndarray, '*b N']:
  """Zero-pads or cuts the last axis of `audio` to `samples` (default: Whisper's 30 s training
  window).
  """
  audio = np.asarray(audio)[..., :samples]
  return np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, samples - audio.shape[-1])])


def num_frames(samples: Int[Array, '*b'] | int | np.integer) -> Int[Array, '*b'] | int | np.integer:
  """Returns the number of mel frames of `samples` samples (the half-empty last frame of the centred
  transform is dropped).
  """
  return samples // rates.MEL_HOP


def log_mel(audio: Float[Array, 'B S'], num_mel_bins: int = 80) -> Float[Array, 'B F M']:
  """Computes the log-mel frames of a batch of clips.

  Clips of different lengths may be zero-padded to one length. A clip's frames do not depend on the
  amount of padding if it ends in at least 400 zeros; otherwise its last two frames see the
  reflected edge.

  Args:
    audio: 16 kHz, in [-1, 1]; more than 200 samples.
    num_mel_bins: 80, or 128 for Whisper large-v3.

  Returns:
    float32 frames, one per full 160 samples (3000 for 30 s).
  """
  audio = audio.astype(jnp.float32)
  frames = num_frames(audio.shape[-1])
  padded = jnp.pad(audio, ((0, 0), (N_FFT // 2, N_FFT // 2)), mode='reflect')
  needed = (frames + 2) * rates.MEL_HOP
  padded = jnp.pad(padded, ((0, 0), (0, max(0, needed - padded.shape[1]))))[:, :needed]
  blocks = padded.reshape(padded.shape[0], frames + 2, rates.MEL_HOP)
  # A frame is two and a half hops long: two whole blocks and the first half of the third.
  windows = jnp.concatenate(
    [blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:, : N_FFT - 2 * rates.MEL_HOP]], axis=-1
  )
  cosine, sine = _fourier_matrices()
  dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  power = jnp.square(dot('BTN,NK->BTK', windows, cosine)) + jnp.square(
    dot('BTN,NK->BTK', windows, sine)
  )
  mel = dot('BTK,KM->BTM', power, mel_filters(num_mel_bins))
  logs = jnp.log10(jnp.maximum(mel, 1e-10))
  floor = jnp.max(logs, axis=(1, 2), keepdims=True) - 8.0
  return (jnp.maximum(logs, floor) + 4.0) / 4.0


@functools.lru_cache
def mel_filters(
  num_mel_bins: int,
  n_fft: int = N_FFT,
  f_max: float | int = rates.SAMPLE_RATE / 2,
  sample_rate: int = rates.SAMPLE_RATE,
) -> Float[np.ndarray, 'bins M']:
  """Makes unit-area Slaney mel filters from 0 to `f_max` Hz, in float32, for the bins of a real
  `n_fft`-sample transform; the defaults are Whisper's.
  """
  frequencies = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
  edges = _mel_to_hz(np.linspace(0, _hz_to_mel(f_max), num_mel_bins + 2))
  widths = np.diff(edges)
  ramps = edges[None, :] - frequencies[:, None]
  rising = -ramps[:, :-2] / widths[:-1]
  falling = ramps[:, 2:] / widths[1:]
  triangles = np.maximum(0, np.minimum(rising, falling))
  return (triangles * 2.0 / (edges[2:] - edges[:-2])).astype(np.float32)


# Slaney's scale: linear below 1 kHz (3 mels per 200 Hz), logarithmic above (27 mels per factor of
# 6.4).
_MELS_AT_1_KHZ = 15.0
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float | int) -> float:
  return 3.0 * hz / 200.0 if hz < 1000.0 else _MELS_AT_1_KHZ + np.log(hz / 1000.0) / _LOG_STEP


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
  return np.where(
    mels < _MELS_AT_1_KHZ, 200.0 * mels / 3.0, 1000.0 * np.exp(_LOG_STEP * (mels - _MELS_AT_1_KHZ))
  )


@functools.lru_cache
def _fourier_matrices() -> tuple[np.ndarray, np.ndarray]:
  """Returns the windowed cosine and sine matrices of the real transform: two float32[400, 201]."""
  n = np.arange(N_FFT)[:, None]
  k = np.arange(N_FFT // 2 + 1)[None, :]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * n / N_FFT)
  angle = 2 * np.pi * ((n * k) % N_FFT) / N_FFT
  return (window * np.cos(angle)).astype(np.float32), (window * np.sin(angle)).astype(np.float32)
