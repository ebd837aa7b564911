"""Reader `dialogues`: conversations of several turns, as JSON with paths of recordings.

SOURCE is a JSON-lines file (one dialogue per line), a .json file (a list of dialogues), or a folder
of .json files (one dialogue or a list each). Paths are relative to the file. A dialogue:

  {"id": "d1", "split": "train", "language": "en", "category": "chat", "conversations": [
    {"role": "user",      "text": "Do you like tea?", "audio": "d1/0.wav", "speaker": "anna"},
    {"role": "assistant", "text": "I do.",            "audio": "d1/1.wav"}]}

`split`, `language`, `category`, `speaker` and `audio` are optional. Every turn needs text, and at
least one turn needs a recording. Other usual names work too: `turns` or `messages`; `from` with
`human` and `gpt`; `value` or `content`; `audio_path`. Further fields are ignored. Splits, and
`voice:NAME` in place of a recording, work as in the reader `manifest`.

We found no description of the published files of EchoX-Dialogues that we could follow. This layout
is ours, in its style.
"""

from collections.abc import Iterator
import json
from typing import Any

from data_pipeline import listing
from data_pipeline.quarantine import Entry, Unusable
from data_pipeline.readers import items
from data_pipeline.readers.items import Item
from data_pipeline.schema import Turn
from echox_jax.errors import DataError
from echox_jax.storage import Path

_ROLES = {'user': 'user', 'human': 'user', 'assistant': 'assistant', 'gpt': 'assistant'}


def read(source: Path) -> Iterator[Item | Entry]:
  """The dialogues of a file or folder, in file order.

  Raises:
    DataError: no file, an empty one, or a .json file that is not valid JSON.
  """
  found = False
  for where, folder, value in _values(source):
    found = True
    yield value if isinstance(value, Entry) else _item(value, folder, where)
  if not found:
    raise DataError(
      f'{source} holds no dialogues: write one JSON object per line, or name a folder of .json '
      'files.'
    )


def _values(source: Path) -> Iterator[tuple[str, Path, Any]]:
  """(where, folder, text of a line or parsed JSON) of each dialogue."""
  if source.is_dir():
    for dialogues in listing.each(_file_of_folder, sorted(source.glob('*.json'))):
      yield from dialogues
  elif source.suffix.lower() == '.json' and source.is_file():
    try:
      yield from _file(source)
    except Unusable as error:
      raise DataError(
        f'{source} {error.detail}: write a list of dialogues, or one per line in a '
        'file that ends in .jsonl.'
      ) from error
  else:
    for where, line in items.text_lines(source):
      yield where, source.parent, line


def _file_of_folder(path: Path) -> list[tuple[str, Path, Any]]:
  try:
    return list(_file(path))
  except Unusable as error:
    return [(str(path), path.parent, Entry('', str(path), error.reason, error.detail))]


def _file(path: Path) -> Iterator[tuple[str, Path, Any]]:
  try:
    value = json.loads(items.read_text(path))
  except (ValueError, RecursionError) as error:
    raise Unusable('not JSON', f'is not valid JSON ({error})') from error
  dialogues = value if isinstance(value, list) else [value]
  return (
    (f'{path}:{number}', path.parent, dialogue) for number, dialogue in enumerate(dialogues, 1)
  )


def _item(value: Any, folder: Path, where: str) -> Item | Entry:
  try:
    value = items.parse_object(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
      raise Unusable('not JSON', 'is not a JSON object')
    return _dialogue(value, folder, where)
  except Unusable as error:
    name = value.get('id') if isinstance(value, dict) else ''
    return Entry(name if isinstance(name, str) else '', where, error.reason, error.detail)


def _dialogue(value: dict[str, Any], folder: Path, where: str) -> Item:
  name = items.required(value, 'id')
  listed = _first(value, 'conversations', 'turns', 'messages')
  if (
    not isinstance(listed, list) or not listed or not all(isinstance(turn, dict) for turn in listed)
  ):
    raise Unusable('wrong fields', "has no list of turns in 'conversations'")
  common = dict(
    language=items.string(value, 'language', 'en'),
    category=items.string(value, 'category'),
    source='dialogues',
  )
  turns, recordings = [], []
  for turn in listed:
    role = _ROLES.get(_text(turn, 'role', 'from'))
    if role is None:
      raise Unusable('wrong fields', 'has a turn whose role is neither user nor assistant')
    text = _text(turn, 'text', 'value', 'content')
    if not text.strip():
      raise Unusable('no text', 'has a turn without text')
    file = _text(turn, 'audio', 'audio_path')
    references = (text,) if role == 'assistant' else ()
    turns.append(
      Turn(role, text, speaker=items.speaker(turn, file), references=references, **common)
    )
    recordings.append(items.recording(folder, file, text))
  if not any(recordings):
    raise Unusable('no audio', 'names no recording')
  return Item(name, tuple(turns), tuple(recordings), where, items.split_of(value))


def _first(value: dict[str, Any], *names: str) -> Any:
  return next((value[name] for name in names if name in value), None)


def _text(value: dict[str, Any], *names: str) -> str:
  return items.string({names[0]: _first(value, *names)}, names[0])
