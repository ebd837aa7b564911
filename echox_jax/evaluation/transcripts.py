"""What a model hears: the CTC transcript of its adapter against what was said; nobody answers."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
from typing import Any

import numpy as np

from echox_jax import errors
from echox_jax.evaluation import intervals, judge
from echox_jax.evaluation.normalise import normalise
from echox_jax.evaluation.questions import Question
from echox_jax.inference.engine import Engine


@dataclasses.dataclass(frozen=True)
class Heard:
  """A question and what was heard.

  Attributes:
    question: with its words.
    text: the transcript; '' if the model cannot take the sound.
    refused: why it cannot; None = it can.
    edits, words: of the transcript against the question, both normalised.
  """

  question: Question
  text: str
  refused: str | None
  edits: int
  words: int

  def row(self) -> dict[str, Any]:
    """For JSON."""
    return {
      'id': self.question.id,
      'voice': self.question.voice,
      'said': self.question.text,
      'heard': self.text,
      'refused': self.refused,
      'edits': self.edits,
      'words': self.words,
    }


def hear(engine: Engine, questions: Iterable[Question]) -> list[Heard]:
  """Writes down each question, which has words and sound; those of a model that cannot take a sound
  count as all wrong.

  Raises:
    AudioError: a recording is damaged.
  """
  found = []
  for question in questions:
    text, refused = transcribe(engine, question.sound())
    edits, words = judge.word_errors(normalise(question.text), normalise(text))
    found.append(Heard(question, text, refused, edits, words))
  return found


def transcribe(engine: Engine, sound: np.ndarray) -> tuple[str, str | None]:
  """(what is heard in float32[samples] at 16 kHz, None), or ('', why the model cannot take it)."""
  try:
    ids = engine.hear(sound).ids(engine.config.special_ids.audio)
  except errors.EchoXError as error:  # too long, or silent
    return '', str(error)
  return engine.tokenizer.decode(ids).strip(), None


def summarise(heard: Sequence[Heard]) -> dict[str, Any]:
  """The word error rate with its 95 % interval, over all, by voice and by category."""

  def by(label: Callable[[Question], str]) -> dict[str, Any]:
    names = sorted({label(own.question) for own in heard})
    return {
      name or 'none': _score([own for own in heard if label(own.question) == name])
      for name in names
    }

  return {
    **_score(heard),
    'refused': sum(own.refused is not None for own in heard),
    'by_voice': by(lambda question: question.voice),
    'by_category': by(lambda question: question.category),
  }


def _score(heard: Sequence[Heard]) -> dict[str, Any]:
  clusters = [own.question.text for own in heard]  # voices that say the same go together
  found = intervals.ratio([own.edits for own in heard], [own.words for own in heard], clusters)
  return {'questions': len(heard), 'transcript_wer': None if found is None else found.rounded()}
