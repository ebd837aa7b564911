"""Asks a model the questions of an evaluation, batch by batch, and keeps what it answers."""

from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from echox_jax import audio, errors, rates
from echox_jax.evaluation import store as store_lib
from echox_jax.evaluation.questions import Question
from echox_jax.evaluation.store import SPOKEN, Store
from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Event, SpokenSlice


def answer_batch(engine: Engine, store: Store, batch: int, asked: Sequence[Question]) -> None:
  """Answers the questions of a batch, and writes them down when all are answered: together, or one
  after the other, with times, where the store says so.

  Args:
    engine: of the model.
    store: where to write.
    batch: its number.
    asked: all questions of the evaluation, with sound.

  Raises:
    AudioError: a recording is damaged.
    OSError: the disk is full; finished batches are kept.
  """
  work, started, alone = store.batches[batch], [], batch < store.alone
  for how, number in work:
    question = asked[number]
    sound = question.sound() if how == SPOKEN else None
    if sound is not None and not store.question_sound(number).exists():
      audio.write_wav(store.question_sound(number), sound)
    try:
      started.append(engine.ask(request(question, how, sound, store.ways)))
    except errors.EchoXError as error:  # too long, silent: the model cannot take this one
      started.append(str(error))
    while alone and engine.pump():
      pass
  while engine.pump():
    pass
  rows = []
  for (how, number), answering in zip(work, started):
    row: dict[str, Any] = {'asked': how, 'number': number}
    if isinstance(answering, str):
      rows.append(row | {'text': '', 'refused': answering, 'audio_s': 0.0, 'overflow': {}})
      continue
    times = {'times': time_of(answering.events)} if alone else {}
    rows.append(row | describe(answering.events) | times)
    waveform = answering.events[-1].waveform
    if len(waveform):
      audio.write_wav(store.sound(how, number), waveform)
  store.write(store_lib.ANSWERS, batch, rows)


def request(question: Question, how: str, sound: np.ndarray | None, ways: Iterable[str]) -> Request:
  """How a question is put: as sound alone or as text alone, answered in speech where a way asks
  for it.
  """
  speaks = f'{"S" if how == SPOKEN else "T"}2S' in ways
  return (
    Request(sound, speaks=speaks) if how == SPOKEN else Request(None, question.text, speaks=speaks)
  )


def describe(events: Iterable[Event]) -> dict[str, Any]:
  """What the store keeps of an answer; its overflow without the counters that are 0."""
  *before, done = events
  slices = [event for event in before if isinstance(event, SpokenSlice)]
  return {
    'text': done.text,
    'refused': None,
    'slices': len(slices),
    'units': sum(len(own.units) for own in slices),
    'unit_words': sum(len(own.unit_words) for own in slices),
    'audio_s': round(len(done.waveform) / rates.SAMPLE_RATE, 4),
    'overflow': {name: count for name, count in done.overflow.items() if count},
  }


def warm_up(
  engine: Engine, store: Store, batches: Iterable[int], asked: Sequence[Question]
) -> None:
  """Compiles what an engine needs for some batches; what the model cannot take is left out."""
  requests = []
  for how, number in itertools.chain.from_iterable(store.batches[batch] for batch in batches):
    sound = asked[number].sound() if how == SPOKEN else None
    one = request(asked[number], how, sound, store.ways)
    try:
      engine.questions.sizes_of([(one.wave, one.text)])
    except errors.EchoXError:
      continue  # `answer_batch` counts it as refused
    requests.append(one)
  engine.warm_up(requests)


def time_of(events: Sequence[Event]) -> Mapping[str, float | None]:
  """The times of an answer in seconds since the question was given, and how long it sounds."""
  done = events[-1]
  return {
    'first_audio_s': done.first_audio_at,
    'finished_s': done.finished_at,
    'text_s': max(done.token_times, default=0.0),
    'audio_s': len(done.waveform) / rates.SAMPLE_RATE,
  }
