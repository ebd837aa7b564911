"""What nobody can understand: words of no language, and voices that drown in noise. The model
learns to write down `[inaudible]` and to say so, in place of answering what it has not heard.

The words of no language are syllables at random, so that the speech has sounds and rhythm of
speech, and no word that the model could know.
"""

from collections.abc import Iterator

import numpy as np

from data_pipeline.corpus import voice_lines
from data_pipeline.corpus.talker import casting, texts
from data_pipeline.corpus.voices import Cast

NAME = 'inaudible'  # category
SHARE = 0.03  # of the questions
WRITTEN = '[inaudible]'
ANSWERS = (
  'I am sorry, I did not understand that.',
  'I did not understand that. Could you say it again?',
  'Sorry, I did not understand you. Please try again.',
)
REFERENCE = 'did not understand'
_DROWNED = 0.4  # share of the lines
_ONSETS = 'b d f g h j k l m n p r s t v w z ch sh kl tr gr st'.split()
_VOWELS = 'a e i o u ai ou'.split()
_CODAS = ('', '', '', 'n', 'r', 's', 'l')


def rows(questions: int, cast: Cast, seed: int) -> Iterator[dict]:
  """The rows of the list of exchanges for a corpus of so many questions: first those of a smaller
  corpus.
  """
  for number in range(round(SHARE * questions)):
    name = f'{NAME}-{number:05d}'
    split = texts.split_of(name, seed)
    rng = np.random.default_rng([seed, number])
    drowned = rng.random() < _DROWNED
    yield {
      'id': name,
      'question': WRITTEN,
      'question_audio': _line(name, split, cast, seed, drowned, rng),
      'answer': ANSWERS[number % len(ANSWERS)],
      'references': [REFERENCE],
      'category': NAME,
      'split': split,
    }


def words(rng: np.random.Generator) -> str:
  """A sentence of three to nine words of no language."""
  return (
    ' '.join(
      ''.join(_syllable(rng) for _ in range(rng.integers(1, 4))) for _ in range(rng.integers(3, 10))
    ).capitalize()
    + '.'
  )


def _line(
  name: str, split: str, cast: Cast, seed: int, drowned: bool, rng: np.random.Generator
) -> str:
  line = casting.question(name, split, cast, seed)
  options = {voice_lines.TEXT: words(rng)}
  if drowned:  # from barely a voice to none; quiet, so that the noise fits into the range
    options |= {'noise': round(rng.uniform(-25, -10), 1), 'level': 0.01}
  return voice_lines.changed(line, options)


def _syllable(rng: np.random.Generator) -> str:
  return ''.join(str(rng.choice(sounds)) for sounds in (_ONSETS, _VOWELS, _CODAS))
