"""Normalises texts before they are compared: numbers, arithmetic signs, case, punctuation,
spelling.

Judges write "3-2" for the text "three minus two". Our own rules handle numbers and signs; the rest
is Whisper's English normaliser (extra `eval`).
"""

import functools
import re

from echox_jax.errors import MissingExtraError

ONES = tuple(
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen '
  'sixteen seventeen eighteen nineteen'.split()
)
TENS = tuple('twenty thirty forty fifty sixty seventy eighty ninety'.split())
_SMALL = {word: number for number, word in enumerate(ONES)} | {
  word: 10 * number for number, word in enumerate(TENS, 2)
}
_LARGE = {'hundred': 100, 'thousand': 1000, 'million': 1_000_000}
_SIGNS = (  # between or before digits only, so that "well-known" keeps its hyphen
  (re.compile(r'(?<=\d)\s*[-−–]\s*(?=\d)'), ' minus '),
  (re.compile(r'(?<!\w)[-−–](?=\d)'), 'minus '),
  (re.compile(r'(?<=\d)\s*\+\s*(?=\d)|(?<!\w)\+(?=\d)'), ' plus '),
  (re.compile(r'(?<=\d)\s*[×*]\s*(?=\d)'), ' times '),
  (re.compile(r'(?<=\d)\s*=\s*(?=[-−\d])'), ' equals '),
)
_TOKEN = re.compile(r'[A-Za-z]+|[^A-Za-z]+')


@functools.lru_cache(maxsize=50_000)  # texts come again: as answer, reference and transcript
def normalise(text: str) -> str:
  """Lower-case words separated by single spaces, numbers as digits, signs as words.

  Raises:
    MissingExtraError: whisper-normalizer is not installed.
  """
  text = _whisper_normaliser()(numbers(text))
  text = re.sub(r'(?<!\S)-(?=\d)', 'minus ', text)  # the normaliser turns "minus 2" into "-2"
  text = re.sub(r'(?<!\S)\+(?=\d)', 'plus ', text)
  text = re.sub(r'\bone\b', '1', text)  # and "1" back into "one"
  return ' '.join(text.split())


def numbers(text: str) -> str:
  """Number words become digits ("twenty-one" -> "21", "a hundred and five" -> "105") and signs
  between numbers become words.
  """
  text = re.sub(r'(?<=\d),(?=\d{3}\b)', '', text)
  tokens, out, i = _TOKEN.findall(text), [], 0
  while i < len(tokens):
    value, end = _read_number(tokens, i)
    if end > i:
      out.append(str(value))
      i = end
    else:
      out.append(tokens[i])
      i += 1
  text = ''.join(out)
  for sign, word in _SIGNS:
    text = sign.sub(word, text)
  return text


def in_words(number: int) -> str:
  """A whole number below a thousand million as English words, without hyphens and "and"."""
  for scale in ('million', 'thousand', 'hundred'):
    many, rest = divmod(number, _LARGE[scale])
    if many:
      return f'{in_words(many)} {scale}' + (f' {in_words(rest)}' if rest else '')
  if number < 20:
    return ONES[number]
  tens, ones = divmod(number, 10)
  return TENS[tens - 2] + (f' {ONES[ones]}' if ones else '')


def words(text: str) -> str:
  """Lower-case text with its whole numbers as words, for judges that know no digits."""
  return re.sub(r'\d{1,9}', lambda found: f' {in_words(int(found[0]))} ', text).lower()


def _read_number(tokens: list[str], start: int) -> tuple[int, int]:
  """(value, index after it) of the longest number phrase that starts at `start`; (0, start) if
  there is none.

  `tokens` alternate between words and the text between them. Spaces join a phrase, or a hyphen as
  in "twenty-one".
  """

  def word(i):
    return tokens[i].lower() if i < len(tokens) else ''

  def gap(i):
    return i < len(tokens) and (tokens[i].isspace() or tokens[i] == '-')

  total, part, smallest, end, i = 0, 0, None, start, start
  if word(i) == 'a' and gap(i + 1) and word(i + 2) in _LARGE:
    part, end, i = 1, start, i + 2
  while True:
    if word(i) in _SMALL and (smallest is None or _fits(_SMALL[word(i)], smallest)):
      smallest = _SMALL[word(i)]
      part += smallest
    elif word(i) in _LARGE and part:
      scale = _LARGE[word(i)]
      if scale == 100:
        part *= scale
      else:
        total, part = total + part * scale, 0
      smallest = scale
    else:
      return (total + part, end) if end > start else (0, start)
    end = i + 1
    if not gap(i + 1):
      return total + part, end
    joined = word(i + 2) == 'and' and word(i) in _LARGE and gap(i + 3) and word(i + 4) in _SMALL
    i += 4 if joined else 2


def _fits(number: int, before: int) -> bool:
  """Whether `number` may follow `before` in one number: "twenty one", "hundred five", but not "one
  two" or "twenty eleven".
  """
  return (number < 10 and number and before in range(20, 100, 10)) or (before >= 100 and number > 0)


@functools.cache
def _whisper_normaliser():
  try:
    from whisper_normalizer.english import EnglishTextNormalizer
  except ImportError as error:
    raise MissingExtraError('whisper-normalizer', 'eval', 'Comparing transcripts') from error
  return EnglishTextNormalizer()
