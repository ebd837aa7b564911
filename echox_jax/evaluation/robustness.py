"""Sounds in which nobody asks anything: does the model say so, or does it invent a question?

Silence, noise, hum, clicks, taps and tones are made here; questions played backwards have the sound
of speech and none of its words.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from echox_jax import rates
from echox_jax.evaluation import transcripts
from echox_jax.evaluation.questions import Question
from echox_jax.inference.engine import Engine

_EACH = 4  # sounds of a kind
_LOUDNESS = (0.003, 0.03, 0.2, 0.003)  # of noise; 1 is full scale
BACKWARDS = 'backwards'


@dataclasses.dataclass(frozen=True)
class Refusal:
  """What was heard in a sound without words.

  Attributes:
    kind: of the sound.
    text: '' if nothing was.
  """

  kind: str
  text: str

  def row(self) -> dict[str, Any]:
    """For JSON."""
    return dataclasses.asdict(self)


def sounds() -> Iterator[tuple[str, np.ndarray]]:
  """(kind, float32[samples] at 16 kHz), always the same."""
  for number, (kind, make) in enumerate(_KINDS.items()):
    for turn in range(_EACH):
      rng = np.random.default_rng([number, turn])
      yield kind, np.asarray(make(turn, rng), np.float32)


def backwards(questions: Iterable[Question]) -> Iterator[tuple[str, np.ndarray]]:
  """The questions, from their ends to their beginnings."""
  for question in questions:
    yield BACKWARDS, np.ascontiguousarray(question.sound()[::-1])


def hear(engine: Engine, clips: Iterable[tuple[str, np.ndarray]]) -> list[Refusal]:
  """What the model hears in each of them. It may refuse a sound, such as silence, altogether."""
  return [Refusal(kind, transcripts.transcribe(engine, wave)[0]) for kind, wave in clips]


def summarise(heard: Sequence[Refusal]) -> dict[str, dict[str, int]]:
  """By kind, how many sounds there were, and in how many of them nothing was heard."""
  kinds = dict.fromkeys(own.kind for own in heard)
  return {
    kind: {
      'sounds': sum(own.kind == kind for own in heard),
      'refused': sum(own.kind == kind and not own.text for own in heard),
    }
    for kind in kinds
  }


def _times(seconds: float) -> np.ndarray:
  return np.arange(round(seconds * rates.SAMPLE_RATE)) / rates.SAMPLE_RATE


def _silence(turn: int, rng: np.random.Generator) -> np.ndarray:
  return np.zeros(rates.SAMPLE_RATE * (1 + turn))


def _room(turn: int, rng: np.random.Generator) -> np.ndarray:
  return 1e-4 * rng.normal(size=rates.SAMPLE_RATE * (1 + turn))


def _white(turn: int, rng: np.random.Generator) -> np.ndarray:
  return _LOUDNESS[turn] * rng.normal(size=rates.SAMPLE_RATE * (1 + turn))


def _rumble(turn: int, rng: np.random.Generator) -> np.ndarray:
  wave = np.cumsum(rng.normal(size=rates.SAMPLE_RATE * (2 + turn)))
  return _at(0.3, wave - wave.mean())


def _tone(turn: int, rng: np.random.Generator) -> np.ndarray:
  return 0.2 * np.sin(2 * np.pi * (130, 380, 640, 890)[turn] * _times(2.0))


def _hum(turn: int, rng: np.random.Generator) -> np.ndarray:
  times = _times(3.0)
  waves = (np.sin(2 * np.pi * 50 * k * times) / k for k in range(1, 6 + turn))
  return 0.1 * sum(waves) + 0.003 * rng.normal(size=times.shape)


def _clicks(turn: int, rng: np.random.Generator) -> np.ndarray:
  return 1.0 * (rng.random(2 * rates.SAMPLE_RATE) < 5e-4 * (turn + 1))


def _taps(turn: int, rng: np.random.Generator) -> np.ndarray:
  times = _times(2.0 + turn)
  return 0.1 * np.exp(-(((times % 0.5) - 0.1) ** 2) / 0.002) * rng.normal(size=times.shape)


def _chords(turn: int, rng: np.random.Generator) -> np.ndarray:
  times = _times(3.0)
  chosen = 220 * 2 ** (rng.integers(0, 24, (6, 3)) / 12)
  notes = chosen[np.minimum(np.int64(times / 0.5), 5)]  # three every half second
  return _at(0.3, np.sin(2 * np.pi * notes * times[:, None]).sum(axis=1))


def _at(loudness: float, wave: np.ndarray) -> np.ndarray:
  return wave * (loudness / np.abs(wave).max())


_KINDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
  'silence': _silence,
  'room': _room,
  'white noise': _white,
  'rumble': _rumble,
  'tone': _tone,
  'hum': _hum,
  'clicks': _clicks,
  'taps': _taps,
  'chords': _chords,
}
