"""Everyday questions and requests: tens of thousands, from word lists and from the facts of the
demo. Their order is fixed.
"""

from collections.abc import Iterator

from data_pipeline.corpus import facts
from data_pipeline.corpus.talker import families, smalltalk
from data_pipeline.corpus.talker.texts import Question

NAME = 'everyday'
# where the first letter does not tell the article
_AN = ('hour', 'honest', 'heir', 'X-ray')
_A = ('uni', 'eu', 'one', 'use', 'uku')


def questions() -> Iterator[Question]:
  """All of them, phrasing by phrasing."""
  for family in families.all_families():
    yield from _of_family(family)
  for fact in facts.all_facts():
    for text in fact.questions:
      yield Question(text, f'fact/{fact.id}', fact.category, NAME, fact.references)
  for number, group in enumerate(smalltalk.GROUPS):
    for text in group:
      yield Question(text, f'small talk/{number}', 'small talk', NAME)


def _of_family(family: families.Family) -> Iterator[Question]:
  for x, y in family.pairs:
    meaning = '/'.join((family.name, _word(x), *((_word(y),) if y else ())))
    places = _forms('x', x) | (_forms('y', y) if y else {})
    for phrasing in family.phrasings:
      text = phrasing.format(**places)
      yield Question(text[0].upper() + text[1:], meaning, family.category, NAME)


def with_article(word: str) -> str:
  """`a` or `an`, and the word."""
  starts = word[0].lower() in 'aeiou' and not word.lower().startswith(_A)
  return f'{"an" if starts or word.startswith(_AN) else "a"} {word}'


def plural(cell: str) -> str:
  """The plural of a cell: regular, or the one that it gives."""
  word, _, given = cell.partition('/')
  if given:
    return given
  if word.endswith(('s', 'x', 'ch', 'sh', 'z')):
    return f'{word}es'
  if word.endswith('y') and word[-2] not in 'aeiou':
    return f'{word[:-1]}ies'
  return f'{word}es' if word.endswith(('ato', 'ango')) else f'{word}s'


def _word(cell: str) -> str:
  return cell.partition('/')[0]


def _forms(letter: str, cell: str) -> dict[str, str]:
  word = _word(cell)
  return {letter: word, f'a{letter}': with_article(word), f'{letter}s': plural(cell)}
