"""The test questions of an ablation, by whether training has heard the spoken answer.

  heard     the answer is recorded in `answers/train`
  known     it is not, but all words of a reference occur in other recordings there
  new       it is not, and no reference has only such words

`known` and `new` together are the unheard facts: the LLM knows them from text, and no stage has
heard anybody say them.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
from pathlib import Path

import numpy as np

from data_pipeline import dataset, schema
from echox_jax import errors
from echox_jax.evaluation.ablation import HEARD, KNOWN, NEW
from echox_jax.evaluation.exist_match import tokenise
from echox_jax.evaluation.questions import spread

TEST_SETS = (('questions', 'test'), ('unheard', 'test'))
RECORDED = ('answers', 'train')


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
  """A spoken question; `id` is unique, `split` one of the above."""

  id: str
  split: str
  voice: str
  category: str
  text: str
  references: tuple[str, ...]
  audio: np.ndarray


def read(data_dir: Path, count: int) -> list[Question]:
  """At most `count` heard and `count` unheard questions, evenly spaced, of all test sets.

  Raises:
    DataError: there are no questions, or no recordings.
  """
  texts = list(_answers(dataset.open_dataset(data_dir, *RECORDED)))
  split_of = Splits(texts)
  found: dict[str, Question] = {}
  for name, split in TEST_SETS:
    if dataset.dataset_exists(data_dir, name):
      for example in dataset.read_examples(data_dir, name, split):
        found.setdefault(example.id, _question(example, split_of))
  heard = [question for question in found.values() if question.split == HEARD]
  unheard = [question for question in found.values() if question.split != HEARD]
  if not heard or not unheard:
    lacking = 'heard' if not heard else 'unheard'
    raise errors.DataError(
      f'the test questions in {data_dir} have no {lacking} fact: their answers must be in part in '
      f'{"/".join(RECORDED)}, and in part not.'
    )
  return [own[i] for own in (heard, unheard) for i in spread(len(own), count)]


class Splits:
  """Tells the split of a fact.

  Args:
    texts: all that is said in the recordings of training.
  """

  def __init__(self, texts: Iterable[str]):
    self._texts = set(texts)
    self._words = {word for text in self._texts for word in tokenise(text)}

  def __call__(self, answer: str, references: Sequence[str]) -> str:
    if answer in self._texts:
      return HEARD
    words = (tokenise(reference) for reference in references)
    return KNOWN if any(own and self._words.issuperset(own) for own in words) else NEW


def _answers(source: Sequence[dict]) -> Iterator[str]:
  for i in range(len(source)):
    for turn in schema.text_turns(source[i]):
      if turn['role'] == 'assistant':
        yield turn['text']


def _question(example: schema.Example, split_of: Splits) -> Question:
  question, answer = example.turns[:2]
  return Question(
    example.id,
    split_of(answer.text, answer.references),
    question.speaker,
    question.category,
    question.text,
    answer.references,
    question.audio,
  )
