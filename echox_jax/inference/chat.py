"""Conversations in three lines.

model = echox_jax.load('out/demo/model')
chat = model.chat(temperature=0.2, top_p=0.9)
reply = chat.ask('question.wav')
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
import numpy as np

from echox_jax import audio, errors, model_folder, rates
from echox_jax.inference import placement
from echox_jax.inference.answering import Answering, Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Event, Sound, TextPiece
from echox_jax.inference.history import Conversation
from echox_jax.parallel import sharding

# A recording, a text, or a wave and its sample rate.
Question = str | os.PathLike[str] | tuple[np.ndarray, int]
_OPTIONS = tuple(f.name for f in dataclasses.fields(Request) if f.name not in ('wave', 'text'))
_SOUNDS = ('.wav', '.flac', '.mp3', '.ogg', '.opus', '.m4a', '.aac', '.webm', '.aiff')


@dataclasses.dataclass(frozen=True, eq=False)
class Reply:
  """An answer.

  Attributes:
    text: all of it.
    wave: float32[samples], one channel; empty where the model does not speak.
    sample_rate: of `wave`, in Hz.
    timings: seconds since the question was given: `first_text_s`, `first_sound_s` (None without
      sound), `last_text_s`, `total_s`; and `audio_s`, how long it sounds.
    overflow: counters of what did not fit a budget, see `events.Done`.
  """

  text: str
  wave: np.ndarray
  sample_rate: int
  timings: dict[str, float | None]
  overflow: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Model(model_folder.Bundle):
  """A loaded model: its parts, and what it can do with them.

  Attributes:
    mesh: what it is split over; None = one device.
    int8: whether kernels of the LLM and of the echo decoder are held as int8.
  """

  mesh: Mesh | None = None
  int8: bool = False

  @functools.cached_property
  def _engine(self) -> Engine:
    has = functools.partial(model_folder.has, self)
    return Engine(
      self, hears=has(model_folder.hearing(self.config)), speaks=has(model_folder.SPEAKING)
    )

  def warm_up(self) -> float:
    """Compiles all that answering needs; returns the seconds that it took."""
    return self._engine.warm_up()

  def chat(self, **options: Any) -> 'Chat':
    """Begins a conversation.

    Args:
      **options: how answers are made, the fields of `answering.Request`: `temperature`, `top_p`,
        `top_k`, `repetition_penalty`, `seed`, `max_tokens`, `speaks`.

    Raises:
      EchoXError: an option that there is not, or a value out of range.
    """
    _request('', options).check()
    return Chat(self._engine, options)

  def answer(self, questions: Iterable[Question], **options: Any) -> list[Reply]:
    """Answers many questions, each for itself, as many at once as `engine.conversations` says.

    Raises:
      EchoXError: a question that the model cannot take, before anything is computed.
    """
    requests = [_request(question, options) for question in questions]
    return [_reply(events) for events in self._engine.answers(requests)]


def load(
  folder: str | os.PathLike[str],
  dtype: str | None = None,
  mesh: Mesh | Mapping[str, int] | None = None,
  int8: bool = False,
) -> Model:
  """Opens a model folder; see `echox_jax.load`."""
  bundle = model_folder.load(folder)
  if dtype is not None:
    bundle = dataclasses.replace(bundle, config=placement.with_dtype(bundle.config, dtype))
  if isinstance(mesh, Mapping):
    mesh = sharding.make_mesh(mesh)
  return Model(**vars(bundle), mesh=mesh, int8=int8)


class Chat:
  """A conversation of several turns.

  What no longer fits is forgotten, the oldest whole turns first; `overflow['turns']` of the reply
  counts them.
  """

  def __init__(self, engine: Engine, options: dict[str, Any]):
    self._engine, self._options = engine, options
    self._conversation = Conversation()

  def ask(self, question: Question, **options: Any) -> Reply:
    """Asks, and waits for the whole answer.

    Args:
      question: path of a recording, a text, or (wave, sample rate).
      **options: as in `Model.chat`, for this answer alone.

    Raises:
      EchoXError: a question that the model cannot take.
    """
    return _reply(self.stream(question, **options))

  def stream(self, question: Question, **options: Any) -> Iterator[Event]:
    """Asks, and yields text and sound as they come, then `Done`; closing it cancels the answer."""
    yield from self._engine.stream(self._begin(question, options))

  async def astream(self, question: Question, **options: Any) -> AsyncIterator[Event]:
    """As `stream`, for asyncio: the work is done in a thread."""
    answering = self._begin(question, options)
    try:
      while True:
        finished = answering.finished
        for event in answering.taken():
          yield event
        if finished:
          return
        await asyncio.to_thread(self._engine.work_for, answering)
    finally:
      self._engine.cancel(answering)

  def _begin(self, question: Question, options: dict[str, Any]) -> Answering:
    return self._engine.ask(_request(question, self._options | options), self._conversation)


def _request(question: Question, options: dict[str, Any]) -> Request:
  unknown = [name for name in options if name not in _OPTIONS]
  if unknown:
    raise errors.EchoXError(
      f'an answer has no option {", ".join(unknown)}: use {", ".join(_OPTIONS)}.'
    )
  if isinstance(question, tuple):
    wave, rate = question
    return Request(audio.to_mono_16k(wave, rate, name='the question'), **options)
  if isinstance(question, os.PathLike) or Path(question).suffix.lower() in _SOUNDS:
    return Request(audio.load_audio(question), **options)
  return Request(text=question, **options)


def _reply(events: Iterable[Event]) -> Reply:
  first_text = first_sound = None
  for event in events:
    if isinstance(event, TextPiece) and first_text is None:
      first_text = event.at
    if isinstance(event, Sound) and first_sound is None:
      first_sound = event.at
  if not isinstance(event, Done):
    raise errors.EchoXError('the answer was cancelled before its end: ask again.')
  return Reply(
    event.text,
    event.waveform,
    rates.SAMPLE_RATE,
    {
      'first_text_s': first_text,
      'first_sound_s': first_sound,
      'last_text_s': max(event.token_times, default=0.0),
      'total_s': event.finished_at,
      'audio_s': len(event.waveform) / rates.SAMPLE_RATE,
    },
    event.overflow,
  )
