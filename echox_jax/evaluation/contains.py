"""The looser rule of VITA-Audio: an answer is right if every word of an accepted answer occurs
anywhere in it, as a part of any word, in any order.

It follows VITA-Audio, `evaluation/compute-acc-of-contain.py` at commit 0abaf17, line by line:

  17      a candidate is found if all of its parts between spaces are substrings of the answer
  22-25   any candidate is enough
  30-32   ASCII punctuation but the apostrophe becomes a space, in the candidates alone (49)
  50, 59  both sides in lower case, candidates stripped
  62      the candidates once more as numbers, if every one of them has a number
  67, 69  right if the candidates or their numbers are found

Numbers are read by `normalise.numbers` instead of the package word2number, which reads sequences
such as "one two" as a sum; whole numbers up to the millions are the same.
"""

from collections.abc import Iterable
import re
import string

from echox_jax.evaluation import normalise

_PUNCTUATION = re.compile(f'[{re.escape(string.punctuation.replace(chr(39), ""))}]')
_NUMBER_WORDS = frozenset((*normalise.ONES, *normalise.TENS, 'hundred', 'thousand', 'million'))


def contains(answer: str, references: Iterable[str]) -> bool:
  """Whether every word of any reference, or of its number, is a part of the answer."""
  answer = answer.lower()
  candidates = [_PUNCTUATION.sub(' ', reference).lower().strip() for reference in references]
  numbers = [as_number(candidate) for candidate in candidates]
  if None not in numbers:
    candidates += numbers
  return any(all(part in answer for part in one.split(' ')) for one in candidates if one)


def as_number(text: str) -> str | None:
  """The whole number that the number words of a text say, or that it is; None = it has none."""
  if text.isdigit():
    return str(int(text))
  words = [word for word in text.replace('-', ' ').split() if word in _NUMBER_WORDS]
  value = normalise.numbers(' '.join(words))
  return value if value.isdigit() else None
