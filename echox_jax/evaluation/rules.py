"""Whether an answer is right, by the rules of a task."""

from collections.abc import Mapping, Sequence

from echox_jax.evaluation import choice, instructions, questions
from echox_jax.evaluation.contains import contains
from echox_jax.evaluation.exist_match import exist_match
from echox_jax.evaluation.normalise import normalise
from echox_jax.evaluation.questions import Question

# The rules of each task; the first one decides what counts as right.
RULES = {
  questions.ANSWERS: ('exist_match', 'exist_match_normalised', 'contains'),
  questions.CHOICE: ('choice',),
  questions.INSTRUCTIONS: ('strict', 'loose', 'strict_instructions', 'loose_instructions'),
}
Marks = dict[str, tuple[int, int]]  # rule -> (points, points that can be had)


def marks(task: str, question: Question, answer: str) -> Marks:
  """Marks of an answer by the rules of a task; of no points at all where no rule decides."""
  if task == questions.CHOICE:
    return {'choice': _point(choice.letter(answer) == question.references[0])}
  if task == questions.INSTRUCTIONS:
    return _followed(question, answer)
  plain = [normalise(reference) for reference in question.references]
  return {
    'exist_match': _point(exist_match(answer, question.references)),
    'exist_match_normalised': _point(exist_match(normalise(answer), plain)),
    'contains': _point(contains(answer, question.references)),
  }


def phoneme_marks(heard: str, references: Sequence[str]) -> Marks:
  """Marks of a transcript in phonemes, by references that are written in them."""
  return {'exist_match': _point(exist_match(heard, references))}


def unscored(question: Question) -> list[str]:
  """Names of the instructions of a question that no rule decides."""
  return [name for name, _ in question.instructions if name not in instructions.CHECKS]


def is_right(task: str, found: Mapping[str, Sequence[int]]) -> bool | None:
  """Whether an answer counts as right; None = no rule decides it."""
  points, most = found[RULES[task][0]]
  return points == most if most else None


def _followed(question: Question, answer: str) -> Marks:
  """Whether all instructions are followed, and how many of them."""
  known = [(name, own) for name, own in question.instructions if name in instructions.CHECKS]
  found: Marks = {}
  for rule, loosely in (('strict', False), ('loose', True)):
    each = [instructions.follows(name, own, answer, loosely=loosely) for name, own in known]
    found[rule] = (int(all(each) and bool(each)), int(bool(each)))
    found[f'{rule}_instructions'] = (sum(each), len(each))
  return found


def _point(right: bool) -> tuple[int, int]:
  return int(right), 1
