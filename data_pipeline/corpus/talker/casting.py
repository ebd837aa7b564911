"""Which voice says what, and how: the choice for a line depends on its id and the seed alone.

All voices but the two held out speak in training, each a bit higher or lower than it is, at several
paces, some in rooms and with noise. The held-out voices speak in validation and test, without any
of these but the pace.
"""

import zlib

import numpy as np

from data_pipeline.corpus import voice_lines
from data_pipeline.corpus.voices import ANSWER_VOICE, Cast

_SILENCE = 0.07  # seconds before and after an answer
_PITCH = 0.06  # relative change, at most
_IN_ROOM, _NOISY = 0.5, 0.5  # shares of the lines


def question(name: str, split: str, cast: Cast, seed: int) -> str:
  """The address (`voice_lines`) of the line with the id `name`, which somebody says to the model:
  a question, or a sentence to be written down.
  """
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  trains = split == 'train'
  voices = cast.train if trains else cast.test
  weights = np.asarray([voice.phrasings for voice in voices], float)  # slow engines say less
  voice = voices[rng.choice(len(voices), p=weights / weights.sum())]
  options = {
    'speed': rng.uniform(0.85, 1.2),
    'level': 10 ** rng.uniform(-1.6, -1.0),
    'lead': rng.uniform(0.02, 0.25),
    'tail': rng.uniform(0.05, 0.3),
  }
  if trains:
    options['pitch'] = rng.uniform(1 - _PITCH, 1 + _PITCH)
  if trains and rng.random() < _IN_ROOM:
    options['room'] = rng.uniform(0.05, 0.4)
  if trains and rng.random() < _NOISY:
    options['noise'] = rng.uniform(15, 40)
  rounded = {option: round(float(value), 3) for option, value in options.items()}
  return voice_lines.address(voice.name, **rounded)


def answer(seed: int) -> str:
  """The address of an answer."""
  return voice_lines.address(ANSWER_VOICE.name, lead=_SILENCE, tail=_SILENCE, seed=seed)
