"""The output of readers: items of the schema whose recordings are still files, and entries for what
could not be read.
"""

from collections.abc import Callable, Iterator
import dataclasses
import json
import os
from typing import Any

from data_pipeline.corpus import voice_lines
from data_pipeline.quarantine import Entry, Unusable
from data_pipeline.schema import ASR, Turn
from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path

SPLITS = ('train', 'dev', 'test')


@dataclasses.dataclass(frozen=True)
class Item:
  """A conversation whose audio has not been read yet.

  Attributes:
    id: unique in the source.
    turns: without audio.
    recordings: the file of each turn; empty = none.
    where: the line or file of the item.
    split: `train`, `dev` or `test`; empty = the source does not say.
  """

  id: str
  turns: tuple[Turn, ...]
  recordings: tuple[str, ...]
  where: str
  split: str = ''


def text_lines(path: Path) -> Iterator[tuple[str, str | Entry]]:
  """(`file:number`, line) of every non-blank line of a UTF-8 text file; the line is an `Entry` if
  it is not UTF-8.

  Raises:
    DataError: the file does not exist.
  """
  if not storage.is_file(path):
    raise DataError(f'there is no file {path}: check the path.')
  with path.open('rb') as f:
    for number, raw in enumerate(f, 1):
      where = f'{path}:{number}'
      try:
        line = raw.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')
      except UnicodeDecodeError as error:
        yield (
          where,
          Entry(
            '', where, 'not UTF-8', f'is not UTF-8 text ({error.reason} at byte {error.start})'
          ),
        )
        continue
      if line.strip():
        yield where, line


def read_text(path: Path) -> str:
  """The text of a small file, joined to one line.

  Raises:
    Unusable: the file is not UTF-8.
  """
  try:
    return ' '.join(path.read_bytes().decode('utf-8-sig').split())
  except UnicodeDecodeError as error:
    raise Unusable(
      'not UTF-8', f'is not UTF-8 text ({error.reason} at byte {error.start})'
    ) from error


def parse_object(text: str) -> dict[str, Any]:
  """JSON text -> dict.

  Raises:
    Unusable: the text is not a JSON object.
  """
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise Unusable('not JSON', f'is not valid JSON ({error})') from error
  if not isinstance(value, dict):
    raise Unusable('not JSON', 'is not a JSON object')
  return value


def string(values: dict[str, Any], field: str, default: str = '') -> str:
  """A text field; `default` if it is absent or null.

  Raises:
    Unusable: the field is not text, or its text cannot be encoded as UTF-8.
  """
  value = values.get(field)
  if value is None:
    return default
  if not isinstance(value, str):
    raise Unusable('wrong fields', f'has {field!r} that is not text')
  if not value.isascii() and value != value.encode('utf-8', 'ignore').decode('utf-8'):
    raise Unusable('not UTF-8', f'has {field!r} with an incomplete character')
  return value


def required(values: dict[str, Any], field: str) -> str:
  """A text field that must not be blank.

  Raises:
    Unusable: the field is absent, blank or not text.
  """
  value = string(values, field)
  if not value.strip():
    raise Unusable('no text', f'has no text in {field!r}')
  return value


def split_of(values: dict[str, Any]) -> str:
  """The field `split`; empty = not given.

  Raises:
    Unusable: an unknown split.
  """
  split = string(values, 'split')
  if split not in ('', *SPLITS):
    raise Unusable('wrong fields', f'has split {split!r}, not {", ".join(SPLITS)}')
  return split


def recording(folder: Path, name: str, text: str = '') -> str:
  """The path of file `name`, relative to `folder` unless absolute or in a bucket; empty = none. A
  line for a voice gets the words `text`.

  Raises:
    Unusable: a line for a voice that there is not, or with wrong options.
  """
  if voice_lines.is_line(name):
    return voice_lines.with_text(name, text)
  return name if not name or storage.is_remote(name) else os.path.join(folder, name)


def speaker(values: dict[str, Any], file: str) -> str:
  """The field `speaker`; by default the voice that speaks `file`, if one does."""
  return string(values, 'speaker') or voice_lines.speaker(file)


def file_name(name: str) -> str:
  """Returns the name if it is a valid file name.

  Raises:
    Unusable: no file can have this name.
  """
  if not name or '/' in name or '\0' in name:
    raise Unusable('wrong fields', f'begins with {name[:40]!r}, which is not the name of a file')
  return name


def transcripts(
  path: Path, separator: str, make: Callable[[str, str, str], Item]
) -> Iterator[Item | Entry]:
  """The items of a list of transcripts with one `name`, `separator`, text per line.

  Args:
    path: the list.
    separator: text between name and transcript.
    make: (name, text, `file:number`) -> the item, made with `transcript`; an item for which it
      raises Unusable is refused.

  Raises:
    DataError: the file does not exist.
  """
  for where, line in text_lines(path):
    if isinstance(line, Entry):
      yield line
      continue
    name, _, text = line.partition(separator)
    try:
      yield make(name, text.strip(), where)
    except Unusable as error:
      yield Entry(name, where, error.reason, error.detail)


def transcript(
  name: str,
  text: str,
  file: str | Path,
  where: str,
  *,
  split: str,
  speaker: str,
  language: str,
  source: str,
) -> Item:
  """An item of speech recognition: the user says `text` and the assistant writes it down. Both
  turns have the category `asr`.

  Raises:
    Unusable: no text.
  """
  if not text.strip():
    raise Unusable('no text', 'has no transcript')
  common = dict(text=text, language=language, source=source, category=ASR)
  turns = Turn('user', speaker=speaker, **common), Turn('assistant', references=(text,), **common)
  return Item(name, turns, (str(file), ''), where, split)
