"""A data set of several files that several processes write independently;
`dataset.open_dataset` reads it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
import tempfile
from typing import Any

from data_pipeline import schema

FEATURES = 'features.json'
_NAME = 'spoken_turns'


def file_names(split: str, count: int) -> list[str]:
  """Names of the files of a split."""
  return [f'{_NAME}-{split}.array_record-{i:05d}-of-{count:05d}' for i in range(count)]


def write(path: Path, examples: Iterable[schema.Example], width: int) -> dict[str, int]:
  """Writes one file; `width`: D of the states. Returns the numbers of `examples` and of
  `record_bytes`.
  """
  from array_record.python.array_record_module import ArrayRecordWriter
  from tensorflow_datasets.core import ExampleSerializer

  from data_pipeline import tfds_builder

  features = tfds_builder.features(width)
  serializer = ExampleSerializer(features.get_serialized_info())
  writer, count, size = ArrayRecordWriter(str(path), 'group_size:1'), 0, 0
  for example in examples:
    message = serializer.get_tf_example(
      features.encode_example(schema.encode(example, width=width))
    )
    # the same column order in every process
    record = message.SerializeToString(deterministic=True)
    writer.write(record)
    count, size = count + 1, size + len(record)
  writer.close()
  return {'examples': count, 'record_bytes': size}


def read(path: Path, width: int) -> Iterator[schema.Example]:
  """The examples of one file."""
  from array_record.python.array_record_data_source import ArrayRecordDataSource

  from data_pipeline import tfds_builder

  features, source = tfds_builder.features(width), ArrayRecordDataSource(str(path))
  for i in range(len(source)):
    yield schema.decode(features.deserialize_example_np(source[i]))


def write_metadata(
  path: Path, splits: Mapping[str, Sequence[Mapping[str, int]]], width: int
) -> None:
  """Writes `FEATURES` or `dataset.INFO`, depending on the name of `path`; `splits`: the results of
  `write`, in the order of the files.
  """
  import tensorflow_datasets as tfds

  from data_pipeline import tfds_builder

  builder = tfds_builder.SpokenTurns
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    for split, files in splits.items():
      for name in file_names(split, len(files)):  # TFDS expects files of these names
        (Path(folder) / name).touch()
    tfds.folder_dataset.write_metadata(
      data_dir=folder,
      features=tfds_builder.features(width),
      split_infos=[_split_info(split, files) for split, files in splits.items()],
      version=builder.VERSION,
      check_data=False,
      description=builder.__doc__,
      disable_shuffling=True,
    )
    (Path(folder) / path.name).rename(path)


def _split_info(split: str, files: Sequence[Mapping[str, int]]) -> Any:
  """A `tfds.core.SplitInfo`."""
  import tensorflow_datasets as tfds

  return tfds.core.SplitInfo(
    name=split,
    shard_lengths=[file['examples'] for file in files],
    num_bytes=sum(file['record_bytes'] for file in files),
    filename_template=None,  # that of the data set
  )
