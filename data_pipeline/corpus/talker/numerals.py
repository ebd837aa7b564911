"""Numbers as answers write them: years, prices, shares, counts, times, capitals said one by one.

Sentences have few of them, and how a digit is said depends on those beside it, which letters do not
tell.
"""

from collections.abc import Callable, Iterator
import itertools

from data_pipeline.corpus.talker import texts

_MONTHS = (
  *('January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September'),
  *('October', 'November', 'December'),
)
_THINGS = (
  *('years', 'days', 'minutes', 'hours', 'people', 'miles', 'meters', 'pounds', 'countries'),
  *('species', 'degrees', 'dollars', 'books', 'times', 'cells', 'inches', 'points', 'million'),
)
_BEGINNINGS = (
  *('It is', 'There are', 'About', 'In all,', 'It was', 'Between', 'At least', 'Up to', 'They had'),
  *('It takes', 'Since', 'By', 'He had', 'She won', 'Nearly', 'It has', 'And', 'The answer is'),
)


def phrases() -> Iterator[str]:
  """Endless short phrases, the same ones every time; they may repeat themselves."""
  for n in itertools.count():
    yield _KINDS[n % len(_KINDS)](n)


def _pick(n: int, purpose: str, limit: int) -> int:
  """A number from 0 up to `limit`, without it, that n decides."""
  return int(texts.fraction(str(n), purpose) * limit)


def _choice(n: int, purpose: str, of: tuple[str, ...]) -> str:
  return of[_pick(n, purpose, len(of))]


def _year(n: int) -> int:
  """Most are of the last two centuries."""
  recent = 1800 + _pick(n, 'recent year', 226)
  return recent if _pick(n, 'is recent', 4) else 1000 + _pick(n, 'year', 1026)


def _count(n: int) -> int:
  """As many have one digit as two or three."""
  return 1 + _pick(n, 'count', 10 ** (1 + _pick(n, 'digits', 3)))


def _years(n: int) -> str:
  year = _year(n)
  return (
    f'In {year}.',
    f'It began in {year}, and ended in {year + 1 + _pick(n, "duration", 40)}.',
    f'He was born on {_choice(n, "month", _MONTHS)} {1 + _pick(n, "day", 28)}, {year}.',
    f'It was made in the {year // 10 * 10}s.',
    f'It dates from the {_ordinal(year // 100 + 1)} century.',
    f'The war of {year}.',
  )[_pick(n, 'kind of year', 6)]


def _counts(n: int) -> str:
  return f'{_choice(n, "beginning", _BEGINNINGS)} {_count(n)} {_choice(n, "thing", _THINGS)}.'


def _large(n: int) -> str:
  number = _pick(n, 'large', 999) + 1
  exact = number * 1000 + _pick(n, 'is exact', 2) * _pick(n, 'rest', 1000)
  number = exact if _pick(n, 'size', 3) else number * 1_000_000
  return f'{_choice(n, "beginning", _BEGINNINGS)} {number:,} {_choice(n, "thing", _THINGS)}.'


def _parts(n: int) -> str:
  count = _count(n)
  return (
    f'{count % 100 + 1}% of the {_choice(n, "thing", _THINGS)}.',
    f'{_choice(n, "beginning", _BEGINNINGS)} {count % 100}.{_pick(n, "tenths", 10)} '
    f'{_choice(n, "thing", _THINGS)}.',
    f'It costs ${count}.',
    f'Between ${count} and ${2 * count}.',
    f'At {1 + count % 12}:{_pick(n, "minute", 60):02d} in the morning.',
    f'The {_ordinal(1 + count % 40)} of {_choice(n, "month", _MONTHS)}.',
  )[_pick(n, 'kind of part', 6)]


def _capitals(n: int) -> str:
  letters = [chr(ord('A') + _pick(n, f'letter {i}', 26)) for i in range(2 + _pick(n, 'letters', 3))]
  return f'{_choice(n, "beginning", _BEGINNINGS)} the {"".join(letters)}.'


def _ordinal(number: int) -> str:
  teens = 10 < number % 100 < 20
  return f'{number}{"th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")}'


_KINDS: tuple[Callable[[int], str], ...] = (_years, _counts, _years, _large, _parts, _capitals)
