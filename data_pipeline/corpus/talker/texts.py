"""Texts that can be spoken and learned: cleaned, without repetitions, split by what they mean."""

from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
import re
import unicodedata

from echox_jax.evaluation.normalise import in_words

# Shares of the meanings. What is left is for training.
TEST, DEV = 0.04, 0.02
QUESTION_WORDS = (1, 24)
SENTENCE_WORDS = (2, 20)
_LONGEST = 160  # characters

_REPLACED = str.maketrans(
  {'“': '"', '”': '"', '‘': "'", '’': "'", '`': "'", '–': '-', '—': '-', '…': '.', '\u00a0': ' '}
)
_NUMBER = re.compile(r'(?<![\w.,])\d{1,4}(?![\w.,]?\d)(?=\W|$)')
_SPOKEN = re.compile(r"[A-Za-z' ,.?!-]+")  # no digits: nothing says how they are read
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


@dataclasses.dataclass(frozen=True)
class Question:
  """A question, or a request.

  Attributes:
    text: the words.
    meaning: the same for questions that mean the same.
    category: a label for scores by kind.
    source: where it comes from, the name of one of `sources.SOURCES` or `everyday.NAME`.
    references: answers that count as right, where they are known.
  """

  text: str
  meaning: str
  category: str
  source: str
  references: tuple[str, ...] = ()


def clean(text: str, words: tuple[int, int] = QUESTION_WORDS) -> str:
  """The text as it is spoken: plain letters, whole numbers as words, one mark at its end. Empty if
  it cannot be spoken, or has not as many words as `words` allows.
  """
  text = unicodedata.normalize('NFKD', text.translate(_REPLACED))
  text = ''.join(c for c in text if not unicodedata.combining(c)).replace('"', '')
  text = text.replace('&', ' and ').replace(';', ',').replace(':', ',')
  text = re.sub(r"(?<!\w)'|'(?!\w)", '', text)  # quotes; apostrophes stand in words or end them
  text = _NUMBER.sub(lambda found: _number(int(found[0])), text)
  text = re.sub(r'\s+', ' ', re.sub(r'\s+-+\s+|--+', ', ', text)).strip()
  text = re.sub(r'\s*[,.?!]*([.?!])$', r'\1', text)
  if text and text[-1] not in '.?!':
    text = text.rstrip(', -') + '.'
  count = len(text.split())
  if not (_SPOKEN.fullmatch(text) and words[0] <= count <= words[1] and len(text) <= _LONGEST):
    return ''
  return text[0].upper() + text[1:] if _WORD.search(text.lower()) else ''


def normalised(text: str) -> str:
  """The words alone, by which texts are the same."""
  return ' '.join(words_of(text))


def words_of(text: str) -> list[str]:
  """The words of a text, in lower case."""
  return _WORD.findall(text.lower())


def distinct(questions: Iterable[Question]) -> Iterator[Question]:
  """The questions with clean texts, each text once; the first one counts. Questions that repeat a
  text of another meaning join that meaning: their other phrasings get it, too.
  """
  kept: dict[str, Question] = {}
  joined: dict[str, str] = {}
  for question in questions:
    text = clean(question.text)
    key = normalised(text)
    if not key:
      continue
    if key in kept:
      _join(joined, question.meaning, kept[key].meaning)
    else:
      kept[key] = dataclasses.replace(question, text=text)
  for question in kept.values():
    yield dataclasses.replace(question, meaning=_root(joined, question.meaning))


def split_of(meaning: str, seed: int = 0) -> str:
  """`train`, `dev` or `test`: the same for all that means the same."""
  place = fraction(meaning, f'split {seed}')
  return 'test' if place < TEST else 'dev' if place < TEST + DEV else 'train'


def name_of(source: str, text: str) -> str:
  """The id of a text: the same for the same words, in any corpus."""
  return exact_name_of(source, normalised(text))


def exact_name_of(source: str, text: str) -> str:
  """The id of a text whose digits and signs count, too."""
  return f'{source}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'


def fraction(key: str, purpose: str) -> float:
  """A number from 0 to 1 that the key decides; `purpose` makes several of them independent."""
  digest = hashlib.sha256(f'{purpose}\0{key}'.encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def _number(number: int) -> str:
  """A whole number below ten thousand; what looks like a year is read as one."""
  hundreds, rest = divmod(number, 100)
  if 11 <= hundreds <= 20 and hundreds != 20:
    return f'{in_words(hundreds)} {_rest_of_year(rest)}'
  return in_words(number)


def _rest_of_year(rest: int) -> str:
  return 'hundred' if not rest else f'oh {in_words(rest)}' if rest < 10 else in_words(rest)


def _root(joined: dict[str, str], meaning: str) -> str:
  while meaning in joined:
    meaning = joined[meaning]
  return meaning


def _join(joined: dict[str, str], one: str, other: str) -> None:
  one, other = _root(joined, one), _root(joined, other)
  if one != other:
    joined[one] = other
