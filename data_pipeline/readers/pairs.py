"""Reader `pairs`: recordings of one voice with their text, for text-to-codec model and vocoder.

SOURCE is a folder of either form:

  SOURCE/any/0001.wav + SOURCE/any/0001.txt
  SOURCE/metadata.csv + SOURCE/wavs/0001.wav

The first form has a text file of the same name beside each recording, at any depth. The second is
the form of LJSpeech: lines `0001|text` or `0001|text|text in words`, without a header.

One in twenty is held out: the set `answers` has the splits train and holdout.
"""

from collections.abc import Iterator
import functools

from data_pipeline import listing
from data_pipeline.quarantine import Entry, Unusable
from data_pipeline.readers import items
from data_pipeline.readers.items import Item
from data_pipeline.schema import Turn
from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path

SUFFIXES = ('.wav', '.flac', '.mp3', '.ogg', '.opus', '.m4a', '.aiff')


def read(source: Path) -> Iterator[Item | Entry]:
  """The pairs, in the order of the list or of their paths.

  Raises:
    DataError: the folder holds no pairs.
  """
  if storage.is_file(source / 'metadata.csv'):
    yield from _listed(source)
    return
  named: dict[Path, dict[str, Path]] = {}
  for path in listing.files_below(source):
    suffix = path.suffix.lower()
    if suffix == '.txt' or suffix in SUFFIXES:
      named.setdefault(path.with_suffix(''), {}).setdefault(
        'text' if suffix == '.txt' else 'audio', path
      )
  if not any('audio' in pair for pair in named.values()):
    raise DataError(
      f'{source} holds no recordings: name a folder of recordings with a .txt file '
      'beside each, or one with metadata.csv.'
    )
  yield from listing.each(functools.partial(_beside, source), named.items())


def _beside(source: Path, found: tuple[Path, dict[str, Path]]) -> Item | Entry:
  """The item of a recording and the text beside it, either of which may be missing."""
  stem, pair = found
  name = stem.relative_to(source).as_posix()
  try:
    text = items.read_text(pair['text']) if 'text' in pair else ''
    return _item(name, text, str(pair.get('audio', '')), str(pair.get('audio') or pair['text']))
  except Unusable as error:
    return Entry(
      _printable(name),
      _printable(str(pair.get('text') or pair['audio'])),
      error.reason,
      error.detail,
    )


def _listed(source: Path) -> Iterator[Item | Entry]:
  for where, line in items.text_lines(source / 'metadata.csv'):
    if isinstance(line, Entry):
      yield line
      continue
    name, *texts = (cell.strip() for cell in line.split('|'))
    try:
      yield _item(
        name,
        next((text for text in reversed(texts) if text), ''),
        str(source / 'wavs' / f'{name}.wav'),
        where,
      )
    except Unusable as error:
      yield Entry(name, where, error.reason, error.detail)


def _item(name: str, text: str, file: str, where: str) -> Item:
  items.required({'the name': name}, 'the name')
  if not text:
    raise Unusable('no text', 'has no text beside it')
  if not file:
    raise Unusable('no audio', 'has no recording beside it')
  return Item(name, (Turn('assistant', text, references=(text,), source='pairs'),), (file,), where)


def _printable(name: str) -> str:
  """A printable form of a file name whose bytes are not UTF-8, so that a file can hold it."""
  return name.encode('utf-8', 'replace').decode('utf-8')
