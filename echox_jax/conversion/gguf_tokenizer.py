"""The byte-pair vocabulary in a GGUF file -> a Hugging Face tokenizer.json, and the special ids that it can give.

The vocabulary, its merges and the kinds of its tokens are in the file; how text is cut before merging is only named there.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
from typing import Any

from echox_jax import errors
from echox_jax.prompts import SpecialIds

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens; the others are text

_BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
_LLAMA_3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# How text is cut into what is merged, by the name in the file (llama.cpp's table of pre-tokenizers). ByteLevel's own pattern is GPT-2's.
_PRE_TOKENIZERS = {
    'gpt-2': [_BYTE_LEVEL],
    'smollm': [{'type': 'Digits', 'individual_digits': True}, _BYTE_LEVEL],
    'llama-bpe': [{'type': 'Split', 'pattern': {'Regex': _LLAMA_3}, 'behavior': 'Isolated', 'invert': False}, _BYTE_LEVEL | {'use_regex': False}],
}
_WHOLE_WORDS_FIRST = ('llama-bpe',)  # a piece that is in the vocabulary is taken whole, merges or not

# How each special id may be written in a vocabulary, the best first.
_WRITTEN = {
    'bos': ('<|begin_of_text|>', '<|endoftext|>'), 'start_header': ('<|start_header_id|>', '<|im_start|>'),
    'end_header': ('<|end_header_id|>', 'Ċ'), 'eot': ('<|eot_id|>', '<|im_end|>', '<|endoftext|>'), 'nl': ('Ċ',),
    'system': ('system', 'Ġsystem'), 'user': ('user', 'Ġuser'), 'assistant': ('assistant', 'Ġassistant'), 'speaker': ('speaker', 'Ġspeaker'), 'period': ('.',),
    'audio': ('<audio_patch>', '<|reserved_special_token_0|>', '<empty_output>'),
}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What a GGUF file says of its tokenizer.

  Attributes:
    tokens: by id, as byte-level BPE writes them.
    kinds: of each token.
    merges: pairs as `one other`, the most important first.
    pre: name of the pre-tokenizer.
    bos: id, or None.
    eos: id, or None.
  """
  tokens: Sequence[str]
  kinds: Sequence[int]
  merges: Sequence[str]
  pre: str
  bos: int | None
  eos: int | None

  @classmethod
  def read(cls, field: Callable[..., Any], what: str) -> 'Vocabulary':
    """From the metadata of a file.

    Args:
      field: name, default -> value.
      what: names the tokenizer in errors.

    Raises:
      CheckpointError: no byte-pair tokenizer, or one whose pre-tokenizer is not known here.
    """
    model, pre = field('tokenizer.ggml.model'), field('tokenizer.ggml.pre', 'default')
    if model != 'gpt2':
      raise errors.CheckpointError(f'{what} is of the model {model!r}: only byte-pair tokenizers (gpt2) are supported.')
    if pre not in _PRE_TOKENIZERS:
      raise errors.CheckpointError(f'{what} cuts text in the way {pre!r}, which is not known here: use a model with {", ".join(_PRE_TOKENIZERS)}.')
    tokens = field('tokenizer.ggml.tokens')
    return cls(tokens, field('tokenizer.ggml.token_type', [1] * len(tokens)), field('tokenizer.ggml.merges'), pre,
               field('tokenizer.ggml.bos_token_id', None), field('tokenizer.ggml.eos_token_id', None))


def to_json(vocabulary: Vocabulary) -> bytes:
  """The tokenizer as a tokenizer.json; no token is added to text by itself (see `echox_jax.tokenizer`)."""
  added = [_added_token(i, token, kind == _CONTROL) for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds))
           if kind in (_CONTROL, _USER_DEFINED)]
  values = {
      'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': added, 'normalizer': None,
      'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': _PRE_TOKENIZERS[vocabulary.pre]},
      'post_processor': None, 'decoder': _BYTE_LEVEL,
      'model': {
          'type': 'BPE', 'dropout': None, 'unk_token': None, 'continuing_subword_prefix': None, 'end_of_word_suffix': None,
          'fuse_unk': False, 'byte_fallback': False, 'ignore_merges': vocabulary.pre in _WHOLE_WORDS_FIRST,
          'vocab': {token: i for i, token in enumerate(vocabulary.tokens)},
          'merges': [merge.split(' ') for merge in vocabulary.merges],
      },
  }
  return json.dumps(values, ensure_ascii=False).encode('utf-8')


def special_ids(vocabulary: Vocabulary) -> SpecialIds:
  """The ids that stand for the parts of our template in this vocabulary.

  A Llama 3 has a token for each part. A model that was taught ChatML (`<|im_start|>user`, new line, text, `<|im_end|>`, new line)
  has the opening and the end of a turn, a new line for the end of the header, and the role words; but our template also says BOS
  inside every header and before every text, and no new line after a turn, so that such a model must be trained on it. The audio
  token is one that the model was never trained on to say; where there is none, it is the first id beyond the vocabulary, which
  must be added before speech is. A part that the vocabulary has no token for is BOS.
  """
  ids: Mapping[str, int] = {token: i for i, token in enumerate(vocabulary.tokens)}
  found = {name: next((ids[token] for token in written if token in ids), None) for name, written in _WRITTEN.items()}
  bos = next((i for i in (found['bos'], vocabulary.bos, vocabulary.eos) if i is not None), 0)
  eot = next((i for i in (found['eot'], vocabulary.eos) if i is not None), bos)
  audio = len(vocabulary.tokens) if found['audio'] is None else found['audio']
  given = {name: bos if i is None else i for name, i in found.items()}
  return SpecialIds(**given | {'bos': bos, 'eot': eot, 'pad': eot, 'typo_bos': bos, 'audio': audio})


def _added_token(token: int, content: str, special: bool) -> dict[str, Any]:
  return {'id': token, 'content': content, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False, 'special': special}
