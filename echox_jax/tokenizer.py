"""Text tokenizers: SentencePiece with the special ids of echox_jax/prompts.py, and byte-pair files
of other models.

Special pieces other than "." are control pieces: text that a user types never encodes to one.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import io
import json
import os

import sentencepiece

from echox_jax import errors, storage
from echox_jax.prompts import NANO_IDS, SpecialIds

SENTENCEPIECE_FILE, BPE_FILE = 'tokenizer.model', 'tokenizer.json'  # in a model folder
_BYTE_PIECES = 256  # one per byte, so any text can be encoded


class TextTokenizer:
  """Text <-> ids.

  Encoding collapses runs of white space to one space and normalises characters to NFKC. Apart from
  that, `decode(encode(text)) == text`.
  """

  def __init__(self, model_path: str | os.PathLike[str]):
    """Reads a SentencePiece model.

    Raises:
      DataError: the file is missing or is not a SentencePiece model.
    """
    path = storage.path(model_path)
    if not storage.is_file(path):
      raise errors.DataError(
        f'there is no tokenizer {path}: run `python -m launch.precompute`, '
        'which trains one, or give its path.'
      )
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
      self._size = self._model.get_piece_size()
    except RuntimeError as error:
      raise errors.DataError(
        f'{path} is not a SentencePiece model or is damaged: copy it again or '
        'delete it and run precompute.'
      ) from error
    if not self._size:
      raise errors.DataError(
        f'the tokenizer {path} is empty: copy it again or delete it and run precompute.'
      )

  @property
  def vocab_size(self) -> int:
    """Number of ids V; ids are 0..V-1."""
    return self._size

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text` without BOS; the only special id among them can be the period."""
    return self._model.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`; special ids, and ids beyond the vocabulary, are skipped."""
    return self._model.decode([int(i) for i in ids if 0 <= i < self._size])

  def piece(self, token: int) -> str:
    """Returns the vocabulary piece of one id (`▁` = start of a word)."""
    return self._model.id_to_piece(int(token))


class BpeTokenizer:
  """Text <-> ids with a Hugging Face `tokenizer.json`, the byte-pair tokenizer of Llama 3 and
  similar models.

  `decode(encode(text)) == text` unless the file specifies otherwise. A character may span several
  ids; until its last byte arrives, `decode` ends in U+FFFD.
  """

  def __init__(self, path: str | os.PathLike[str], content: bytes | None = None):
    """Reads the file at `path`, or `content` if given; error messages then still name `path`.

    Raises:
      DataError: the file is missing or is not a tokenizer.
      MissingExtraError: the package `tokenizers` is not installed.
    """
    try:
      import tokenizers
    except ImportError as error:
      raise errors.MissingExtraError('tokenizers', 'bpe', 'A byte-pair tokenizer') from error
    if content is None and not storage.is_file(path):
      raise errors.DataError(f'there is no tokenizer {path}: give the path of a tokenizer.json.')
    try:
      values = json.loads(storage.path(path).read_bytes() if content is None else content)
      # marks e.g. unit words as special; a released file adds them as plain text
      for token in values.get('added_tokens') or ():
        token['special'] |= token['content'].startswith('<|') and token['content'].endswith('|>')
      self._model = tokenizers.Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the package raises nothing more specific
      raise errors.DataError(
        f'{path} is not a tokenizer.json or is damaged ({error}): copy it again.'
      ) from error
    self._model.encode_special_tokens = True  # special tokens that a user types stay text
    self._model.no_padding()
    self._model.no_truncation()
    self._size = max(self._model.get_vocab().values(), default=-1) + 1
    if not self._size:
      raise errors.DataError(f'the tokenizer {path} is empty: copy it again.')

  @property
  def vocab_size(self) -> int:
    """Number of ids V including special ones; ids are 0..V-1."""
    return self._size

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text` without BOS; none of them is special."""
    return self._model.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`; special ids, and ids beyond the vocabulary, are skipped."""
    return self._model.decode(
      [int(i) for i in ids if 0 <= i < self._size], skip_special_tokens=True
    )

  def piece(self, token: int) -> str:
    """Returns the vocabulary piece of one id (`Ġ` = a space); empty if the vocabulary has no piece
    for this id.
    """
    return self._model.id_to_token(int(token)) or ''


Tokenizer = TextTokenizer | BpeTokenizer
_KINDS = {BPE_FILE: BpeTokenizer, SENTENCEPIECE_FILE: TextTokenizer}


def pieces(tokenizer: Tokenizer) -> list[str]:
  """Returns the whole vocabulary."""
  return [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]


def file_name(model: str) -> str:
  """Returns the name of the tokenizer file `model` in a model folder. A byte-pair file ends in
  `.json`; an empty `model` means a tokenizer trained here.
  """
  return BPE_FILE if model.endswith('.json') else SENTENCEPIECE_FILE


def find_tokenizer(folder: str | os.PathLike[str]) -> storage.Path | None:
  """Returns the tokenizer file in a folder, or None; `tokenizer.json` takes precedence over
  `tokenizer.model`.
  """
  return next(filter(storage.is_file, (storage.path(folder) / name for name in _KINDS)), None)


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer | None:
  """Loads the tokenizer that `find_tokenizer` finds.

  Raises:
    DataError: the file is damaged.
    MissingExtraError: it needs a package that is not installed.
  """
  file = find_tokenizer(folder)
  return None if file is None else _KINDS[file.name](file)


def precomputed_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
  """Loads the tokenizer that precompute wrote to `folder`.

  Raises:
    DataError: there is no tokenizer, or it is damaged.
    MissingExtraError: as `load_tokenizer`.
  """
  found = load_tokenizer(folder)
  if found is None:
    raise errors.DataError(
      f'there is no tokenizer in {folder}: run `python -m launch.precompute`, which puts it there.'
    )
  return found


def train_tokenizer(
  texts: Iterable[str], path: str | os.PathLike[str], vocab_size: int
) -> TextTokenizer:
  """Trains a byte-pair tokenizer of exactly `vocab_size` ids on `texts` and writes it to `path`.

  The same texts in the same order give the same file. The special pieces have the ids of
  `prompts.NANO_IDS`. Each digit is its own piece.

  Raises:
    DataError: there is no text, or the vocabulary size is too large for the texts or too small for
      their characters.
  """
  texts = [text for text in texts if text.strip()]
  if not texts:
    raise errors.DataError(
      'there is no text to train the tokenizer on: give it a data set with text.'
    )
  special = _pieces(NANO_IDS)
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=model,
      model_type='bpe',
      vocab_size=vocab_size,
      unk_id=0,
      unk_piece='<unk>',
      bos_id=1,
      bos_piece=special[0],
      eos_id=2,
      eos_piece=special[1],
      pad_id=-1,
      control_symbols=special[2:-1],
      user_defined_symbols=special[-1:],
      byte_fallback=True,
      character_coverage=1.0,
      split_digits=True,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise errors.DataError(
      f'a tokenizer of {vocab_size} ids cannot be trained on these {len(texts)} texts: choose a '
      'vocabulary between '
      f'{_smallest(texts)} ids (special, byte and character pieces) and what the texts can '
      'fill.'
    ) from error
  storage.atomic_write_bytes(path, model.getvalue())
  return TextTokenizer(path)


def _pieces(ids: SpecialIds) -> list[str]:
  """Returns the special pieces in id order. The ids follow <unk> = 0 without a gap; pad shares
  EOT's piece, and there is no thought.
  """
  named = {
    getattr(ids, field.name): field.name
    for field in dataclasses.fields(ids)
    if field.name not in ('pad', 'thought')
  }
  return ['.' if named[i] == 'period' else f'<|{named[i]}|>' for i in range(1, len(named) + 1)]


def _smallest(texts: Sequence[str]) -> int:
  """Returns the smallest possible vocabulary size for `texts`."""
  characters = {c for text in texts for c in text if not c.isspace()} - {'.'}
  return 1 + len(_pieces(NANO_IDS)) + _BYTE_PIECES + len(characters) + 1  # the word-start mark
