"""What the answer voice says beside the answers, for the text-to-codec model: sentences, which have
more words than answers have, parts of answers, numbers, and words in no order.

Parts are as long as the slices that the engine has spoken, and like those they are read as if they
were sentences. Nothing but the words themselves says how a list of random words goes on. They are
meant to teach the model where in a text it is; whether it learns that sooner by them is not
measured yet.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import itertools
import re
from typing import Any

from data_pipeline.corpus.talker import casting, numerals, texts

_LETTERS_A_SECOND = 16.0  # of the answer voice, with its silences: 628 answers had 16.3
_TOGETHER = (1, 2, 3, 4)  # words of a list
_SHORTEST, _LONGEST = 4, 12  # words of a part, but for the last of an answer
_ENDS = re.compile(r'[.,;:!?]+["\')]*$')
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Spoken:
  """How much the answer voice says: at most so many hours, and at most so many texts."""

  hours: float = float('inf')
  texts: float = float('inf')


def seconds(text: str) -> float:
  """How long the answer voice takes, about."""
  return len(text) / _LETTERS_A_SECOND


def sentences(
  written: Sequence[tuple[str, str]], answered: Iterable[str], limit: Spoken, seed: int
) -> list[Row]:
  """Rows of the list of exchanges with an answer alone, for some of the sentences (text, split)
  that are `written` down; none of them is an answer as a whole.
  """
  said = set(map(texts.normalised, answered))
  in_order = sorted(written, key=_place)
  others = [(text, split) for text, split in in_order if texts.normalised(text) not in said]
  return _rows('said', others, limit, seed)


def parts(answered: Iterable[str], limit: Spoken, seed: int) -> list[Row]:
  """Such rows for the parts of some of the answers to train on; each ends as a sentence does."""
  in_order = sorted(set(answered), key=lambda text: texts.fraction(text, 'spoken'))
  chosen = ((part, 'train') for text in in_order for part in cut(text))
  return _rows('part', chosen, limit, seed)


def cut(text: str) -> Iterator[str]:
  """The parts of an answer: they end behind a sign of punctuation, or after so many words."""
  begun: list[str] = []
  *before, last = text.split() or ['']
  longest = _SHORTEST
  for word in before:
    begun.append(word)
    if len(begun) == 1:
      longest = _SHORTEST + int(texts.fraction(text + word, 'part') * (_LONGEST - _SHORTEST + 1))
    if len(begun) >= (_SHORTEST if _ENDS.search(word) else longest):
      yield _sentence(begun)
      begun = []
  if last:
    yield _sentence([*begun, last])


def numbers(limit: Spoken, seed: int) -> list[Row]:
  """Such rows for numbers."""
  chosen = ((phrase, 'train') for phrase in numerals.phrases())
  return _rows('number', chosen, limit, seed, texts.exact_name_of)


def words(written: Sequence[tuple[str, str]], limit: Spoken, seed: int) -> list[Row]:
  """Such rows for lists of one to four words of the sentences to train on: each word once, and then
  again in another order.
  """
  known = {word for text, split in written if split == 'train' for word in texts.words_of(text)}
  return _rows('words', _lists(known), limit, seed) if known else []


def _lists(known: set[str]) -> Iterator[tuple[str, str]]:
  for turn in itertools.count():
    in_order = iter(sorted(known, key=lambda word: texts.fraction(word, f'list {turn}')))
    for count in itertools.cycle(_TOGETHER):
      some = ' '.join(itertools.islice(in_order, count))
      if not some:
        break
      yield f'{some[0].upper()}{some[1:]}.', 'train'


def _sentence(part: Sequence[str]) -> str:
  text = ' '.join(part)
  return text if text[-1] in '.!?' else f'{_ENDS.sub("", text)}.'


def _rows(
  kind: str,
  chosen: Iterable[tuple[str, str]],
  limit: Spoken,
  seed: int,
  name_of: Callable[[str, str], str] = texts.name_of,
) -> list[Row]:
  rows, total, audio = {}, 0.0, casting.answer(seed)
  for number, (text, split) in enumerate(chosen):  # which may be endless, and repeat itself
    total += seconds(text)
    if total > 3600 * limit.hours or number >= limit.texts:
      break
    name = name_of(kind, text)
    rows[name] = {'id': name, 'answer': text, 'answer_audio': audio, 'split': split}
  return list(rows.values())


def _place(sentence: tuple[str, str]) -> float:
  return texts.fraction(sentence[0], 'spoken')
