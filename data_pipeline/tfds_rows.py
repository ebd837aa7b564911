"""Speech and text in data sets that TFDS has prepared, row by row and without TensorFlow.

TFDS itself cannot open a set with `Audio` features where TensorFlow is not installed. So this
module takes from `features.json` which fields hold what, and lets TFDS parse these as tensors.

A row is addressed by text: `FOLDER/librispeech-train.array_record-00000-of-00008?row=12&...`; the
rest of the address names the fields and the sample rate.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import json
import re
import struct
import tempfile
from typing import Any
from urllib import parse

import numpy as np

from data_pipeline import decoding
from data_pipeline.quarantine import Unusable
from echox_jax import storage
from echox_jax.errors import ConfigError, DataError
from echox_jax.storage import Path

FEATURES, INFO = 'features.json', 'dataset_info.json'
FIELDS = ('audio', 'text', 'speaker', 'rate', 'language')  # what a user may name
_ROW = '?row='
_SPEAKERS = ('speaker_id', 'speaker')
_OPENED = 4  # files that a process keeps open
_LARGEST = 1 << 15  # of 16-bit samples, which TFDS stores as any kind of integer


@dataclasses.dataclass(frozen=True)
class Fields:
  """Where a row has its parts: names of its fields, and Hz. `speaker`: empty = none."""

  audio: str
  text: str
  speaker: str
  rate: int


def is_row(recording: str) -> bool:
  """Whether a recording is a row of a file."""
  return _ROW in recording


def file_of(recording: str) -> str:
  """The file that holds a recording: itself, or that of its row."""
  return recording.partition(_ROW)[0]


def find(source: Path) -> Path:
  """The folder of a prepared set: `source`, or its newest version below it.

  Raises:
    DataError: there is none, or more than one set.
  """
  if storage.is_file(source / FEATURES):
    return source
  folders = storage.entries(source)[0] if not storage.is_file(source) else ()
  versions = [name for name in folders if is_version(name)]
  if versions:
    return source / max(versions, key=lambda name: [int(part) for part in name.split('.')])
  found = [name for name in folders if any(map(is_version, storage.entries(source / name)[0]))]
  if len(found) == 1:
    return find(source / found[0])
  raise DataError(
    f'{source} holds {"several" if found else "no"} prepared TFDS sets: name the folder with '
    f'{FEATURES}, such as DATA_DIR/librispeech/2.1.1.'
  )


def is_version(name: str) -> bool:
  """Whether TFDS would give the folder of a version this name."""
  return re.fullmatch(r'\d+\.\d+\.\d+', name) is not None


def choose(folder: Path, named: Mapping[str, str]) -> Fields:
  """The fields of a prepared set, found by their types.

  Args:
    folder: see `find`.
    named: those that the user names, by `FIELDS`.

  Raises:
    ConfigError: a name is unknown or of another type, or the types leave a choice.
  """
  for name in named:
    if name not in FIELDS:
      raise ConfigError(f'there is no field {name!r} to name: use one of {", ".join(FIELDS)}.')
  features = _features(folder)
  audio = _choose(folder, 'audio', _of_kind(features, 'audio'), named.get('audio', ''))
  texts = _of_kind(features, 'text')
  said = [name for name in texts if name != 'id' and not name.endswith('_id')]
  preferred = 'text' if 'text' in said else ''
  text = named.get('text', preferred) or _choose(folder, 'text', said, '')
  _choose(folder, 'text', texts, text)
  speaker = next((name for name in _SPEAKERS if name in features), '')
  if 'speaker' in named:
    speaker = _choose(folder, 'speaker', list(features), named['speaker'])
  rate = named.get('rate') or features[audio]['audio'].get('sampleRate') or 0
  if not str(rate).isdigit() or not int(rate):
    raise ConfigError(
      f'{folder / FEATURES} does not say at which rate {audio!r} is sampled: name it with '
      '--fields rate=HZ.'
    )
  return Fields(audio, text, speaker, int(rate))


def _of_kind(features: Mapping[str, Any], kind: str) -> list[str]:
  return [name for name, feature in features.items() if kind in feature]


def _choose(folder: Path, what: str, found: list[str], named: str) -> str:
  if named and named not in found:
    raise ConfigError(
      f'{folder} has no field {named!r} for {what}: it has {", ".join(found) or "none"}.'
    )
  if not named and len(found) != 1:
    raise ConfigError(
      f'{folder} has {", ".join(found) or "no field"} of type {what}: name the right one with '
      f'--fields {what}=NAME.'
    )
  return named or found[0]


def addresses(folder: Path, fields: Fields) -> Iterator[tuple[str, str, int, str]]:
  """(split, file name, row, address) of every row, in order; no record is read.

  Raises:
    DataError: the metadata of TFDS is damaged, or the files are of a format without random access.
  """
  from tensorflow_datasets.core import dataset_info

  try:
    proto = dataset_info.read_proto_from_builder_dir(folder)
    splits = dataset_info.get_split_dict_from_proto(proto, folder)
  except Exception as error:  # TFDS raises many kinds for damaged metadata
    raise DataError(
      f'{folder / INFO} cannot be read ({error}): prepare the set again with TFDS.'
    ) from error
  query = parse.urlencode(dataclasses.asdict(fields))
  for split, info in splits.items():
    for file in info.file_instructions:
      name = file.filename.rpartition('/')[2]
      if not ('.array_record' in name or '.tfrecord' in name):
        raise DataError(
          f'{name} in {folder} is neither an array_record nor a tfrecord file: prepare the set '
          'again with one of these formats (tfds build --file_format=array_record).'
        )
      for row in range(file.skip, file.skip + file.take):
        yield split, name, row, f'{folder / name}{_ROW}{row}&{query}'


def read(address: str, max_seconds: float) -> tuple[np.ndarray, str, str]:
  """One row.

  Returns:
    int16[samples] mono at 16 kHz, the text, the name of the speaker.

  Raises:
    Unusable: see `decoding.decode`; or no text.
  """
  file, _, query = address.rpartition('?')
  values = dict(parse.parse_qsl(query, keep_blank_values=True))
  row, fields = int(values.pop('row')), Fields(**{**values, 'rate': int(values['rate'])})
  features, is_encoded = _parser(storage.path(file).parent, fields)
  try:
    found = features.deserialize_example_np(_opened(file)[row])
  except (OSError, IndexError, ValueError, RuntimeError, struct.error) as error:
    raise Unusable('damaged', f'cannot be read ({error})') from error
  text = _in_words(found[fields.text]).strip()
  if not text:
    raise Unusable('no text', f'has no text in {fields.text!r}')
  speaker = _in_words(found[fields.speaker]) if fields.speaker else ''
  if is_encoded:
    with tempfile.NamedTemporaryFile(prefix='echox-jax-') as copy:
      copy.write(found[fields.audio])
      copy.flush()
      return decoding.decode(copy.name, max_seconds), text, speaker
  samples = np.asarray(found[fields.audio])
  if np.issubdtype(samples.dtype, np.integer):
    if samples.size and not -_LARGEST <= samples.min() <= samples.max() < _LARGEST:
      raise Unusable('damaged', 'holds samples of more than 16 bits')
    samples = samples.astype(np.int16)
  return decoding.of_samples(samples, fields.rate, max_seconds), text, speaker


def _in_words(value: Any) -> str:
  try:
    return value.decode('utf-8') if isinstance(value, bytes) else str(value)
  except UnicodeDecodeError as error:
    raise Unusable('not UTF-8', f'has text that is not UTF-8 ({error.reason})') from error


def _features(folder: Path) -> dict[str, Any]:
  """What `features.json` says of each field of a row."""
  try:
    content = json.loads((folder / FEATURES).read_text('utf-8'))
    return dict(content['featuresDict']['features'])
  except (ValueError, KeyError, TypeError) as error:
    raise DataError(
      f'{folder / FEATURES} is damaged, or of an old TFDS: prepare the set again.'
    ) from error


@functools.lru_cache(_OPENED)
def _parser(folder: Path, fields: Fields) -> tuple[Any, bool]:
  """Parses the chosen fields of a record; and whether the audio is a sound file."""
  import tensorflow_datasets as tfds

  features = _features(folder)
  about = features[fields.audio]['audio']
  is_encoded = bool(about.get('lazyDecode'))
  chosen = {fields.text: tfds.features.Text(), fields.audio: tfds.features.Text()}
  if not is_encoded:
    shape = [int(size) for size in about['shape']['dimensions']]
    chosen[fields.audio] = tfds.features.Tensor(
      shape=tuple(None if size < 0 else size for size in shape),
      dtype=np.dtype(about['dtype']),
      encoding=about.get('encoding', 'none').lower(),
    )
  if fields.speaker:
    kind = features[fields.speaker]
    dtype = np.dtype(kind['tensor']['dtype']) if 'tensor' in kind else np.int64
    chosen[fields.speaker] = (
      tfds.features.Text() if 'text' in kind else tfds.features.Tensor(shape=(), dtype=dtype)
    )
  return tfds.features.FeaturesDict(chosen), is_encoded


@functools.lru_cache(_OPENED)
def _opened(file: str) -> Any:
  """The records of a file, by number."""
  if '.array_record' in file:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(file)
  return _TFRecords(file)


class _TFRecords:
  """The records of a TFRecord file: length (8 bytes), its checksum (4), content, checksum (4).
  Checksums are not compared.
  """

  def __init__(self, file: str):
    self._file, self._places, at = storage.path(file), [], 0
    with self._file.open('rb') as f:
      while header := f.read(12):
        length = struct.unpack('<Q', header[:8])[0]
        self._places.append((at + 12, length))
        at = f.seek(at + length + 16)

  def __getitem__(self, row: int) -> bytes:
    at, length = self._places[row]
    return storage.read_range(self._file, at, length)
