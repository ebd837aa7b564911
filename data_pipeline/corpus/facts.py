"""The demo's knowledge: some four hundred facts, each with several phrasings of the question and
one spoken answer.

Facts and their order are fixed. Texts hold plain words only (no digits), every question has exactly
one answer, and answers are chosen to sound different. About one answer in seven has two sentences,
so that streaming has something to cut.
"""

from collections.abc import Iterator
import dataclasses

from data_pipeline.corpus import facts_tables as tables
from data_pipeline.corpus import general_facts
from echox_jax.evaluation.normalise import in_words


@dataclasses.dataclass(frozen=True)
class Fact:
  """One fact.

  Attributes:
    id: unique name.
    category: kind of fact, for scores by category.
    questions: 3 or 4 phrasings of the question.
    answer: one sentence, or two short ones.
    references: accepted answers; a right answer contains one of them.
  """

  id: str
  category: str
  questions: tuple[str, ...]
  answer: str
  references: tuple[str, ...]


def all_facts() -> tuple[Fact, ...]:
  """Every fact, in fixed order."""
  makers = (
    _capitals,
    _states,
    _opposites,
    _elements,
    _calendar,
    _sums,
    _differences,
    _baby_animals,
    _general,
  )
  return tuple(fact for make in makers for fact in make())


def _capitals() -> Iterator[Fact]:
  for i, (country, capital, continent) in enumerate(_rows(tables.CAPITALS)):
    answer = f'The capital of {country} is {capital}.'
    if i % 5 in (0, 3):
      answer += f' It lies in {continent}.'
    yield _capital(country, capital, answer)


def _states() -> Iterator[Fact]:
  for state, capital in _rows(tables.STATE_CAPITALS):
    yield _capital(state, capital, f'The capital of {state} is {capital}.')


def _capital(place: str, capital: str, answer: str) -> Fact:
  questions = (
    f'What is the capital of {place}?',
    f'Which city is the capital of {place}?',
    f'Tell me the capital of {place}.',
    f'Do you know the capital city of {place}?',
  )
  return Fact(
    _name('capital', place),
    'capitals',
    questions,
    answer,
    (capital, *tables.OTHER_SPELLINGS.get(capital, ())),
  )


def _opposites() -> Iterator[Fact]:
  for word, opposite in _rows(tables.OPPOSITES):
    questions = (
      f'What is the opposite of {word}?',
      f'Tell me the opposite of {word}.',
      f'Which word is the opposite of {word}?',
    )
    yield Fact(
      _name('opposite', word),
      'opposites',
      questions,
      f'The opposite of {word} is {opposite}.',
      (opposite,),
    )


def _elements() -> Iterator[Fact]:
  for number, element, kind in _rows(tables.ELEMENTS):
    spoken = in_words(int(number))
    questions = (
      f'Which element has the atomic number {spoken}?',
      f'What is the element with atomic number {spoken}?',
      f'Name the chemical element number {spoken}.',
    )
    answer = f'Element number {spoken} is {element}.' + (f' It is a {kind}.' if kind else '')
    references = (element, *tables.OTHER_SPELLINGS.get(element, ()))
    yield Fact(_name('element', element), 'elements', questions, answer, references)


def _calendar() -> Iterator[Fact]:
  for unit, names in (('day', tables.DAYS), ('month', tables.MONTHS)):
    for i, name in enumerate(names):
      for side, step in (('after', 1), ('before', -1)):
        other = names[(i + step) % len(names)]
        comes = 'follows' if side == 'after' else 'comes right before'
        questions = (
          f'Which {unit} comes {side} {name}?',
          f'What is the {unit} {side} {name}?',
          f'Tell me which {unit} {comes} {name}.',
        )
        answer = f'The {unit} {side} {name} is {other}.'
        yield Fact(_name(unit, side, name), 'calendar', questions, answer, (other,))


def _sums() -> Iterator[Fact]:
  for a in range(2, 12):
    for b in range(1, min(a, 20 - a) + 1):
      x, y, result = in_words(a), in_words(b), in_words(a + b)
      questions = (
        f'What is {x} plus {y}?',
        f'How much is {x} plus {y}?',
        f'What do you get if you add {y} to {x}?',
        f'Please add {x} and {y}.',
      )
      answer = f'{x.capitalize()} plus {y} is {result}.'
      yield Fact(_name('sum', x, y), 'arithmetic', questions, answer, (result, str(a + b)))


def _differences() -> Iterator[Fact]:
  for a in range(2, 12):
    for b in range(1, a):
      x, y, result = in_words(a), in_words(b), in_words(a - b)
      questions = (
        f'What is {x} minus {y}?',
        f'How much is {x} take away {y}?',
        f'What is left if you take {y} from {x}?',
        f'Please subtract {y} from {x}.',
      )
      answer = f'{x.capitalize()} less {y} is {result}.'
      yield Fact(_name('difference', x, y), 'arithmetic', questions, answer, (result, str(a - b)))


def _baby_animals() -> Iterator[Fact]:
  for animal, baby in _rows(tables.BABY_ANIMALS):
    questions = (
      f'What is a baby {animal} called?',
      f'What do you call a young {animal}?',
      f'Tell me the name for a baby {animal}.',
    )
    article = 'an' if baby[0] in 'aeiou' else 'a'
    references = (baby, *tables.OTHER_SPELLINGS.get(baby, ()))
    yield Fact(
      _name('baby', animal),
      'animals',
      questions,
      f'A baby {animal} is called {article} {baby}.',
      references,
    )


def _general() -> Iterator[Fact]:
  for name, questions, answer, references in general_facts.GENERAL:
    yield Fact(_name('general', name), 'general', questions, answer, references)


def _rows(table: str) -> Iterator[tuple[str, ...]]:
  for line in table.strip().splitlines():
    yield tuple(cell.strip() for cell in line.split('|'))


def _name(*parts: str) -> str:
  return '_'.join(parts).lower().replace(' ', '_')
