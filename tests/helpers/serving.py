"""Sessions without a server: a detector that takes loudness for voice, names that are counted, and
answers of an engine that are written by hand.
"""

import base64
import collections
import itertools
import json

import numpy as np

from echox_jax.inference.events import COUNTERS, Done, Sound, TextPiece
from echox_jax.serving.limits import Limits
from echox_jax.serving.session import Abilities, Session

MANUAL = {'session': {'audio': {'input': {'turn_detection': None}}}}


class LoudnessDetector:
  """Takes for a voice whatever is loud, but is never sure."""

  def process_chunk(self, audio: bytes) -> float:
    samples = np.frombuffer(audio, '<i2') / 32768
    return 0.6 * float(np.sqrt(np.mean(samples**2)) > 0.05)


def session(limits: Limits | None = None, **abilities) -> Session:
  """A session with counted names: item_1, resp_1 ..."""
  counts = collections.defaultdict(lambda: itertools.count(1))
  own = dict(
    name='m',
    hears=True,
    speaks=True,
    audio_seconds=8.0,
    count_tokens=lambda text: len(text.split()),
  )
  return Session(
    Abilities(**own | abilities),
    limits or Limits(),
    LoudnessDetector,
    lambda prefix: f'{prefix}_{next(counts[prefix])}',
  )


def send(own: Session, name: str, **fields) -> list:
  """What comes of a message."""
  text = json.dumps({'type': name, **fields})
  return [output for outputs in own.client(text) for output in outputs]


def take(own: Session, cause, *told) -> list:
  """What comes of events of the engine; `cause`: the ticket of an answer, or `Transcribe`."""
  return [output for event in told for output in own.engine(cause, event)]


def names(outputs) -> list[str]:
  """Names of events, and of commands."""
  return [o['type'] if isinstance(o, dict) else type(o).__name__ for o in outputs]


def events(outputs, name: str) -> list[dict]:
  """The events of a name."""
  return [o for o in outputs if isinstance(o, dict) and o['type'] == name]


def commands(outputs) -> list:
  """The commands for the engine."""
  return [o for o in outputs if not isinstance(o, dict)]


def pcm(wave: np.ndarray) -> str:
  """float[samples] -> base64 of PCM16."""
  return base64.b64encode((wave * 32767).astype('<i2').tobytes()).decode()


def loud(seconds: float, rate: int = 24000) -> np.ndarray:
  """A tone that `LoudnessDetector` takes for a voice."""
  return 0.3 * np.sin(2 * np.pi * 300 * np.arange(round(rate * seconds)) / rate)


def quiet(seconds: float, rate: int = 24000) -> np.ndarray:
  """Silence."""
  return np.zeros(round(rate * seconds))


def sound(seconds: float = 0.4) -> Sound:
  """A piece of an answer."""
  return Sound(0, loud(seconds, 16000).astype(np.float32), 0.05)


def done(text: str = 'It is Oslo.', **overflow) -> Done:
  """The end of an answer."""
  counters = dict.fromkeys(COUNTERS, 0) | overflow
  return Done(text, np.zeros(0, np.float32), (), (), counters, 0.05, 0.2)


def text(piece: str = 'It is Oslo.') -> TextPiece:
  """A piece of an answer."""
  return TextPiece(piece, 0.03)


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
