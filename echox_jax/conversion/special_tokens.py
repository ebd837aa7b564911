"""The special ids of a model, from its vocabulary."""

from collections.abc import Mapping
import re

from echox_jax import errors, prompts
from echox_jax.prompts import SpecialIds

# Possible spellings of each special id in a vocabulary, the best first. In byte-level BPE `Ċ` is a
# line break and `Ġ` a space.
_WRITTEN = {
  'bos': ('<|begin_of_text|>', '<|endoftext|>', '<s>'),
  'start_header': ('<|start_header_id|>', '<|im_start|>'),
  'end_header': ('<|end_header_id|>', 'Ċ'),
  'eot': ('<|eot_id|>', '<|im_end|>', '<|endoftext|>'),
  'nl': ('Ċ',),
  **{role: (role, f'Ġ{role}') for role in prompts.ROLES},
  'period': ('.',),
  'audio': ('<audio_patch>', '<|reserved_special_token_0|>', '<empty_output>'),
}


def of_template(
  profile: prompts.Profile, tokens: Mapping[str, int], encode: prompts.Encode, what: str
) -> SpecialIds:
  """The ids of a profile whose template the model was trained on.

  BOS is the token that opens a text, even if no turn contains it. The audio token is a token that
  the model was never trained to say. If there is none, it is the first id after the vocabulary, and
  must be added to it before the model can take speech.

  Args:
    profile: profile of the model.
    tokens: the vocabulary, special tokens included.
    encode: text -> ids, without special ids.
    what: names the tokenizer in errors.

  Raises:
    CheckpointError: the vocabulary lacks a token of the template, or one for the period.
  """
  template = profile.template
  wanted = {**template.written, 'period': '.'}
  absent = [token for token in wanted.values() if token not in tokens]
  if absent:
    raise errors.CheckpointError(
      f'{what} lacks {", ".join(map(repr, absent))} of the profile {profile.name!r}: '
      'choose another with --profile, or give the tokenizer of the model.'
    )
  ids = {name: tokens[token] for name, token in wanted.items()}
  spelt = {role: tuple(encode(role)) for role in prompts.ROLES}
  bos = ids.get('bos', _first(tokens, 'bos'))
  bos = ids['eot'] if bos is None else bos
  return SpecialIds(
    **{'end_header': ids['eot']}
    | ids
    | spelt
    | {
      'nl': tuple(encode(template.line_break)),
      'thought': _spell(template.thought, tokens, encode),
      'bos': bos,
      'typo_bos': bos,
      'pad': ids['eot'],
      'audio': _audio(tokens),
    }
  )


def as_far_as_found(tokens: Mapping[str, int], bos: int | None, eos: int | None) -> SpecialIds:
  """The ids for the parts of the `paper` and `released` templates in any vocabulary.

  A Llama 3 has a token for each part. A model trained on another template, or on none, must be
  trained on this one. If the vocabulary has no token for a part, BOS replaces it. The audio token
  is as in `of_template`.

  Args:
    tokens: the vocabulary.
    bos: the tokenizer's own BOS id, or None.
    eos: the tokenizer's own EOS id, or None.
  """
  found = {name: _first(tokens, name) for name in _WRITTEN}
  bos = next((i for i in (found['bos'], bos, eos) if i is not None), 0)
  eot = next((i for i in (found['eot'], eos) if i is not None), bos)
  given = {name: bos if i is None else i for name, i in found.items()}
  return SpecialIds(
    **given | {'bos': bos, 'eot': eot, 'pad': eot, 'typo_bos': bos, 'audio': _audio(tokens)}
  )


def _spell(text: str, tokens: Mapping[str, int], encode: prompts.Encode) -> tuple[int, ...]:
  """The ids of a text in which marks such as `<think>` may be tokens of their own."""
  pieces = filter(None, re.split('(<[^>]*>)', text))
  spelt = [[tokens[piece]] if piece in tokens else encode(piece) for piece in pieces]
  return tuple(i for ids in spelt for i in ids)


def _first(tokens: Mapping[str, int], name: str) -> int | None:
  return next((tokens[token] for token in _WRITTEN[name] if token in tokens), None)


def _audio(tokens: Mapping[str, int]) -> int:
  found = _first(tokens, 'audio')
  return max(tokens.values(), default=-1) + 1 if found is None else found
