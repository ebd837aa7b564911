"""Converts the byte-pair vocabulary in a GGUF file to a Hugging Face tokenizer.json, and reads its
chat template.

The file holds the vocabulary, its merges and the kinds of its tokens. It only names the
pre-tokenizer, which splits text before merging.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
from typing import Any

from echox_jax import errors, tokenizer
from echox_jax.conversion import chat_template

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens; all other kinds are text

_BYTE_LEVEL = {
  'type': 'ByteLevel',
  'add_prefix_space': False,
  'trim_offsets': True,
  'use_regex': True,
}


def _split(digits: str) -> list[dict[str, Any]]:
  """Words, numbers of `digits`, punctuation and white space."""
  pattern = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| "
    r'?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
  )
  return [
    {'type': 'Split', 'pattern': {'Regex': pattern}, 'behavior': 'Isolated', 'invert': False},
    _BYTE_LEVEL | {'use_regex': False},
  ]


# How text is split before merging, by the pre-tokenizer's name in the file (from llama.cpp's
# table). ByteLevel's own pattern is GPT-2's.
_PRE_TOKENIZERS = {
  'gpt-2': [_BYTE_LEVEL],
  'smollm': [{'type': 'Digits', 'individual_digits': True}, _BYTE_LEVEL],
  'llama-bpe': _split(r'\p{N}{1,3}'),
  'qwen2': _split(r'\p{N}'),  # Qwen2.5 and Qwen3 too
}
_NORMALIZERS = {'qwen2': {'type': 'NFC'}}
# a piece that is in the vocabulary becomes one token, whatever the merges say
_WHOLE_WORDS_FIRST = ('llama-bpe',)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The tokenizer data of a GGUF file.

  Attributes:
    tokens: by id, in byte-level BPE spelling.
    kinds: the kind of each token.
    merges: pairs as `one other`, in order of priority.
    pre: name of the pre-tokenizer.
    bos: id, or None.
    eos: id, or None.
    template: the chat template, or None.
  """

  tokens: Sequence[str]
  kinds: Sequence[int]
  merges: Sequence[str]
  pre: str
  bos: int | None
  eos: int | None
  template: str | None = None

  @classmethod
  def read(cls, field: Callable[..., Any], what: str) -> 'Vocabulary':
    """Reads it from the metadata of a file.

    Args:
      field: (name, default) -> value.
      what: names the tokenizer in errors.

    Raises:
      CheckpointError: the tokenizer is not byte-pair, or its pre-tokenizer is not supported.
    """
    model, pre = field('tokenizer.ggml.model'), field('tokenizer.ggml.pre', 'default')
    if model != 'gpt2':
      raise errors.CheckpointError(
        f'{what} is of the model {model!r}: only byte-pair tokenizers (gpt2) are supported.'
      )
    if pre not in _PRE_TOKENIZERS:
      raise errors.CheckpointError(
        f'{what} uses the pre-tokenizer {pre!r}, which is not supported: '
        f'use a model with {", ".join(_PRE_TOKENIZERS)}.'
      )
    tokens = field('tokenizer.ggml.tokens')
    return cls(
      tokens,
      field('tokenizer.ggml.token_type', [1] * len(tokens)),
      field('tokenizer.ggml.merges'),
      pre,
      field('tokenizer.ggml.bos_token_id', None),
      field('tokenizer.ggml.eos_token_id', None),
      field('tokenizer.chat_template', None),
    )


def to_json(vocabulary: Vocabulary) -> bytes:
  """The tokenizer as a tokenizer.json. It adds no special tokens to text by itself (see
  `echox_jax.tokenizer`).
  """
  added = [
    _added_token(i, token, kind == _CONTROL)
    for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds))
    if kind in (_CONTROL, _USER_DEFINED)
  ]
  values = {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': added,
    'normalizer': _NORMALIZERS.get(vocabulary.pre),
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': _PRE_TOKENIZERS[vocabulary.pre]},
    'post_processor': None,
    'decoder': _BYTE_LEVEL,
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': None,
      'continuing_subword_prefix': None,
      'end_of_word_suffix': None,
      'fuse_unk': False,
      'byte_fallback': False,
      'ignore_merges': vocabulary.pre in _WHOLE_WORDS_FIRST,
      'vocab': {token: i for i, token in enumerate(vocabulary.tokens)},
      'merges': [merge.split(' ') for merge in vocabulary.merges],
    },
  }
  return json.dumps(values, ensure_ascii=False).encode('utf-8')


def foreign_tokenizer(vocabulary: Vocabulary, what: str) -> chat_template.ForeignTokenizer:
  """What the tokenizer says about the prompts of its model; `what` names it in messages."""
  named = [None if i is None else vocabulary.tokens[i] for i in (vocabulary.bos, vocabulary.eos)]
  tokens = {token: i for i, token in enumerate(vocabulary.tokens)}

  def encoder():
    return tokenizer.BpeTokenizer(what, to_json(vocabulary)).encode

  return chat_template.ForeignTokenizer(what, tokens, encoder, vocabulary.template, *named)


def _added_token(token: int, content: str, special: bool) -> dict[str, Any]:
  return {
    'id': token,
    'content': content,
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': False,
    'special': special,
  }
