"""Reader `mls`: read speech with transcripts, in the folders of Multilingual LibriSpeech.

  SOURCE/train/transcripts.txt
  SOURCE/train/audio/4800/10003/4800_10003_000000.flac, or .opus

The first file holds lines `4800_10003_000000<TAB>and there they lay`. The folders `train`, `dev`
and `test` become the splits of the set `transcripts`. SOURCE is such a folder, e.g. mls_english, or
one that holds several, or a single split. The language follows from the folder's name (mls_german,
mls_german_opus).
"""

from collections.abc import Iterator
import functools

from data_pipeline.quarantine import Entry
from data_pipeline.readers import items
from data_pipeline.readers.items import Item
from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path

LANGUAGES = {
  'english': 'en',
  'german': 'de',
  'dutch': 'nl',
  'french': 'fr',
  'spanish': 'es',
  'italian': 'it',
  'portuguese': 'pt',
  'polish': 'pl',
}


def read(source: Path) -> Iterator[Item | Entry]:
  """The utterances of all splits, in path order.

  Raises:
    DataError: no transcripts.
  """
  depths = (sorted(source.glob(f'{depth}transcripts.txt')) for depth in ('', '*/', '*/*/'))
  lists = next(filter(None, depths), [])
  if not lists:
    raise DataError(
      f'{source} holds no transcripts.txt: name the folder that holds train, dev and '
      'test (e.g. mls_english).'
    )
  for path in lists:
    of_language = storage.absolute(path).parents[1].name
    suffix = '.opus' if 'opus' in of_language else '.flac'
    language = next((code for name, code in LANGUAGES.items() if name in of_language), 'en')
    yield from items.transcripts(
      path, '\t', functools.partial(_utterance, path.parent, suffix, language)
    )


def _utterance(folder: Path, suffix: str, language: str, name: str, text: str, where: str) -> Item:
  speaker, _, book = items.file_name(name).rpartition('_')[0].partition('_')
  return items.transcript(
    name,
    text,
    folder / 'audio' / speaker / book / f'{name}{suffix}',
    where,
    speaker=speaker,
    split=folder.name if folder.name in items.SPLITS else 'train',
    language=language,
    source='mls',
  )
