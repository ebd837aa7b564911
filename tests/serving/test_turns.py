"""When somebody speaks, as Silero's detector hears it."""

import numpy as np
import pytest

from echox_jax.serving import turns
from echox_jax.serving.turns import TurnRule, Turns, VoiceBegins, VoiceEnds


def heard(wave, piece=320):
  own = Turns(TurnRule(), turns.silero)
  return [event for at in range(0, len(wave), piece) for event in own.take(wave[at : at + piece])]


def quiet(seconds):
  return np.zeros(round(16000 * seconds), np.float32)


def vowels(seconds=1.2) -> np.ndarray:
  """Something like a voice: a buzz of 120 Hz through the formants of three vowels."""
  t = np.arange(round(16000 * seconds)) / 16000
  pitch = 120 + 15 * np.sin(2 * np.pi * 3 * t)
  buzz = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / 16000)) + 0.1
  spectrum, freq = np.fft.rfft(buzz), np.fft.rfftfreq(len(t), 1 / 16000)
  formants = ((700, 1200, 2600), (300, 2300, 3000), (400, 800, 2600))
  waves = []
  for own in formants:
    gain = sum(np.exp(-0.5 * ((freq - f) / 120) ** 2) for f in own)
    waves.append(np.fft.irfft(spectrum * gain, len(t)))
  number = (3 * 4 * t / seconds).astype(int) % 3
  wave = np.choose(number, waves) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t) ** 2)
  return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def test_a_voice_begins_and_ends():
  wave = np.concatenate([quiet(1), vowels(), quiet(1.5)])
  events = heard(wave)
  assert isinstance(events[0], VoiceBegins) and isinstance(events[-1], VoiceEnds)
  assert 0.5 <= events[0].start / 16000 <= 1.0
  assert 2.2 <= events[-1].stop / 16000 <= 3.1


@pytest.mark.parametrize('kind', ['silence', 'noise', 'hum', 'clicks'])
def test_what_is_no_voice(kind):
  rng = np.random.default_rng(0)
  t = np.arange(48000) / 16000
  wave = {
    'silence': quiet(3),
    'noise': rng.normal(0, 0.05, 48000),
    'hum': 0.1 * np.sin(2 * np.pi * 50 * t),
    'clicks': np.where(np.arange(48000) % 8000 < 20, 0.8, 0.0),
  }[kind]
  assert not heard(wave.astype(np.float32))


def test_pieces_make_no_difference():
  wave = np.concatenate([quiet(0.5), vowels(), quiet(1)])
  assert heard(wave, piece=101) == heard(wave, piece=len(wave))
