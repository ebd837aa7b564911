"""The input audio buffer of a session: sound comes in by pieces in the client's format, and goes
out as questions at 16 kHz, by commit or when a voice falls silent.
"""

from collections.abc import Callable, Iterator
import dataclasses

import numpy as np

from echox_jax import rates
from echox_jax.serving import turns
from echox_jax.serving.formats import AudioFormat
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.resampling import Stream
from echox_jax.serving.turns import Detector, TurnRule, Turns, VoiceBegins, VoicePauses

_STEP = rates.SAMPLE_RATE // 2  # samples that are judged at once


@dataclasses.dataclass(frozen=True)
class SpeechStarted:
  """A voice begins, `at_ms` milliseconds after the first sample of the session."""

  at_ms: int


@dataclasses.dataclass(frozen=True, eq=False)
class SpeechPaused:
  """A voice pauses, perhaps for good.

  Attributes:
    wave: float32[samples] at 16 kHz, the turn so far.
  """

  wave: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SpeechStopped:
  """A voice has ended, `at_ms` milliseconds after the first sample of the session.

  Attributes:
    wave: float32[samples] at 16 kHz, the whole turn; after a pause, the very array of that pause.
  """

  at_ms: int
  wave: np.ndarray


SpeechEvent = SpeechStarted | SpeechPaused | SpeechStopped


class Listener:
  """What a session has heard and nobody has answered yet.

  Args:
    audio_format: of what comes in.
    rule: when a turn begins and ends; None = the client says so.
    most_seconds: sound that is held at most.
    make_detector: makes what hears voices.
  """

  def __init__(
    self,
    audio_format: AudioFormat,
    rule: TurnRule | None,
    most_seconds: float,
    make_detector: Callable[[], Detector] = turns.silero,
  ):
    self._most = round(most_seconds * rates.SAMPLE_RATE)
    self._make_detector = make_detector
    self._pieces: list[np.ndarray] = []
    self._count = 0  # samples in `_pieces`
    self._first = 0  # position of the first of them, counted from the start of the session
    self._begin: int | None = None  # position at which the turn that is heard begins
    self._paused = np.zeros(0, np.float32)  # that turn up to its last pause
    self._format, self._stream = audio_format, Stream(audio_format.rate, rates.SAMPLE_RATE)
    self._turns: Turns | None = None
    self._follow(rule)

  def configure(self, audio_format: AudioFormat, rule: TurnRule | None) -> None:
    """Takes the settings of a session that has changed; what was heard stays."""
    if audio_format != self._format:
      self._keep(self._stream.take(np.zeros(0, np.float32), last=True))
      self._format, self._stream = audio_format, Stream(audio_format.rate, rates.SAMPLE_RATE)
    self._follow(rule)

  def take(self, data: bytes) -> Iterator[list[SpeechEvent]]:
    """Takes the next bytes, half a second at a time, so that others can do something in between;
    yields what was heard in each.

    Raises:
      Refusal: half a sample, or more than the buffer holds; nothing of it is kept.
    """
    wave = self._format.read(data)
    if self._turns is None and self._count + len(wave) * self._ratio() > self._most:
      raise Refusal(
        f'the input audio buffer holds at most {self._most / rates.SAMPLE_RATE:g} s: commit or '
        'clear it before you append more.',
        'input_audio_buffer_full',
      )
    step = round(_STEP / self._ratio())
    for begin in range(0, len(wave), step):
      yield self._hear(self._stream.take(wave[begin : begin + step]))

  def commit(self) -> np.ndarray:
    """Gives all that is held, float32[samples] at 16 kHz, and empties the buffer.

    Raises:
      Refusal: nothing is held.
    """
    self._keep(self._stream.take(np.zeros(0, np.float32), last=True))
    if not self._count:
      raise Refusal(
        'the input audio buffer is empty: append audio before you commit it.',
        'input_audio_buffer_commit_empty',
      )
    wave = self._held()
    self.clear()
    return wave

  def clear(self) -> None:
    """Empties the buffer."""
    self._keep(self._stream.take(np.zeros(0, np.float32), last=True))
    self._drop(self._first + self._count)
    self._begin = None
    if self._turns:
      self._turns.restart()
      self._turns.position = self._first

  def _follow(self, rule: TurnRule | None) -> None:
    if rule is None:
      self._turns, self._begin = None, None
    elif self._turns is None:
      self._turns = Turns(rule, self._make_detector)
      self._turns.position = self._first + self._count
    else:
      self._turns.rule = rule

  def _ratio(self) -> float:
    return rates.SAMPLE_RATE / self._format.rate

  def _hear(self, wave: np.ndarray) -> list[SpeechEvent]:
    """Holds a piece at 16 kHz, and tells of voices in it."""
    self._keep(wave)
    if self._turns is None:
      return []
    told: list[SpeechEvent] = []
    for event in self._turns.take(wave):
      if isinstance(event, VoiceBegins):
        self._begin = max(event.start, self._first)
        told.append(SpeechStarted(_milliseconds(self._begin)))
      elif isinstance(event, VoicePauses):
        self._paused = self._turn(event.stop)
        told.append(SpeechPaused(self._paused))
      else:
        told.append(self._end(event.stop, self._paused))
    if self._begin is None:
      padding = self._turns.rule.prefix_padding_ms * rates.SAMPLE_RATE // 1000
      self._drop(self._turns.position - padding - turns.ONSET_PIECES * turns.PIECE)
    elif self._first + self._count - self._begin >= self._most:
      stop = self._first + self._count
      told.append(self._end(stop, self._turn(stop)))
      self._turns.restart()
      self._turns.position = self._first
    return told

  def _turn(self, stop: int) -> np.ndarray:
    """The turn that is heard, up to a position."""
    return self._held()[self._begin - self._first : stop - self._first][: self._most]

  def _end(self, stop: int, wave: np.ndarray) -> SpeechStopped:
    """Takes the turn, whose sound is `wave`, out of the buffer."""
    self._drop(stop)
    self._begin = None
    return SpeechStopped(_milliseconds(stop), wave)

  def _keep(self, wave: np.ndarray) -> None:
    if len(wave):  # a resampler holds back what comes in small pieces
      self._pieces.append(wave)
      self._count += len(wave)

  def _held(self) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *self._pieces])

  def _drop(self, before: int) -> None:
    """Forgets the samples before a position."""
    gone = min(max(0, before - self._first), self._count)
    if gone:
      self._pieces = [self._held()[gone:]]
      self._first, self._count = self._first + gone, self._count - gone


def _milliseconds(position: int) -> int:
  return round(1000 * position / rates.SAMPLE_RATE)
