"""How tokens are spelled: the same letter at the same place is the same column."""

import dataclasses

import numpy as np
import pytest

from echox_jax.units import spelling
from tests.helpers import tiny


def table(pieces, width=576, rows=None):
  llm = dataclasses.replace(
    tiny.CONFIG.llm, hidden_size=width, vocab_size=len(pieces) if rows is None else rows
  )
  return spelling.table(pieces, dataclasses.replace(tiny.CONFIG, llm=llm))


def test_letters_at_their_places():
  the, The, THE, then, hen, underscore = table(['Ġthe', 'The', '▁THE', 'Ġthen', 'hen', '_'])
  assert the.sum() == 4 and then.sum() == 5  # letters, and the space before them
  np.testing.assert_array_equal(the[3:], The[3:])
  np.testing.assert_array_equal(the[:3], [1, 0, 0])
  np.testing.assert_array_equal(The[:3], [0, 1, 0])
  np.testing.assert_array_equal(THE[:3], [1, 1, 1])
  assert (then - the).sum() == 1 and (then - the).min() == 0  # one letter more
  assert hen @ then == 0  # the same letters, but at other places
  assert underscore.sum() == 1


@pytest.mark.parametrize('width', [32, 64, 576, 4096])
def test_every_width_tells_short_words_apart(width):
  words = [a + b for a in 'abcdefg' for b in 'hijklmn']
  found = table(words, width, rows=60)
  assert found.shape == (60, width) and not found[len(words) :].any()
  assert len(np.unique(found[: len(words)], axis=0)) == len(words)


def test_long_tokens_and_rare_characters_have_a_place():
  letters = ''.join(map(chr, range(0x4E00, 0x4E00 + 200)))
  found = table([*letters])
  assert (found.sum(axis=1) == 1).all()
  assert len(np.unique(found, axis=0)) == spelling.FIRST + 1  # the rare share a column
  assert table(['a' * 40]).sum() == spelling.CHARACTERS
