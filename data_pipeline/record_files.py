"""The one writer of data sets: files of records that several processes may write independently, and
the metadata that makes them a data set; `dataset.open_dataset` reads it.

Beside each file lies a small one with the texts and lengths of its records (`turns.py`). `MANIFEST`
names the files with their checksums, which are the identity of the data set. `INFO` is written
last: with it the data set is there.
"""

from collections.abc import Iterable, Iterator, Mapping
import functools
import pathlib
import tempfile
from typing import Any

from data_pipeline import provenance, schema, turns
from data_pipeline.fingerprints import fingerprint
from data_pipeline.shards import Outputs, SharedWork
from echox_jax import rates, storage
from echox_jax.storage import Path

FEATURES, MANIFEST, INFO = 'features.json', 'manifest.json', 'dataset_info.json'
METADATA = (FEATURES, MANIFEST, INFO)  # in the order of writing
NAME, VERSION = 'spoken_turns', '1.0.0'
DESCRIPTION = 'Conversations of turns with text, audio, units, unit words and encoder states.'

# what a manifest says of a file, or `write` of what it wrote: examples, record_bytes, samples, ...
About = Mapping[str, Any]


def file_names(split: str, count: int, build: str = '') -> list[str]:
  """Names of the files of a split. Files of another `build` have other names, so that they can be
  written while the files of an earlier one are read.
  """
  split = f'{split}-{build}' if build else split
  return [f'{NAME}-{split}.array_record-{i:05d}-of-{count:05d}' for i in range(count)]


def write(
  path: Path, records: Iterable[Mapping[str, Any]], width: int, keep_encoded: bool = False
) -> dict[str, int]:
  """Writes a file of records, and beside it the file of their texts and lengths.

  Args:
    path: the file of records.
    records: see `schema.encode`.
    width: D of the states.
    keep_encoded: whether the records hold recordings.

  Returns:
    the numbers of `examples`, of `record_bytes`, and of `samples` of audio.
  """
  from array_record.python.array_record_module import ArrayRecordWriter
  from tensorflow_datasets.core import ExampleSerializer

  from data_pipeline import tfds_builder

  features = tfds_builder.features(width, keep_encoded)
  serializer = ExampleSerializer(features.get_serialized_info())
  written = {'examples': 0, 'record_bytes': 0, 'samples': 0}
  writer, collected = ArrayRecordWriter(str(path), 'group_size:1'), turns.Collector()
  for record in records:
    message = serializer.get_tf_example(features.encode_example(record))
    # the same column order in every process
    content = message.SerializeToString(deterministic=True)
    writer.write(content)
    collected.add(record)
    written['examples'] += 1
    written['record_bytes'] += len(content)
    written['samples'] += int(record['audio_lengths'].sum())
  writer.close()
  collected.write(path.with_name(path.name + turns.SUFFIX))
  return written


def read(path: Path, width: int) -> Iterator[schema.Example]:
  """The examples of one file."""
  from array_record.python.array_record_data_source import ArrayRecordDataSource

  from data_pipeline import tfds_builder

  features, source = tfds_builder.features(width), ArrayRecordDataSource(str(path))
  for i in range(len(source)):
    yield schema.decode(features.deserialize_example_np(source[i]))


def publish(
  work: SharedWork,
  step: str,
  folder: Path,
  splits: Mapping[str, Outputs],
  *,
  width: int = 1,
  keep_encoded: bool = False,
  build: str = '',
  about: Mapping[str, Any] | None = None,
) -> list[Path]:
  """Makes finished files of records a data set, and removes all else in its folder.

  Args:
    work, step: the share of this process; the first one does it.
    folder: the data set's folder.
    splits: the outputs of each split, in order, made by `write`.
    width, keep_encoded, build: as for `write` and `file_names`.
    about: further fields of the manifest.

  Returns:
    the files of metadata.
  """
  found = {
    split: {
      path.name: {
        **{name: note['measured'][name] for name in ('examples', 'record_bytes', 'samples')},
        **{name: note[name] for name in ('sha256', 'bytes')},
      }
      for path, note in zip(outputs, work.notes(outputs))
    }
    for split, outputs in splits.items()
  }
  paths, inputs = [folder / name for name in METADATA], fingerprint(found, dict(about or {}))
  write_one = functools.partial(write_metadata, found, width, keep_encoded, build, about or {})
  for path in paths:
    work.run(step, {path: inputs}, lambda _, beside: write_one(beside), here=True)
  work.keep_only([*paths, *(path for outputs in splits.values() for path in outputs)])
  return paths


def write_metadata(
  splits: Mapping[str, Mapping[str, About]],
  width: int,
  keep_encoded: bool,
  build: str,
  about: Mapping[str, Any],
  path: Path,
) -> None:
  """Writes the file of `METADATA` that `path` is called after.

  Args:
    splits: the files of each split, in order: name -> what is known of it.
    width, keep_encoded, build, about: as for `publish`.
    path: where to write it.
  """
  if path.name == MANIFEST:
    content = {'splits': {split: _described(found) for split, found in splits.items()}}
    storage.atomic_write_json(path, {**content, **about, 'versions': provenance.versions()})
  else:
    _write_tfds(splits, width, keep_encoded, build, path)


def _described(found: Mapping[str, About]) -> dict[str, Any]:
  """What a manifest says of a split."""
  samples = sum(about['samples'] for about in found.values())
  return {
    'examples': sum(about['examples'] for about in found.values()),
    'hours': round(samples / rates.SAMPLE_RATE / 3600, 4),
    'files': {
      name: {key: about[key] for key in ('examples', 'sha256', 'bytes')}
      for name, about in found.items()
    },
  }


def _write_tfds(
  splits: Mapping[str, Mapping[str, About]], width: int, keep_encoded: bool, build: str, path: Path
) -> None:
  """Writes `FEATURES` or `INFO`, by TFDS."""
  import tensorflow_datasets as tfds

  from data_pipeline import tfds_builder

  split = f'{{SPLIT}}-{build}' if build else '{SPLIT}'
  template = f'{{DATASET}}-{split}.{{FILEFORMAT}}-{{SHARD_X_OF_Y}}'
  with tempfile.TemporaryDirectory() as folder:
    for name in (name for found in splits.values() for name in found):
      (pathlib.Path(folder) / name).touch()  # TFDS wants to see them
    names = tfds.core.ShardedFileTemplate(folder, template, NAME, None, 'array_record')
    tfds.folder_dataset.write_metadata(
      data_dir=folder,
      features=tfds_builder.features(width, keep_encoded),
      split_infos=[
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[about['examples'] for about in found.values()],
          num_bytes=sum(about['record_bytes'] for about in found.values()),
          filename_template=names,
        )
        for split, found in splits.items()
      ],
      version=VERSION,
      filename_template=template,
      check_data=False,
      description=DESCRIPTION,
      disable_shuffling=True,
    )
    storage.atomic_write_bytes(path, (pathlib.Path(folder) / path.name).read_bytes())
