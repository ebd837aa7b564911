"""Lines that packaged voices speak where a list of recordings would name a recording.

  voice:joe
  voice:joe?speed=1.1&room=0.2&noise=25
  voice:joe?speed=1.1&text=What%20is%20one%3F

The words are those that the list has beside the recording, unless `text` gives others, percent-
encoded as in a URL: readers put them there (`with_text`), so that an address is all that a worker
needs. The same address gives the same samples on every host.

`speed` is 1 for the voice's own pace, `pitch` a factor on its pitch and formants, `level` the RMS
loudness relative to full scale, `lead` and `tail` seconds of silence, `room` seconds of
reverberation, `noise` dB of white noise below the speech (negative: above it), `seed` that of the
voice's noise.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from urllib import parse

import numpy as np

from data_pipeline import decoding
from data_pipeline.corpus import speaking, voices
from data_pipeline.quarantine import Unusable
from echox_jax import rates
from echox_jax.errors import EchoXError

_SCHEME = 'voice:'
# option -> lowest and highest value, and whether it is a whole number
_OPTIONS = {
  'speed': (0.5, 2.0, float),
  'pitch': (0.5, 2.0, float),
  'level': (0.001, 1.0, float),
  'lead': (0.0, 5.0, float),
  'tail': (0.0, 5.0, float),
  'room': (0.0, 2.0, float),
  'noise': (-40.0, 100.0, float),
  'seed': (0, 2**31 - 1, int),
}
TEXT = 'text'


def is_line(recording: str) -> bool:
  """Whether a voice speaks this recording."""
  return recording.startswith(_SCHEME)


def address(voice: str, **options: float | str) -> str:
  """The address of a line in the voice of that name; `options`: see above."""
  return f'{_SCHEME}{voice}' + (f'?{parse.urlencode(options)}' if options else '')


def with_text(line: str, text: str) -> str:
  """The address with the words in it; one that has words keeps them.

  Raises:
    Unusable: the address names no voice that there is, or has wrong options.
  """
  voice, options = _parse(line)
  if TEXT not in options:
    options[TEXT] = text
  return f'{_SCHEME}{voice.name}?{parse.urlencode(options, quote_via=parse.quote)}'


def changed(line: str, options: Mapping[str, float | str]) -> str:
  """The address with other options."""
  voice, own = _parse(line)
  return address(voice.name, **own | options)


def speaker(recording: str) -> str:
  """The voice of a line; empty for any other recording."""
  return recording.removeprefix(_SCHEME).partition('?')[0] if is_line(recording) else ''


def installed(lines: Iterable[str]) -> set[str]:
  """Those of the addresses whose voice is installed on this host."""
  lines = set(lines)
  there = {name for name in set(map(speaker, lines)) if voices.available(voices.find(name))}
  return {line for line in lines if speaker(line) in there}


def lack(line: str) -> str:
  """What to say about a line whose voice is not installed: a clause with the remedy."""
  voice = voices.find(speaker(line))
  return f'is in a voice that is not installed (`{voices.installation(voice)}` installs it)'


def read(line: str, max_seconds: float) -> np.ndarray:
  """Speaks a line that has its words.

  Returns:
    int16[samples], mono, 16 kHz.

  Raises:
    Unusable: the voice cannot speak these words, or too long.
    EchoXError: this host lacks the voice, though the one that planned the job has it.
  """
  voice, options = _parse(line)
  if not voices.available(voice):
    raise EchoXError(
      f'the voice {voice.name} is not installed on this host, but on the one that planned the job: '
      f'install it on every host with `{voices.installation(voice)}`.'
    )
  text = options.pop(TEXT)
  voice = dataclasses.replace(voice, pitch=voice.pitch * options.pop('pitch', 1.0))
  try:
    samples = speaking.speak(speaking.Clip(line, text, voice, **options))
  except EchoXError as error:
    raise Unusable('not spoken', f'cannot be spoken ({error})') from error
  return decoding.of_samples(samples, rates.SAMPLE_RATE, max_seconds)


def _parse(line: str) -> tuple[voices.Voice, dict[str, float | str]]:
  name, _, query = line.removeprefix(_SCHEME).partition('?')
  voice = voices.find(name)
  if voice is None:
    raise Unusable(
      'wrong fields', f'names the voice {name!r}, which is none of {", ".join(voices.NAMED)}'
    )
  options: dict[str, float | str] = {}
  for option, value in parse.parse_qsl(query, keep_blank_values=True):
    options[option] = value if option == TEXT else _number(option, value)
  return voice, options


def _number(option: str, value: str) -> float:
  if option not in _OPTIONS:
    raise Unusable(
      'wrong fields', f'gives a voice the option {option!r}, which is none of {", ".join(_OPTIONS)}'
    )
  lowest, highest, kind = _OPTIONS[option]
  try:
    number = kind(value)
  except ValueError:
    number = None
  if number is None or not lowest <= number <= highest:  # NaN is refused, too
    raise Unusable(
      'wrong fields', f'has {option}={value} for a voice, not a number from {lowest} to {highest}'
    )
  return number
