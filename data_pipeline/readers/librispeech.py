"""Reader `librispeech`: read English speech with transcripts, in LibriSpeech's own folders.

  SOURCE/train-clean-100/103/1240/103-1240.trans.txt
  SOURCE/train-clean-100/103/1240/103-1240-0000.flac

The first file holds lines `103-1240-0000 CHAPTER ONE MISSUS RACHEL LYNDE`; the others are the
recordings.

SOURCE may also be a single subset. Subsets called train-*, dev-* and test-* become the splits
train, dev and test of the set `transcripts`. The transcripts are in capitals, which no text model
writes, so they are made lower-case like those of MLS.
"""

from collections.abc import Iterator
import functools

from data_pipeline import listing
from data_pipeline.quarantine import Entry
from data_pipeline.readers import items
from data_pipeline.readers.items import Item
from echox_jax.errors import DataError
from echox_jax.storage import Path


def read(source: Path) -> Iterator[Item | Entry]:
  """The utterances of all subsets, in path order.

  Raises:
    DataError: no transcripts.
  """
  chapters = [path for path in listing.files_below(source) if path.name.endswith('.trans.txt')]
  if not chapters:
    raise DataError(
      f'{source} holds no *.trans.txt: name the folder that holds train-clean-100 and the like.'
    )
  for found in listing.each(_chapter, chapters):
    yield from found


def _chapter(path: Path) -> list[Item | Entry]:
  return list(items.transcripts(path, ' ', functools.partial(_utterance, path)))


def _utterance(chapter: Path, name: str, text: str, where: str) -> Item:
  split = chapter.parents[2].name.split('-')[0]
  return items.transcript(
    name,
    text.lower(),
    chapter.with_name(f'{items.file_name(name)}.flac'),
    where,
    speaker=name.split('-')[0],
    split=split if split in items.SPLITS else 'train',
    language='en',
    source='librispeech',
  )
