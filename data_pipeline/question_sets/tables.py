"""Rows of a folder of Parquet files, or of a CSV file with its sounds beside it."""

import csv
import dataclasses
import functools
import io
import re
from typing import Any

from echox_jax import audio
from echox_jax.errors import DataError, MissingExtraError
from echox_jax.storage import Path

SOUNDS = ('audio', 'question_audio')  # columns of Parquet files that hold sound
SOUND_FILE, SOUND_FOLDER = 'audio_filename', 'audios'  # of OpenAudioBench
_PART = re.compile(r'(.+?)-\d{5}-of-\d{5}')


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    name: where it comes from, for messages.
    rows: by column; the column `sound` reads the sound of a row, or is None.
    columns: names of the file.
  """

  name: str
  rows: list[dict[str, Any]]
  columns: tuple[str, ...]


def read(folder: Path, split: str | None) -> Table:
  """The rows of a folder of Parquet files, or of its CSV file.

  Raises:
    DataError: neither, several sets or splits, or damaged files.
    MissingExtraError: pyarrow is not installed.
  """
  places = (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()))
  found = {place: sorted(place.glob('*.parquet')) for place in places}
  found = {place: files for place, files in found.items() if files}
  if len(found) > 1:
    names = ', '.join(place.name for place in found)
    raise DataError(f'{folder} holds several sets ({names}): give the folder of one of them.')
  if found:
    (files,) = found.values()
    return _parquet(folder, _of_split(folder, files, split))
  lists = sorted(folder.glob('*.csv'))
  if len(lists) == 1:
    return _csv(lists[0])
  raise DataError(
    f'{folder} holds neither Parquet files nor one CSV file: give the folder of a question set.'
  )


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
  """The files of one split: the one that is named, else `test`, `validation` or the only one."""
  splits: dict[str, list[Path]] = {}
  for path in files:
    part = _PART.fullmatch(path.stem)
    splits.setdefault(part[1] if part else path.stem, []).append(path)
  for name in (split,) if split else ('test', 'validation'):
    if name in splits:
      return splits[name]
  if split is None and len(splits) == 1:
    return files
  raise DataError(
    f'{folder} has the splits {", ".join(sorted(splits))}: name one of them with --split.'
  )


def _parquet(folder: Path, files: list[Path]) -> Table:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise MissingExtraError('pyarrow', 'eval', 'Reading Parquet files') from error
  rows, columns = [], ()
  for path in files:
    try:
      with path.open('rb') as f:
        table = parquet.read_table(io.BytesIO(f.read()))
    except pyarrow.ArrowException as error:
      reason = str(error).splitlines()[0]
      raise DataError(
        f'{path} is no Parquet file, or damaged ({reason}): copy it again.'
      ) from error
    columns = tuple(table.column_names)
    rows += table.to_pylist()
  sound = next((name for name in SOUNDS if name in columns), None)
  for number, row in enumerate(rows):
    row['sound'] = sound and _embedded(row[sound], folder, f'the sound of row {number}')
  return Table(str(folder), rows, columns)


def _embedded(value: Any, folder: Path, name: str) -> functools.partial | None:
  """What reads a sound `{bytes, path}`; None where there is neither."""
  if not isinstance(value, dict):
    return None
  if value.get('bytes'):
    return functools.partial(audio.decode, value['bytes'], name=name)
  path = folder / value['path'] if value.get('path') else None
  return functools.partial(audio.load_audio, path) if path and path.is_file() else None


def _csv(path: Path) -> Table:
  try:
    reader = csv.DictReader(io.StringIO(path.read_text('utf-8-sig'), newline=''))
    rows, columns = list(reader), tuple(reader.fieldnames or ())
  except (UnicodeDecodeError, csv.Error) as error:
    raise DataError(f'{path} is no CSV file in UTF-8 ({error}): save it again.') from error
  for row in rows:
    name = row.get(SOUND_FILE)
    file = path.parent / SOUND_FOLDER / name if name else None
    there = file is not None and file.is_file()
    row['sound'] = functools.partial(audio.load_audio, file) if there else None
  return Table(str(path), rows, columns)
