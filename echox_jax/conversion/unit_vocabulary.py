"""The unit vocabulary of a released checkpoint (facts 12): unit words in id order.

They are the first column of the file that config.json calls `unit_vocab`, or added tokens
`<|unit_X|>` of the tokenizer. If there is neither, the words are the plain units.
"""

from collections.abc import Mapping
from pathlib import Path
import re

from echox_jax import errors
from echox_jax.units import unit_language
from echox_jax.units.unit_language import UnitLanguage

_NUM_UNITS = 1000
_TOKEN = re.compile(r'^<\|unit_(.+)\|>$')


def find(
  file: Path | None, tokens: Mapping[str, int], first_id: int, size: int
) -> UnitLanguage | None:
  """The language of a unit decoder of `size` words; None if nothing tells.

  Args:
    file: lines `word count`; None = there is no file.
    tokens: tokens of the tokenizer.
    first_id: id of the first unit word.
    size: number of words in the checkpoint.

  Raises:
    CheckpointError: the checkpoint has another number of words, or a word is not a unit word.
  """
  found = {i: match[1] for token, i in tokens.items() if (match := _TOKEN.match(token))}
  if file is not None:
    where, (words, counts) = str(file), _read(file)
  elif found:
    where, words, counts = 'the tokenizer', [found.get(first_id + i) for i in range(size)], None
    if None in words or len(found) != size:
      raise errors.CheckpointError(
        f'the tokenizer has {len(found)} unit words, but the checkpoint '
        f'has {size}, from id {first_id} on: '
        'give the tokenizer of the checkpoint.'
      )
  elif size == _NUM_UNITS:
    return UnitLanguage('plain', size, unit_language.PlainModel(tuple((u,) for u in range(size))))
  else:
    return None
  if len(words) != size:
    raise errors.CheckpointError(
      f'{where} has {len(words)} unit words, but the checkpoint has '
      f'{size}: give the vocabulary of the checkpoint.'
    )
  try:
    return unit_language.from_words(words, counts, _NUM_UNITS)
  except errors.DataError as error:
    raise errors.CheckpointError(f'{where}: {error}') from error


def _read(file: Path) -> tuple[list[str], list[float]]:
  """Words and counts (1 if a line has none) of a vocabulary file."""
  try:
    lines = [line.split() for line in file.read_text('utf-8').splitlines() if line.strip()]
    return [line[0] for line in lines], [float(line[1]) if len(line) > 1 else 1.0 for line in lines]
  except (ValueError, OSError) as error:
    raise errors.CheckpointError(
      f'{file} is not a unit vocabulary (lines of a word and a count): '
      'give the file that config.json calls unit_vocab.'
    ) from error
