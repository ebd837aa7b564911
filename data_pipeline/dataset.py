"""Data sets on disk: `<data_dir>/<name>`. A data set is written completely or not at all, as
ArrayRecord files with random access.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import io
import itertools
import pathlib
import shutil
from typing import Any

from data_pipeline import schema
from data_pipeline.record_cache import CachedRecords
from echox_jax import storage
from echox_jax.errors import DataError, MissingExtraError
from echox_jax.storage import Path

INFO = 'dataset_info.json'  # in a data set's folder; the data set exists once this file does


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
  from data_pipeline.tfds_builder import SpokenTurns

  target = storage.path(data_dir) / name
  if not splits:
    raise DataError(f'the data set {name!r} would have no split: give at least one.')
  iterators = {split: iter(examples) for split, examples in splits.items()}
  leading = next(iter(iterators))
  first = list(itertools.islice(iterators[leading], 1))
  width = max([1, *map(schema.state_width, first)])
  iterators[leading] = itertools.chain(first, iterators[leading])

  def records(split: str) -> Iterator[dict[str, Any]]:
    empty = True
    for example in iterators[split]:
      empty = False
      yield schema.encode(example, width=width, keep_encoded=keep_encoded)
    if empty:
      raise DataError(
        f'split {split!r} of the data set {name!r} would be empty: give it at least one example.'
      )

  with storage.atomic_dir(target, INFO) as beside:
    builder = SpokenTurns(
      splits={split: records(split) for split in splits},
      width=width,
      keep_encoded=keep_encoded,
      data_dir=beside / 'build',
    )
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download; there is none
      builder.download_and_prepare()
    for file in pathlib.Path(builder.data_path).iterdir():
      file.rename(beside / file.name)
    shutil.rmtree(beside / 'build')
  return target


def dataset_exists(data_dir: str | Path, name: str) -> bool:
  """Whether `<data_dir>/<name>` has been written."""
  return storage.is_file(storage.path(data_dir) / name / INFO)


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
    raise DataError(
      f'the data set {name!r} in {data_dir} has no split {split!r}: it has '
      f'{", ".join(sorted(builder.info.splits))}.'
    )
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
    raise DataError(
      f'the data set {name!r} in {data_dir} is damaged ({error}): delete that folder '
      'and build it again.'
    ) from error


def split_names(data_dir: str | Path, name: str) -> tuple[str, ...]:
  """Names of the splits of a data set, sorted; errors as `open_dataset`."""
  return tuple(sorted(_open(data_dir, name).info.splits))


def read_examples(data_dir: str | Path, name: str, split: str) -> Iterator[schema.Example]:
  """The examples of a split in order; errors as `open_dataset`."""
  source = open_dataset(data_dir, name, split)
  return (schema.decode(source[i]) for i in range(len(source)))


def _open(data_dir: str | Path, name: str) -> Any:
  tfds = _tfds()
  folder = storage.path(data_dir) / name
  if not dataset_exists(data_dir, name):
    raise DataError(
      f'there is no data set {name!r} in {data_dir}: build it first (`python -m launch.corpus` '
      'makes the spoken corpus, '
      '`python -m launch.precompute` the derived ones) or point to the folder that holds it.'
    )
  try:
    return tfds.builder_from_directory(folder)
  except Exception as error:  # TFDS raises many kinds for damaged metadata
    raise DataError(
      f'the data set {name!r} in {data_dir} is damaged ({error}): delete {folder} '
      'and build it again.'
    ) from error


def _tfds() -> Any:
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise MissingExtraError(
      'tensorflow-datasets', 'train', 'Reading and writing data sets'
    ) from error
  tfds.disable_progress_bar()
  return tfds
