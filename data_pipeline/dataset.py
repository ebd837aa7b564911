"""Data sets on disk: `<data_dir>/<name>`. A data set is there completely or not at all, as
ArrayRecord files with random access.

Its identity is that of its content: a copy is the same data set, whatever the times of its files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import json
from typing import Any

from data_pipeline import record_files, schema
from data_pipeline.fingerprints import checksum, fingerprint
from data_pipeline.record_cache import CachedRecords
from data_pipeline.record_files import INFO, MANIFEST
from data_pipeline.turns import StoredTurns
from echox_jax import storage
from echox_jax.errors import DataError, MissingExtraError
from echox_jax.storage import Path

AUDIO_OF = 'audio_of'  # in a manifest: split -> identity of the split that holds its audio


def write_dataset(
  data_dir: str | Path,
  name: str,
  splits: Mapping[str, Iterable[schema.Example]],
  *,
  keep_encoded: bool = False,
) -> Path:
  """Writes the data set `<data_dir>/<name>` in the given order. It replaces an existing one of that
  name only at the end.

  Args:
    data_dir: folder of data sets; created if missing.
    name: name of the data set.
    splits: the examples of each split, consumed one by one. The very first example sets the width
      of `states` for all of them.
    keep_encoded: whether turns that have a recording store it instead of their audio.

  Returns:
    the data set's folder.

  Raises:
    DataError: no split, a split without examples, or examples that break the schema.
    MissingExtraError: tensorflow-datasets is not installed.
  """
  _tfds()
  target = storage.path(data_dir) / name
  if not splits:
    raise DataError(f'the data set {name!r} would have no split: give at least one.')
  iterators = {split: iter(examples) for split, examples in splits.items()}
  leading = next(iter(iterators))
  first = list(itertools.islice(iterators[leading], 1))
  width = max([1, *map(schema.state_width, first)])
  iterators[leading] = itertools.chain(first, iterators[leading])
  found = {}
  with storage.atomic_dir(target, INFO) as beside:
    for split, examples in iterators.items():
      path = beside / record_files.file_names(split, 1)[0]
      records = (schema.encode(e, width=width, keep_encoded=keep_encoded) for e in examples)
      written = record_files.write(path, records, width, keep_encoded)
      if not written['examples']:
        raise DataError(empty_split(name, split))
      about = {'sha256': checksum(path), 'bytes': path.stat().st_size}
      found[split] = {path.name: {**written, **about}}
    for file in record_files.METADATA:
      record_files.write_metadata(found, width, keep_encoded, '', {}, beside / file)
  return target


def empty_split(name: str, split: str) -> str:
  """What is wrong with a split without examples."""
  return f'split {split!r} of the data set {name!r} would be empty: give it at least one example.'


def dataset_exists(data_dir: str | Path, name: str) -> bool:
  """Whether `<data_dir>/<name>` has been written, with the texts and lengths of its records."""
  return all(storage.is_file(storage.path(data_dir) / name / file) for file in (MANIFEST, INFO))


def manifest(data_dir: str | Path, name: str) -> dict[str, Any]:
  """The manifest of a data set: `splits` (by name: `examples`, `hours`, `files` with their
  `examples`, `sha256` and `bytes`), and what else is known of it.

  Raises:
    DataError: the data set is missing, damaged or of an earlier version.
  """
  folder = storage.path(data_dir) / name
  try:
    return json.loads((folder / MANIFEST).read_text('utf-8'))
  except FileNotFoundError as error:
    raise DataError(_missing(data_dir, name)) from error
  except ValueError as error:
    raise DataError(_damaged(data_dir, name, error)) from error


def identity(data_dir: str | Path, name: str, split: str) -> str:
  """A short hash of the content of a split; errors as `open_turns`."""
  found = _split(data_dir, name, split)
  return fingerprint(split, [about['sha256'] for about in found['files'].values()])


def open_turns(data_dir: str | Path, name: str, split: str) -> StoredTurns:
  """Opens the texts and lengths of a split, which are stored beside its records.

  Raises:
    DataError: the data set or the split is missing.
  """
  found = _split(data_dir, name, split)['files']
  return StoredTurns(
    tuple(storage.path(data_dir) / name / file for file in found),
    tuple(about['examples'] for about in found.values()),
  )


def open_dataset(
  data_dir: str | Path, name: str, split: str, cache: storage.Cache | None = None
) -> Sequence[dict[str, Any]]:
  """Opens one split for random access.

  Args:
    data_dir: folder of data sets.
    name: name of the data set.
    split: name of the split.
    cache: holds copies of the files if they are in a bucket; None = every record is read there.

  Returns:
    a picklable sequence (len, indexing), as grain.MapDataset needs, of records: see
    `schema.encode`. Text comes as bytes; `schema.decode` accepts both.

  Raises:
    DataError: the data set or the split is missing or empty, or its files are damaged.
    MissingExtraError: tensorflow-datasets is not installed.
  """
  builder = _open(data_dir, name)
  if split not in builder.info.splits:
    raise DataError(_no_split(data_dir, name, split, builder.info.splits))
  if not builder.info.splits[split].num_examples:
    raise DataError(
      f'split {split!r} of the data set {name!r} in {data_dir} is empty: '
      'build it again with at least one example.'
    )
  try:
    source = builder.as_data_source(split)
    if cache and storage.is_remote(data_dir):
      source.data_source = CachedRecords(builder.info.splits[split].file_instructions, cache)
    return source
  except (OSError, ValueError, RuntimeError) as error:
    raise DataError(_damaged(data_dir, name, error)) from error


@dataclasses.dataclass(frozen=True)
class WithAudio(Sequence):
  """The records of a split, with the audio of those of another: row by row.

  Attributes:
    records: opened split without audio.
    audio: opened split of as many records.
  """

  records: Sequence[Mapping[str, Any]]
  audio: Sequence[Mapping[str, Any]]

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(i)
    heard = self.audio[i]
    columns = {name: heard[name] for name in schema.AUDIO_COLUMNS if name in heard}
    return {**self.records[i], **columns}


def open_with_audio(
  data_dir: str | Path,
  raw_dir: str | Path,
  name: str,
  split: str,
  cache: storage.Cache | None = None,
) -> Sequence[dict[str, Any]]:
  """Opens a split as `open_dataset` does. If it has no audio of its own, that of the same split in
  `raw_dir`, from which it was made, is joined row by row.

  Raises:
    DataError: also if the split in `raw_dir` is not the one it was made from.
  """
  source = open_dataset(data_dir, name, split, cache)
  wanted = manifest(data_dir, name).get(AUDIO_OF, {})
  if split not in wanted:
    return source
  if identity(raw_dir, name, split) != wanted[split]:
    raise DataError(
      f'{name}/{split} in {data_dir} was made from other content than {name}/{split} in {raw_dir} '
      'has: run `python -m launch.precompute` again, or name the folder of the right recordings.'
    )
  return WithAudio(source, open_dataset(raw_dir, name, split, cache))


def split_names(data_dir: str | Path, name: str) -> tuple[str, ...]:
  """Names of the splits of a data set, sorted; errors as `open_dataset`."""
  return tuple(sorted(_open(data_dir, name).info.splits))


def read_examples(data_dir: str | Path, name: str, split: str) -> Iterator[schema.Example]:
  """The examples of a split in order; errors as `open_dataset`."""
  source = open_dataset(data_dir, name, split)
  return (schema.decode(source[i]) for i in range(len(source)))


def _split(data_dir: str | Path, name: str, split: str) -> dict[str, Any]:
  """What the manifest says of a split."""
  found = manifest(data_dir, name)['splits']
  if split not in found:
    raise DataError(_no_split(data_dir, name, split, found))
  return found[split]


def _open(data_dir: str | Path, name: str) -> Any:
  tfds = _tfds()
  if not dataset_exists(data_dir, name):
    raise DataError(_missing(data_dir, name))
  try:
    return tfds.builder_from_directory(storage.path(data_dir) / name)
  except Exception as error:  # TFDS raises many kinds for damaged metadata
    raise DataError(_damaged(data_dir, name, error)) from error


def _missing(data_dir: str | Path, name: str) -> str:
  if storage.is_file(storage.path(data_dir) / name / INFO):
    return (
      f'the data set {name!r} in {data_dir} was written by an earlier version, without the lengths '
      'of its records: delete it and build it again.'
    )
  return (
    f'there is no data set {name!r} in {data_dir}: build it first (`python -m launch.corpus` '
    'makes the spoken corpus, '
    '`python -m launch.precompute` the derived ones) or point to the folder that holds it.'
  )


def _no_split(data_dir: str | Path, name: str, split: str, there: Iterable[str]) -> str:
  return (
    f'the data set {name!r} in {data_dir} has no split {split!r}: it has '
    f'{", ".join(sorted(there))}.'
  )


def _damaged(data_dir: str | Path, name: str, error: Exception) -> str:
  return (
    f'the data set {name!r} in {data_dir} is damaged ({error}): delete that folder and build it '
    'again.'
  )


def _tfds() -> Any:
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise MissingExtraError(
      'tensorflow-datasets', 'train', 'Reading and writing data sets'
    ) from error
  tfds.disable_progress_bar()
  return tfds
