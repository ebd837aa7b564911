"""The data set `spoken_turns` of TFDS: recordings that a reader of this package reads, by name,
version and config.

  import data_pipeline.spoken_turns  # registers the name
  mine = data_pipeline.spoken_turns.Recordings(
    name='mine', set='questions', reader='manifest', source='mine.tsv')
  builder = tfds.builder('spoken_turns', data_dir='tfds', config=mine)
  builder.download_and_prepare()
  builder.as_data_source('train')[0]

  PYTHONPATH=. tfds build spoken_turns --imports data_pipeline.spoken_turns --data_dir tfds
    --config '{"name": "mine", "set": "questions", "reader": "manifest", "source": "mine.tsv"}'

Later `tfds.builder('spoken_turns/mine:1.0.0', data_dir='tfds')` opens it, also without this
package. Records are those of `launch.corpus`: see `schema`. TensorFlow is not needed, except by the
program `tfds`. `launch.corpus` is for large corpora: it works on many hosts and can be resumed.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from typing import Any

from absl import logging
import tensorflow_datasets as tfds

from data_pipeline import decoding, ingest, planning, readers, record_files, schema, tfds_builder
from data_pipeline.quarantine import Entry, Quarantine
from echox_jax import storage
from echox_jax.errors import DataError

_MANIFESTS = ('manifest.jsonl', 'manifest.tsv')


@dataclasses.dataclass(eq=False, kw_only=True)
class Recordings(tfds.core.BuilderConfig):
  """Which recordings become the data set.

  Attributes:
    name: of the config; part of the path of the data set.
    set: `questions`, `answers` or `transcripts`: see `planning`.
    reader, fields: see `ingest.build`.
    source: the file or folder that the reader reads; empty = `manual_dir` of TFDS, for the reader
      `manifest` the list in it.
    max_seconds, max_quarantined: see `ingest.Limits`.
    keep_encoded: whether sound files are stored as they are.
    workers: processes that decode.
  """

  set: str
  reader: str = 'manifest'
  source: str = ''
  fields: Mapping[str, str] | None = None
  max_seconds: float = ingest.Limits.max_seconds
  max_quarantined: float = ingest.Limits.max_quarantined
  keep_encoded: bool = False
  workers: int = 0


class SpokenTurns(tfds.core.GeneratorBasedBuilder):
  """Conversations of turns with text and audio."""

  VERSION = tfds.core.Version(record_files.VERSION)
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Name your recordings in the config (`source`), or put them into manual_dir, with a list '
    f'called {" or ".join(_MANIFESTS)} for the reader `manifest`.'
  )
  BUILDER_CONFIGS = [  # noqa: RUF012
    Recordings(name='questions', set='questions', description='Spoken questions with answers.'),
    Recordings(name='answers', set='answers', description='Spoken answers.'),
    Recordings(
      name='librispeech', set='transcripts', reader='librispeech', description='Speech with text.'
    ),
  ]

  def __init__(self, *, file_format: Any = 'array_record', **options: Any):
    """`file_format`: one that TFDS reads at random and writes without TensorFlow."""
    super().__init__(file_format=file_format, **options)

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds_builder.features(1, self.builder_config.keep_encoded),
      description=record_files.DESCRIPTION,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
    config, reader = self.builder_config, readers.get(self.builder_config.reader)
    source = storage.path(config.source or self._manual_source(dl_manager))
    if not storage.exists(source):
      raise DataError(f'there is no {source}: check the path.')
    refused = Quarantine(str(source), config.max_quarantined)
    plans = planning.make(reader, source, refused, config.fields)
    if config.set not in plans:
      raise DataError(
        f'{source} gives {", ".join(plans)}, not {config.set!r}: correct `set` of the config.'
      )
    return {
      split: self._generate_examples(examples, refused)
      for split, examples in plans[config.set].items()
    }

  def _manual_source(self, dl_manager: Any) -> Any:
    folder = storage.path(dl_manager.manual_dir)
    if self.builder_config.reader != 'manifest':
      return folder
    found = [folder / name for name in _MANIFESTS if storage.is_file(folder / name)]
    if not found:
      raise DataError(f'{folder} holds no list: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    return found[0]

  def _generate_examples(
    self, examples: list[planning.PlannedExample], refused: Quarantine
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    read = functools.partial(ingest.read_recording, config.max_seconds, config.keep_encoded)
    with decoding.Workers(read, config.workers) as pool:
      for key, found in enumerate(ingest.usable(examples, pool, config.set)):
        if isinstance(found, Entry):
          logging.warning('left out: %s %s', found.file, found.detail)
          refused.add(found)
        else:
          yield key, schema.encode(found, width=1, keep_encoded=config.keep_encoded)
