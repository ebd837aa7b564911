"""The text tokenizer: SentencePiece, with the special ids of echox_jax/prompts.py.

Special pieces other than "." are control pieces: no text a user types can turn into one.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import io
import os
from pathlib import Path

import sentencepiece

from echox_jax import errors, files
from echox_jax.prompts import NANO_IDS, SpecialIds

_BYTE_PIECES = 256  # one for each byte, so that any text encodes


class TextTokenizer:
  """Text <-> ids.

  Runs of white space count as one space, and compatibility characters as their plain form (NFKC): otherwise
  `decode(encode(text)) == text`.
  """

  def __init__(self, model_path: str | os.PathLike[str]):
    """Reads a SentencePiece model.

    Raises:
      DataError: the file is missing or is no SentencePiece model.
    """
    path = Path(model_path)
    if not path.is_file():
      raise errors.DataError(f'there is no tokenizer {path}: run `python -m launch.precompute`, which trains one, or give its path.')
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
      self._size = self._model.get_piece_size()
    except RuntimeError as error:
      raise errors.DataError(f'{path} is no SentencePiece model or is damaged: copy it again or delete it and run precompute.') from error
    if not self._size:
      raise errors.DataError(f'the tokenizer {path} is empty: copy it again or delete it and run precompute.')

  @property
  def vocab_size(self) -> int:
    """Number of ids V; ids are 0..V-1."""
    return self._size

  def encode(self, text: str) -> list[int]:
    """The ids of `text`, without BOS; no special id but the period ever comes out."""
    return self._model.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`; special ids, and ids beyond the vocabulary, are skipped."""
    return self._model.decode([int(i) for i in ids if 0 <= i < self._size])

  def piece(self, token: int) -> str:
    """The piece of one id, as it stands in the vocabulary (`▁` = start of a word)."""
    return self._model.id_to_piece(int(token))


def train_tokenizer(texts: Iterable[str], path: str | os.PathLike[str], vocab_size: int) -> TextTokenizer:
  """Trains a byte-pair tokenizer of exactly `vocab_size` ids on `texts` and writes it to `path`.

  The same texts in the same order give the same file. The special pieces have the ids of `prompts.NANO_IDS`; digits are
  pieces of their own.

  Raises:
    DataError: no text, or a vocabulary size that the texts cannot fill or that is too small for their characters.
  """
  texts = [text for text in texts if text.strip()]
  if not texts:
    raise errors.DataError('there is no text to train the tokenizer on: give it a data set with text.')
  special = _pieces(NANO_IDS)
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type='bpe', vocab_size=vocab_size,
        unk_id=0, unk_piece='<unk>', bos_id=1, bos_piece=special[0], eos_id=2, eos_piece=special[1], pad_id=-1,
        control_symbols=special[2:-1], user_defined_symbols=special[-1:], byte_fallback=True, character_coverage=1.0,
        split_digits=True, num_threads=1, minloglevel=2)
  except RuntimeError as error:
    raise errors.DataError(
        f'a tokenizer of {vocab_size} ids cannot be trained on these {len(texts)} texts: choose a vocabulary between '
        f'{_smallest(texts)} ids (special, byte and character pieces) and what the texts can fill.') from error
  files.atomic_write_bytes(path, model.getvalue())
  return TextTokenizer(path)


def _pieces(ids: SpecialIds) -> list[str]:
  """Special pieces in the order of their ids, which follow <unk> = 0 without a gap; pad shares EOT's."""
  named = {getattr(ids, field.name): field.name for field in dataclasses.fields(ids) if field.name != 'pad'}
  return ['.' if named[i] == 'period' else f'<|{named[i]}|>' for i in range(1, len(named) + 1)]


def _smallest(texts: Sequence[str]) -> int:
  """Ids that any vocabulary for `texts` needs."""
  characters = {c for text in texts for c in text if not c.isspace()} - {'.'}
  return 1 + len(_pieces(NANO_IDS)) + _BYTE_PIECES + len(characters) + 1  # the word-start mark
