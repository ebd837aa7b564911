"""The questions of an evaluation, and the checks that they can be asked and scored."""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from echox_jax.errors import DataError

# How an answer is scored: against accepted answers, as a letter of a multiple choice, or by the
# instructions that the question gives.
ANSWERS, CHOICE, INSTRUCTIONS = 'answers', 'choice', 'instructions'
LETTERS = ('A', 'B', 'C', 'D')


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
  """One question.

  Attributes:
    id: unique in its set.
    text: its words; '' where the set only has its sound.
    references: answers that count as right; for `CHOICE` one letter.
    sound: reads it as float32[samples], mono, 16 kHz; None = it is only written.
    category: a label for scores by kind.
    voice: who speaks it.
    instructions: (name, arguments) of each instruction to be followed, for `INSTRUCTIONS`.
  """

  id: str
  text: str = ''
  references: tuple[str, ...] = ()
  sound: Callable[[], np.ndarray] | None = None
  category: str = ''
  voice: str = ''
  instructions: tuple[tuple[str, Mapping[str, Any]], ...] = ()

  def row(self) -> dict[str, Any]:
    """What the store keeps of it: everything but the sound."""
    return {
      'id': self.id,
      'text': self.text,
      'references': list(self.references),
      'category': self.category,
      'voice': self.voice,
      'instructions': [[name, dict(arguments)] for name, arguments in self.instructions],
    }


def of_row(row: Mapping[str, Any]) -> Question:
  """The question that a row of the store describes, without its sound."""
  return Question(
    row['id'],
    row['text'],
    tuple(row['references']),
    None,
    row['category'],
    row['voice'],
    tuple((name, arguments) for name, arguments in row['instructions']),
  )


def task_of(questions: Sequence[Question]) -> str:
  """How a set is scored, by what it holds: a set whose only accepted answers are letters is a
  multiple choice.
  """
  if all(question.instructions for question in questions):
    return INSTRUCTIONS
  letters = all(
    len(question.references) == 1 and question.references[0] in LETTERS for question in questions
  )
  return CHOICE if letters else ANSWERS


def spread(count: int, most: int | None) -> list[int]:
  """Evenly spaced numbers from 0 to `count` - 1: `most` of them, or all."""
  chosen = count if most is None else min(most, count)
  return np.linspace(0, count - 1, chosen).round().astype(int).tolist()


def check(questions: Sequence[Question], name: str, written: bool, spoken: bool) -> None:
  """Checks that every question can be asked and scored.

  Args:
    questions: all of a set.
    name: of the set, for messages.
    written, spoken: how they will be asked.

  Raises:
    DataError: there are none, an id comes twice, or a question lacks what it needs.
  """
  if not questions:
    raise DataError(f'{name} holds no questions: give a set with at least one.')
  often, count = collections.Counter(question.id for question in questions).most_common(1)[0]
  if count > 1:
    raise DataError(f'the id {often!r} stands {count} times in {name}: give each question its own.')
  unscored = [q.id for q in questions if not q.instructions and not _words(q.references)]
  _refuse(unscored, name, 'accepted answers', 'add them, or take these questions out')
  if spoken:
    silent = [q.id for q in questions if q.sound is None]
    _refuse(silent, name, 'sound', 'add the recordings, or score --ways T2T,T2S alone')
  if written:
    wordless = [q.id for q in questions if not q.text.strip()]
    _refuse(wordless, name, 'text', 'add it, or score --ways S2T,S2S alone')


def check_transcribed(questions: Sequence[Question], name: str) -> None:
  """Checks that every question has words and sound; raises DataError as `check`."""
  if not questions:
    raise DataError(f'{name} holds no questions: give a set with at least one.')
  for lacking, what in (
    ([q.id for q in questions if q.sound is None], 'sound'),
    ([q.id for q in questions if not q.text.strip()], 'text'),
  ):
    _refuse(lacking, name, what, 'add it, or take these questions out')


def _words(references: Sequence[str]) -> bool:
  """Whether every accepted answer has words; none at all has none."""
  return bool(references) and all(reference.strip() for reference in references)


def _refuse(ids: Sequence[str], name: str, what: str, remedy: str) -> None:
  if ids:
    more = f' and {len(ids) - 1} more' if len(ids) > 1 else ''
    raise DataError(f'the question {ids[0]!r}{more} of {name} lacks {what}: {remedy}.')
