"""One answer on its way: what was asked, what has come so far, and the events that tell of it."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
import time
from typing import Any

import numpy as np

from echox_jax import errors, rates
from echox_jax.config import EchoXConfig
from echox_jax.decoding import sampler
from echox_jax.decoding.sampler import BEGINS, Sampling
from echox_jax.inference.events import COUNTERS, Done, Event, Sound, SpokenSlice, TextPiece
from echox_jax.inference.history import Conversation, Turn

# 5 ms, from silence to full loudness.
_FADE = np.sin(np.linspace(0, np.pi / 2, rates.SAMPLE_RATE // 200, dtype=np.float32)) ** 2


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """A question, and how it is to be answered.

  Attributes:
    wave: spoken question, one channel at 16 kHz; None = it is written.
    text: written question, or what is written beside the spoken one.
    temperature: 0 = the likeliest token each time; released: 0.2.
    top_p: released: 0.9.
    top_k: tokens that can be chosen; 0 = all.
    repetition_penalty: 1 = none.
    seed: of the sampling.
    max_tokens: of the answer; None = the budget.
    speaks: whether the answer is spoken, where the engine speaks at all.
  """

  wave: np.ndarray | None = None
  text: str = ''
  temperature: float | int = 0.0
  top_p: float | int = 1.0
  top_k: int = 0
  repetition_penalty: float | int = 1.0
  seed: int | np.integer = 0
  max_tokens: int | None = None
  speaks: bool = True

  def check(self) -> None:
    """Raises EchoXError if the answer cannot be made as asked."""
    sampler.check(self.temperature, self.top_p, self.top_k, self.repetition_penalty)
    if self.max_tokens is not None and self.max_tokens < 1:
      raise errors.EchoXError(
        f'max_tokens is {self.max_tokens}: give 1 or more, or None for the budget.'
      )

  def sampling(self, begins: Sequence[int] = ()) -> Sampling:
    """The numbers that a program takes; `begins`: ids that the answer begins with."""
    return Sampling(
      np.float32(self.temperature),
      np.float32(self.top_p),
      np.int32(self.top_k),
      np.float32(self.repetition_penalty),
      np.uint32(self.seed % 2**32),
      np.asarray([*begins, *[-1] * (BEGINS - len(begins))], np.int32),
    )


class Answering:
  """An answer that is being made; the engine drives it.

  Attributes:
    events: what has come and nobody has taken yet.
    conversation, turn: what it is a part of.
    lasting: whether the conversation goes on after it.
    speaks: whether it is spoken.
    going: whether it is still being thought of.
    unspoken: slices that no row speaks yet.
    has_sound: whether a piece of sound has come.
    finished: whether its last event has come.
  """

  def __init__(
    self,
    request: Request,
    wave: np.ndarray | None,
    turn: Turn,
    conversation: Conversation,
    lasting: bool,
    tokenizer: Any,
    config: EchoXConfig,
    speaks: bool,
  ):
    self.speaks = speaks
    self.request, self.wave, self.turn = request, wave, turn
    self.conversation, self.lasting = conversation, lasting
    self.events: collections.deque[Event] = collections.deque()
    self.going = False
    self.unspoken: list[Slice] = []
    self.has_sound = self.finished = False
    self.ids: list[int] = []
    self._tokenizer, self._most = tokenizer, config.streaming.max_slice_tokens
    self.hop = config.vocoder.code_hop_size
    self._began, self._first_sound_at = time.perf_counter(), None
    self._scores: list[float] = []
    self._times: list[float] = []
    self._shown, self._sounded = '', 0  # letters and samples that have been told
    self._slices: list[Slice] = []
    self._current = 0  # number of the slice that is being heard
    self.overflow = dict.fromkeys(COUNTERS, 0)

  def now(self) -> float:
    """Seconds since the question was given."""
    return time.perf_counter() - self._began

  def lead(self) -> float:
    """Seconds of sound that a listener has not heard yet; before the first sound less than any."""
    if self._first_sound_at is None:
      return -np.inf
    return self._first_sound_at + self._sounded / rates.SAMPLE_RATE - self.now()

  def take(self, seen: Any, row: int) -> None:
    """Takes what a chunk of the LLM made of it; `seen`: `Progress` on the host."""
    known, count = len(self.ids), int(seen.count[row])
    self.ids += seen.ids[row, known:count].tolist()
    self._scores += seen.scores[row, known:count].tolist()
    self._times += [self.now()] * (count - known)
    self.going = bool(seen.going[row])
    self.overflow['answer_tokens'] = int(seen.cut_off[row])
    self.overflow['text_loops'] = int(seen.looped[row])
    whole = self._text(self.ids, final=not self.going)
    if len(whole) > len(self._shown):
      self.events.append(TextPiece(whole[len(self._shown) :], self.now()))
      self._shown = whole
    start, cut = int(seen.start[row]), int(seen.cut[row])
    ready = [(start, cut)] if cut else []
    if not self.going and count > (cut or start):
      ready.append((cut or start, count))
    for begin, end in ready if self.speaks else ():
      self._add_slices(begin, end)

  def taken(self) -> Iterator[Event]:
    """Hands out what has come."""
    while self.events:
      yield self.events.popleft()

  def tell(self) -> None:
    """Tells of sound that is next to be heard, and of slices that are over."""
    while self._current < len(self._slices):
      own = self._slices[self._current]
      while own.pieces:
        piece, now = own.pieces.pop(0), self.now()
        if self._first_sound_at is None:
          self._first_sound_at = now
        self.has_sound = True
        self._sounded += len(piece)
        self.events.append(Sound(own.index, piece, now))
      if own.spoken is None:
        return
      self.events.append(own.spoken)
      self._current += 1

  def ends_with(self, own: Slice) -> bool:
    """Whether no slice comes behind `own`."""
    return not self.going and own is self._slices[-1]

  def is_over(self) -> bool:
    """Whether nothing is left to think or to say."""
    return not self.going and self._current == len(self._slices)

  def marks(self) -> tuple[tuple[int, int], ...]:
    """Gives (ids, samples) at the end of each slice of which there is sound; see `history.Turn`."""
    ends = itertools.accumulate(own.samples for own in self._slices)
    return tuple((own.tokens[1], end) for own, end in zip(self._slices, ends) if own.samples)

  def finish(self) -> None:
    """Tells that it is over."""
    self.events.append(
      Done(
        self._text(self.ids, final=True),
        _joined(own.spoken.waveform for own in self._slices),
        tuple(self._scores),
        tuple(self._times),
        dict(self.overflow),
        self._first_sound_at,
        self.now(),
      )
    )
    self.finished = True

  def _add_slices(self, begin: int, end: int) -> None:
    """Adds a slice, or where it is longer than the budget, counted pieces of it."""
    self.overflow['slice_tokens'] += end - begin > self._most
    for first in range(begin, end, self._most):
      last = min(first + self._most, end)
      before = self._text(self.ids[:first])
      text = self._text(self.ids[:last], final=last == len(self.ids))[len(before) :].strip()
      own = Slice(self, len(self._slices), text, (first, last), self.now())
      self._slices.append(own)
      self.unspoken.append(own)

  def _text(self, ids: list[int], final: bool = False) -> str:
    """The text of `ids`; half a character at its end waits for its other half."""
    text = self._tokenizer.decode(ids)
    return text if final else text.rstrip('\ufffd')


class Slice:
  """A part of an answer that is being spoken.

  Attributes:
    answering: the answer.
    index: 0, 1, 2...
    text: its words.
    tokens: (start, stop) among the spoken tokens of the answer.
    frames: frames of its sound that are final; `sounded` of them are sound.
    num_words: unit words so far that the unit language has; `repeated` of them are a loop.
    through: whether all of its unit words are there.
    retried: whether it is being tried a second time.
    pieces: sound that has not been told of.
    spoken: what is told when it is over; None before.
  """

  def __init__(
    self, answering: Answering, index: int, text: str, tokens: tuple[int, int], cut_at: float
  ):
    self.answering, self.index, self.text, self.tokens = answering, index, text, tokens
    self.frames = self.sounded = self.num_words = self.repeated = self._num_units = 0
    self.through = self.retried = self._looped = False
    self.pieces: list[np.ndarray] = []
    self.spoken: SpokenSlice | None = None
    self._cut_at, self._waves = cut_at, []
    self._overflow: dict[str, int] = {}

  @property
  def samples(self) -> int:
    """Samples of its sound so far."""
    return sum(map(len, self._waves))

  def take(self, spoken: Any, row: int) -> None:
    """Takes what a chunk of the echo decoder made of it; `spoken`: `Spoken` on the host."""
    self.frames, self.through = int(spoken.frames[row]), not spoken.going[row]
    self._num_units, self.repeated = int(spoken.num_units[row]), int(spoken.repeated[row])
    self._looped = bool(spoken.looped[row])
    self._overflow = {
      'unit_words': int(spoken.cut_off[row]),
      'frames': int(spoken.lost[row]),
      'unknown_unit_words': int(spoken.unknown[row]),
      'dropped_units': int(spoken.dropped[row]),
    }
    self.num_words = int(spoken.num_words[row]) - self._overflow['unknown_unit_words']

  def problem(self, least: float) -> str | None:
    """Gives the counter of what went wrong with the words of a slice that is through.

    Args:
      least: unit words of each token at least.
    """
    if self._looped:
      return 'unit_loops'
    if not any(letter.isalnum() for letter in self.text):
      return None
    if not self.num_words:
      return 'silent_slices'
    tokens = self.tokens[1] - self.tokens[0]
    if self._overflow['unit_words'] or self.num_words < least * tokens:
      return 'mismatched_slices'
    return None

  def resume(self, retried: bool) -> None:
    """Goes on after words were taken back."""
    self.through, self.frames = False, self.sounded
    self.retried |= retried
    self.answering.overflow['retried_slices'] += retried

  def next_window(self, sizes: Sequence[int], context: int) -> int:
    """Frames of the next piece of sound that can be made; at the end fewer are there; 0 = none.

    Args:
      sizes: what there is to choose from, in ascending order.
      context: frames behind a piece that it depends on.
    """
    ready = self.frames - self.sounded - (0 if self.through else context)
    if self.through and ready > 0:
      return next((size for size in sizes if size >= ready), sizes[-1])
    return max((size for size in sizes if size <= ready), default=0)

  def hear(self, wave: np.ndarray, window: int) -> None:
    """Takes the sound of the next `window` frames."""
    frames = min(window, self.frames - self.sounded)
    first, self.sounded = self.sounded == 0, self.sounded + frames
    piece = np.array(wave[: frames * self.answering.hop])
    ends = self.through and self.sounded == self.frames
    soften(piece, first and self.index > 0, ends and not self.answering.ends_with(self))
    self.pieces.append(piece)
    self._waves.append(piece)
    self.answering.tell()

  def end(self, words: np.ndarray, units: np.ndarray, problem: str | None) -> None:
    """Ends it: all of its sound is there."""
    if problem:
      self.answering.overflow[problem] += 1
    for name, value in self._overflow.items():
      self.answering.overflow[name] += value
    self.spoken = SpokenSlice(
      self.index,
      self.text,
      self.tokens,
      words[: self.num_words],
      units[: self._num_units],
      _joined(self._waves),
      self._cut_at,
      self.answering.now(),
    )
    self.answering.tell()


def soften(wave: np.ndarray, begins: bool, ends: bool) -> None:
  """Fades the edges of a slice in and out, in place: slices are vocoded one by one, so that without
  it there is a click where two of them meet.

  Args:
    wave: float32[samples], a piece of a slice.
    begins, ends: whether it is the first and the last piece.
  """
  fade = _FADE[: len(wave)]
  if begins:
    wave[: len(fade)] *= fade
  if ends:
    wave[len(wave) - len(fade) :] *= fade[::-1]


def _joined(waves: Iterable[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.zeros(0, np.float32), *waves])
