"""SentencePiece BPE over units, an alternative to the n-gram unit language. Each unit is written as
one private-use character.
"""

import base64
from collections.abc import Mapping, Sequence
import io
from typing import Any

import sentencepiece

from echox_jax.config import UnitsConfig

Word = tuple[int, ...]

_FIRST_CHARACTER = 0xF0000  # plane 15 is for private use and has 65,534 characters
_UNKNOWN = 1  # SentencePiece requires an unknown piece, number 0; it is not a unit word


class BpeModel:
  """A SentencePiece model with its pieces as words; the id of a single unit is the unit itself."""

  def __init__(self, words: tuple[Word, ...], proto: bytes):
    self.words = words
    self._proto = proto
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    ids = {word: i for i, word in enumerate(words)}
    self._word_of_piece = [ids.get(word, -1) for word in _pieces(self._processor)]

  @classmethod
  def fit(cls, sequences: Sequence[Sequence[int]], cfg: UnitsConfig) -> 'BpeModel':
    """Merges units up to `cfg.vocab_size` words of at most `cfg.max_word_units` units, or fewer if
    the data runs out.
    """
    proto = io.BytesIO()
    # adds every unit once by itself; otherwise unseen units would be unknown
    alphabet = [[u] for u in range(cfg.num_units)]
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=map(_text, [*sequences, *alphabet]),
      model_writer=proto,
      model_type='bpe',
      vocab_size=cfg.vocab_size + _UNKNOWN,
      hard_vocab_limit=False,
      character_coverage=1.0,
      max_sentencepiece_length=cfg.max_word_units,
      max_sentence_length=1 << 24,
      normalization_rule_name='identity',
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      split_by_unicode_script=False,
      split_by_whitespace=False,
      split_by_number=False,
      bos_id=-1,
      eos_id=-1,
      pad_id=-1,
      num_threads=1,
      minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.getvalue())
    longer = [word for word in _pieces(processor) if len(word) > 1]
    return cls((*((u,) for u in range(cfg.num_units)), *longer), proto.getvalue())

  def segment(self, units: Sequence[int]) -> list[int]:
    """Returns the word ids; applies the merges in the order in which they were learned."""
    return [self._word_of_piece[piece] for piece in self._processor.encode(_text(units))]

  def to_json(self) -> dict[str, Any]:
    return {'sentencepiece': base64.b64encode(self._proto).decode('ascii')}

  @classmethod
  def from_json(cls, words: tuple[Word, ...], values: Mapping[str, Any]) -> 'BpeModel':
    return cls(words, base64.b64decode(values['sentencepiece']))


def _text(units: Sequence[int]) -> str:
  return ''.join(chr(_FIRST_CHARACTER + u) for u in units)


def _pieces(processor: sentencepiece.SentencePieceProcessor) -> list[Word]:
  """Returns the units of every piece; the unknown piece has none."""
  pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
  return [
    tuple(ord(c) - _FIRST_CHARACTER for c in piece) if i else () for i, piece in enumerate(pieces)
  ]
