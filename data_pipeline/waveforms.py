"""Waveform augmentation: speed, room reverberation and noise. Plain arrays; all randomness comes
from the row's own generator.
"""

import numpy as np
import soxr

from echox_jax import rates
from echox_jax.training.experiment import AugmentConfig

_SPEED_LIMIT = 0.9  # a clip is never played at less than a tenth of its speed


def augment(
  wave: np.ndarray, config: AugmentConfig, rng: np.random.Generator, longest: int
) -> np.ndarray:
  """Augments a clip: float32[S] at 16 kHz -> float32[S'], where S and S' are <= longest.

  The steps, in order: change the speed (and so the pitch) by a factor of 1 -/+ `speed`, but no
  slower than `longest` allows; add the reverberation of a room that dies away within at most
  `reverb` seconds; add white noise at a signal-to-noise ratio in dB drawn from `snr_db`.
  """
  if config.speed:
    spread = min(config.speed, _SPEED_LIMIT)
    wave = resample(
      wave, int(np.clip(round(len(wave) / rng.uniform(1 - spread, 1 + spread)), 1, longest))
    )
  if config.reverb:
    wave = reverberate(wave, rng.uniform(0, config.reverb), rng)
  if config.snr_db:
    wave = add_noise(wave, rng.uniform(*config.snr_db), rng)
  return wave


def resample(wave: np.ndarray, length: int) -> np.ndarray:
  """float32[S] -> float32[length]: the same sound, faster or slower."""
  made = soxr.resample(wave, len(wave), length)[:length]
  return np.pad(made, (0, length - len(made)))  # one sample may be missing at the end


def reverberate(wave: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
  """float32[S] as heard in a room. The echoes are noise that falls by 60 dB in `seconds`; loudness
  and length stay the same.
  """
  taps = int(seconds * rates.SAMPLE_RATE)
  if not taps:
    return wave
  response = rng.standard_normal(taps, np.float32) * np.float32(10) ** (
    -3 * np.arange(taps, dtype=np.float32) / taps
  )
  # all echoes together are as loud as the direct sound
  response *= np.float32(1 / np.linalg.norm(response))
  response[0] += 1
  size = 1 << (len(wave) + taps - 1).bit_length()
  heard = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[
    : len(wave)
  ].astype(np.float32)
  return heard * np.float32(_loudness(wave) / max(_loudness(heard), 1e-12))


def add_noise(wave: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
  """float32[S] plus white noise, `snr_db` dB quieter than the clip; silence stays silent."""
  return wave + rng.standard_normal(len(wave), np.float32) * np.float32(
    _loudness(wave) * 10 ** (-snr_db / 20)
  )


def _loudness(wave: np.ndarray) -> float:
  """Root of the mean square."""
  return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
