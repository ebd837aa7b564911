"""Asks a model of an ablation all test questions and lets the judge listen to its answers."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from echox_jax import audio
from echox_jax.evaluation import judge as judge_lib
from echox_jax.evaluation.exist_match import exist_match
from echox_jax.evaluation.normalise import normalise
from echox_jax.inference.answering import Request
from echox_jax.inference.chat import Model
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import SpokenSlice
from echox_jax.inference.reading import Reader
from launch.ablate.presets import Cutting
from launch.ablate.questions import Question

_AT_A_TIME = 8  # conversations
_SILENCE = np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Spoken:
  """An answer.

  Attributes:
    text: of the LLM.
    wave: float32[samples], 16 kHz.
    slices: how many it was spoken in.
    lag: text tokens that were there when the first slice was cut; 0 = nothing was spoken.
    first_audio_s: seconds until the first sound, where times count; else None.
  """

  text: str
  wave: np.ndarray
  slices: int
  lag: int
  first_audio_s: float | None = None


def in_batches(model: Model, questions: Sequence[Question]) -> list[Spoken]:
  """Answers many questions at a time; no times."""
  engine = Engine(_with_budgets(model, conversations=_AT_A_TIME))
  asked = [Request(audio.from_int16(question.audio)) for question in questions]
  return [_spoken(events) for events in engine.answers(asked)]


def one_by_one(model: Model, questions: Sequence[Question], cutting: Cutting) -> list[Spoken]:
  """Answers one question after the other, cut as `cutting` says, with times."""
  streaming = dataclasses.replace(model.config.streaming, **dict(cutting.streaming))
  model = dataclasses.replace(model, config=dataclasses.replace(model.config, streaming=streaming))
  budgets = dict(conversations=1, first_slice_tokens=cutting.first_slice_tokens)
  engine = Engine(_with_budgets(model, **budgets))
  asked = [Request(audio.from_int16(question.audio)) for question in questions]
  engine.warm_up(asked)
  return [_spoken(engine.answers([request])[0], timed=True) for request in asked]


def cascade(model: Model, questions: Sequence[Question]) -> list[Spoken]:
  """The LLM answers in text, and the frozen text-to-codec model reads it."""
  engine = Engine(_with_budgets(model, conversations=_AT_A_TIME), speaks=True, reads=True)
  asked = [Request(audio.from_int16(question.audio), speaks=False) for question in questions]
  texts = [events[-1].text for events in engine.answers(asked)]
  reader = Reader(engine)
  pieces = {text: list(reader.say(text)) if text.strip() else [] for text in set(texts)}
  return [
    Spoken(text, np.concatenate([_SILENCE, *pieces[text]]), len(pieces[text]), 0) for text in texts
  ]


def records(
  questions: Sequence[Question], answers: Sequence[Spoken], listen: Callable[..., list[str]]
) -> Iterator[dict[str, Any]]:
  """What was asked, said and heard, JSON-ready: `s2t` and `s2s` tell whether the text and what the
  judge heard are right; `errors` of `words`: what it heard against the text.
  """
  transcripts = listen([answer.wave for answer in answers])
  for question, answer, transcript in zip(questions, answers, transcripts, strict=True):
    heard = normalise(transcript)
    wrong, words = judge_lib.word_errors(normalise(answer.text), heard)
    yield {
      'id': question.id,
      'split': question.split,
      'voice': question.voice,
      'category': question.category,
      'question': question.text,
      'references': question.references,
      'answer': answer.text,
      'transcript': transcript,
      's2t': exist_match(answer.text, question.references),
      's2s': exist_match(heard, map(normalise, question.references)),
      'errors': wrong,
      'words': words,
      'slices': answer.slices,
      'lag': answer.lag,
      'first_audio_s': answer.first_audio_s,
    }


def _with_budgets(model: Model, **budgets: int) -> Model:
  return dataclasses.replace(model, engine=dataclasses.replace(model.engine, **budgets))


def _spoken(events: Sequence[Any], timed: bool = False) -> Spoken:
  done, slices = events[-1], [event for event in events if isinstance(event, SpokenSlice)]
  lag = sum(at <= slices[0].cut_at for at in done.token_times) if slices else 0
  first = done.first_audio_at if timed else None
  return Spoken(done.text, done.waveform, len(slices), lag, first)
