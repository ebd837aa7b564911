"""Folders in the layout of transformers: config, tokenizer files, vocabulary."""

from collections.abc import Iterable
import json
from pathlib import Path
from typing import Any

from echox_jax import errors, prompts, tokenizer
from echox_jax.conversion import chat_template

AUDIO_TOKEN = '<audio_patch>'
# Our names of the special ids -> their spelling in a Llama 3 vocabulary (`Ċ` is a new line in
# byte-level BPE).
SPECIAL_TOKENS = {
  'audio_patch': AUDIO_TOKEN,
  'bos': '<|begin_of_text|>',
  'start_header': '<|start_header_id|>',
  'end_header': '<|end_header_id|>',
  'eot': '<|eot_id|>',
  'nl': 'Ċ',
  'system': 'system',
  'user': 'user',
  'assistant': 'assistant',
  'speaker': 'speaker',
  'period': '.',
}
TEMPLATE = 'chat_template.jinja'
_TOKENIZER_FILES = (
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  TEMPLATE,
)


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Raises:
    CheckpointError: the file is missing or damaged.
  """
  try:
    values = json.loads(path.read_text('utf-8'))
  except FileNotFoundError as error:
    raise errors.CheckpointError(
      f'{path} does not exist: give a folder that has it, or the file with --config.'
    ) from error
  except (ValueError, OSError) as error:
    raise errors.CheckpointError(
      f'{path} is not valid JSON ({error}): copy or download it again.'
    ) from error
  if not isinstance(values, dict):
    raise errors.CheckpointError(f'{path} holds no JSON object: copy or download it again.')
  return values


def read_config(folder: Path, config: Path | None = None) -> dict[str, Any]:
  """The config.json of `folder` (or of the folder of a file), or `config` instead."""
  return read_json(config or (folder if folder.is_dir() else folder.parent) / 'config.json')


def tokenizer_files(folders: Iterable[Path]) -> dict[str, Path]:
  """Name -> file of the tokenizer in the first of `folders` that has one. If there are two kinds,
  it is the kind that transformers prefers.
  """
  for folder in folders:
    for name in ('tokenizer.json', 'tokenizer.model'):
      if (folder / name).is_file():
        beside = {other: folder / other for other in _TOKENIZER_FILES if (folder / other).is_file()}
        return {name: folder / name} | beside
  return {}


def read_tokens(files: dict[str, Path]) -> dict[str, int]:
  """Token -> id of the tokens in the files of `tokenizer_files`: the whole vocabulary of
  tokenizer.json, and added tokens.
  """
  tokens: dict[str, int] = {}
  if 'tokenizer.json' in files:
    values = read_json(files['tokenizer.json'])
    try:
      tokens |= values['model']['vocab'].items()
      tokens |= {added['content']: added['id'] for added in values.get('added_tokens') or ()}
    except (KeyError, TypeError, AttributeError) as error:
      raise errors.CheckpointError(
        f'{files["tokenizer.json"]} holds no byte-pair vocabulary: use '
        'the tokenizer of a Llama 3 model.'
      ) from error
  if 'added_tokens.json' in files:
    tokens |= read_json(files['added_tokens.json'])
  if 'tokenizer_config.json' in files:
    decoder = read_json(files['tokenizer_config.json']).get('added_tokens_decoder') or {}
    tokens |= {added['content']: int(i) for i, added in decoder.items()}
  return tokens


def foreign_tokenizer(files: dict[str, Path], what: str) -> chat_template.ForeignTokenizer:
  """What the tokenizer in `files` says about the prompts of its model.

  `what` names it in messages.
  """
  config = read_json(files['tokenizer_config.json']) if 'tokenizer_config.json' in files else {}
  bos, eos = (_content(config.get(name)) for name in ('bos_token', 'eos_token'))
  encoder, template = (lambda: _encoder(files, what)), _template(files, config)
  return chat_template.ForeignTokenizer(what, read_tokens(files), encoder, template, bos, eos)


def special_ids(files: dict[str, Path], tokens: dict[str, int]) -> dict[str, int]:
  """The special ids in the vocabulary of `files` (names as in section `ids` of the released
  config); {} without tokenizer files.

  Raises:
    CheckpointError: the vocabulary lacks the audio token, or a complete vocabulary lacks another
      special token.
  """
  if not tokens:
    return {}
  file = next(iter(files.values()))
  if AUDIO_TOKEN not in tokens:
    raise errors.CheckpointError(
      f'{file} is a vocabulary without the audio token {AUDIO_TOKEN!r}: give the tokenizer that '
      'is beside the EchoX weights.'
    )
  absent = [token for token in SPECIAL_TOKENS.values() if token not in tokens]
  if absent and 'tokenizer.json' in files:
    raise errors.CheckpointError(
      f'{file} lacks the special tokens {", ".join(map(repr, absent))}: '
      'give the tokenizer of the model.'
    )
  ids = {name: tokens[token] for name, token in SPECIAL_TOKENS.items() if token in tokens}
  pad = _pad_token(files)
  return ids | ({'pad': tokens[pad]} if pad in tokens else {})


def _pad_token(files: dict[str, Path]) -> str | None:
  values = read_json(files['special_tokens_map.json']) if 'special_tokens_map.json' in files else {}
  return _content(values.get('pad_token'))


def _content(token: str | dict[str, Any] | None) -> str | None:
  """The text of a token, which may be stored as text or with its properties."""
  return token['content'] if isinstance(token, dict) else token


def _template(files: dict[str, Path], config: dict[str, Any]) -> str | None:
  """The chat template, from its own file or tokenizer_config.json; the default one if several."""
  if TEMPLATE in files:
    return files[TEMPLATE].read_text('utf-8')
  found = config.get('chat_template')
  if isinstance(found, list):
    found = {entry['name']: entry['template'] for entry in found}.get('default')
  return found


def _encoder(files: dict[str, Path], what: str) -> prompts.Encode:
  if tokenizer.BPE_FILE not in files:
    raise errors.CheckpointError(
      f'{what} has no {tokenizer.BPE_FILE}, which its chat template needs: save it with '
      'transformers, '
      'or give --profile paper.'
    )
  return tokenizer.BpeTokenizer(files[tokenizer.BPE_FILE]).encode
