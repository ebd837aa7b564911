"""Readers: from common layouts of recordings to items of one schema (`data_pipeline/schema.py`).

A reader is a function `read(source) -> iterator of Item | Entry`; an `Entry` is an unusable item
and the reason. One that takes names of fields is `read(source, fields)`. Readers read no audio and
do not look whether it is there: `planning.py` looks, and `ingest.py` reads it.
"""

from collections.abc import Callable, Iterator
import dataclasses

from data_pipeline.quarantine import Entry
from data_pipeline.readers import dialogues, librispeech, manifest, mls, pairs, tfds_sets
from data_pipeline.readers.items import Item
from echox_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Reader:
  """One layout.

  Attributes:
    read: see above.
    guide: description of the layout.
    transcripts: whether the items are speech with its transcript (set `transcripts`), not exchanges
      (`questions`, `answers`).
    forms: suffixes of recordings; one that is missing may be there with another of these.
    takes_fields: whether `read` also takes names of fields.
  """

  read: Callable[..., Iterator[Item | Entry]]
  guide: str
  transcripts: bool = False
  forms: tuple[str, ...] = ()
  takes_fields: bool = False


READERS = {
  'manifest': Reader(manifest.read, manifest.__doc__),
  'dialogues': Reader(dialogues.read, dialogues.__doc__),
  'pairs': Reader(pairs.read, pairs.__doc__),
  'librispeech': Reader(librispeech.read, librispeech.__doc__, transcripts=True),
  'mls': Reader(mls.read, mls.__doc__, transcripts=True, forms=('.flac', '.opus')),
  'tfds': Reader(tfds_sets.read, tfds_sets.__doc__, transcripts=True, takes_fields=True),
}


def get(name: str) -> Reader:
  """The reader named `name`.

  Raises:
    ConfigError: there is no such reader.
  """
  if name not in READERS:
    raise ConfigError(f'there is no reader {name!r}: use one of {", ".join(READERS)}.')
  return READERS[name]
