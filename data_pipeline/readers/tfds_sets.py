"""Reader `tfds`: read transcribed speech that TFDS (TensorFlow Datasets) has prepared.

  SOURCE/librispeech-train_clean100.array_record-00000-of-00008 ...
  SOURCE/features.json, dataset_info.json

SOURCE is the folder of a version (DATA_DIR/librispeech/2.1.1), or one above it, of which the newest
version counts. Files may be array_record or tfrecord. TensorFlow is not needed.

The fields are found by their types: one Audio, one Text (several: the one called `text`; none that
is called `id` or `..._id`), and as speaker `speaker_id` or `speaker`. Where that is not what you
mean, name them: --fields audio=speech,text=transcript,speaker=reader,rate=16000,language=de.

Splits called train*, dev* or validation*, and test* become train, dev and test of the set
`transcripts`. A text in capitals alone becomes lower-case. Items are called SPLIT-FILE-ROW.
"""

from collections.abc import Iterator, Mapping
import dataclasses

from data_pipeline import tfds_rows
from data_pipeline.readers import items
from data_pipeline.readers.items import Item
from data_pipeline.schema import ASR, Turn
from echox_jax.storage import Path

_SPLITS = (('dev', 'dev'), ('val', 'dev'), ('test', 'test'))


def read(source: Path, fields: Mapping[str, str] | None = None) -> Iterator[Item]:
  """The rows of all splits, in order; their texts are read with their audio.

  Args:
    source: see above.
    fields: names of fields: see `tfds_rows.choose`.

  Raises:
    DataError, ConfigError: see `tfds_rows`.
  """
  folder = tfds_rows.find(source)
  fields = dict(fields or {})
  name = folder.parent.name if tfds_rows.is_version(folder.name) else folder.name
  common = dict(source=name, category=ASR, language=fields.get('language', 'en'))
  turns = Turn('user', **common), Turn('assistant', **common)
  chosen = tfds_rows.choose(folder, fields)
  for split, file, row, address in tfds_rows.addresses(folder, chosen):
    number = file.rpartition('-of-')[0].rpartition('-')[2] or '00000'
    known = next((own for prefix, own in _SPLITS if split.startswith(prefix)), items.SPLITS[0])
    yield Item(f'{split}-{number}-{row}', turns, (address, ''), file, known)


def with_text(turns: tuple[Turn, ...], text: str, speaker: str) -> tuple[Turn, ...]:
  """The turns of an item, with what its row says."""
  text = text.lower() if text.isupper() else text
  user, assistant = turns
  return (
    dataclasses.replace(user, text=text, speaker=speaker),
    dataclasses.replace(assistant, text=text, references=(text,)),
  )
