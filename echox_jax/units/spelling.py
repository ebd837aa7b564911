"""How the tokens of a vocabulary are written, as a table of text embeddings for the unit decoders.

The embeddings of a language model say what a token means, and hardly how it is written: a linear
map reads the first letter of nine in ten tokens of SmolLM2-135M off them, the third of every third.
So a unit decoder that sees those must learn by heart how each token sounds, from recordings. One
that sees letters learns how letters sound, and so can say words that no recording has.

A row has a one in some columns and zeros elsewhere. For a model 576 wide:

  0, 1, 2     the token begins with a space, with a capital letter; all its letters are capitals
  3 - 130     the first character: one of 127, or another
  131 - 159   the second character: one of 28, or another
  160 ...     the third, and so on up to the sixteenth

Capitals count as small letters. A column stands for the character that most tokens of the
vocabulary have there, the next for the next, so that any alphabet has its own.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from echox_jax.config import EchoXConfig

NAME = 'spelling'  # as `unit_decoder.text_table`
FIRST = 127  # first characters that are told apart at most: many tokens have no other
CHARACTERS = 16  # of a token at most; what follows is left out
_FLAGS = 3
_SPACES = ('Ġ', '▁')  # of byte-pair and of SentencePiece vocabularies
_LEAST = 8  # later characters that are told apart at least


def table(pieces: Sequence[str], cfg: EchoXConfig) -> np.ndarray:
  """Returns the table: float32[V,D]. Ids without a piece have rows of zeros.

  Args:
    pieces: the vocabulary of the language model's tokenizer.
    cfg: the model, at least 32 wide; a narrow one has room for fewer characters.
  """
  rows, width = cfg.llm.vocab_size, cfg.llm.hidden_size
  first = min(FIRST, width // 4 - 1)
  room = width - _FLAGS - first - 1
  further = min(CHARACTERS - 1, room // (_LEAST + 1))
  later = room // further - 1
  tokens = [_text(piece) for piece in pieces[:rows]]
  written = [token.strip().lower()[:CHARACTERS] for token in tokens]
  sizes = [first, *[later] * further]
  alphabets = (
    _most_frequent((word[:1] for word in written), first),
    _most_frequent((word[1:] for word in written), later),
  )
  found = np.zeros((rows, width), np.float32)
  for row, token, word in zip(found, tokens, written):
    bare = token.strip()
    row[0] = token[:1].isspace()
    row[1] = bare[:1].isupper()
    row[2] = len(bare) > 1 and bare.isupper()
    start = _FLAGS
    for place, (character, size) in enumerate(zip(word, sizes)):
      row[start + alphabets[min(place, 1)].get(character, size)] = 1
      start += size + 1
  return found


def _text(piece: str) -> str:
  """A vocabulary piece with a space where it has a sign for it. Bytes of a byte-pair vocabulary
  stay the characters that stand for them.
  """
  for sign in _SPACES:
    piece = piece.replace(sign, ' ')
  return piece


def _most_frequent(texts: Iterable[str], number: int) -> dict[str, int]:
  """The place of each of the most frequent characters among them."""
  counts = Counter(character for text in texts for character in text)
  in_order = sorted(counts, key=lambda character: (-counts[character], character))
  return {character: place for place, character in enumerate(in_order[:number])}
