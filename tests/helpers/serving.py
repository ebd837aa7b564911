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


class LoudnessDetector:
  """Takes for a voice whatever is loud."""

  def process_chunk(self, audio: bytes) -> float:
    samples = np.frombuffer(audio, '<i2') / 32768
    return float(np.sqrt(np.mean(samples**2)) > 0.05)


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
