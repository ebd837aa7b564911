"""From a source of recordings to data sets: plan, read, decode, leave out unusable items, write.

The job is made of shards of consecutive examples. Several processes may do it together, and one
that was stopped goes on where it was: see `shards.py`. The same source always gives the same bytes,
on any number of processes.

A data set appears when all of it is written: its files have names of their own, and its metadata
changes last (`record_files.publish`). Until then one of that name from earlier stays as it is.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import os
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import (
  dataset,
  decoding,
  listing,
  planning,
  quarantine,
  readers,
  record_files,
  schema,
  shards,
  tfds_rows,
)
from data_pipeline.corpus import voice_lines
from data_pipeline.fingerprints import fingerprint
from data_pipeline.planning import StoredPlan
from data_pipeline.quarantine import Entry, Quarantine, Unusable
from data_pipeline.readers import tfds_sets
from data_pipeline.shards import Outputs, Process, SharedWork
from echox_jax import storage
from echox_jax.errors import ConfigError, DataError, EchoXError
from echox_jax.parallel import heartbeats
from echox_jax.storage import Path
from echox_jax.training import layout

_STEP, _LEFT_OUT = 'reading in', 'left_out'
_BUILD_LETTERS = 8
_Place = tuple[str, str, int]  # set, split, number of the shard


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
  """A recording that has been read.

  Attributes:
    audio: int16[samples] at 16 kHz.
    file: uint8[bytes] of the sound file, where it is kept.
    said: text and speaker, where they are stored with the recording.
  """

  audio: np.ndarray
  file: np.ndarray
  said: tuple[str, str] | None = None


_NO_FILE = np.zeros(0, np.uint8)
_NOTHING = Sound(np.zeros(0, np.int16), _NO_FILE)  # of a turn without any


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a job tolerates: the longest recording in seconds, and the share of items that may be
  unusable.
  """

  max_seconds: float = 30.0
  max_quarantined: float = 0.05


@dataclasses.dataclass(frozen=True)
class Sharing:
  """How a job is divided: examples of a shard, processes that decode beside each process of the job
  (0 or 1 = that one itself), how long it waits for the next shard of another one, and how often
  each process of the job tells that it lives (0 = never).
  """

  shard_examples: int = 512
  workers: int = 0
  wait_seconds: float = shards.WAIT_SECONDS
  heartbeat_seconds: float = 0.0


def build(
  reader: str,
  source: str | os.PathLike[str],
  data_dir: str | os.PathLike[str],
  *,
  prefix: str = '',
  limits: Limits = Limits(),
  keep_encoded: bool = False,
  sharing: Sharing = Sharing(),
  process: Process | None = None,
  progress: bool = False,
  fields: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Writes the data sets of a source into `data_dir`, and `quarantine.jsonl` beside them.

  Args:
    reader: a name in `readers.READERS`.
    source: the file or folder that the reader reads.
    data_dir: folder of data sets; other sets in it stay.
    prefix: prefix of the set names, so that several sources can share a folder.
    limits: what the job tolerates.
    keep_encoded: whether to store the sound files themselves instead of int16 samples at 16 kHz.
      They are then decoded whenever a record is read. Files that only ffmpeg reads are stored as
      samples. mp3, ogg and opus files are a tenth of the size; 48 kHz wav files are six times the
      size.
    sharing: how the job is divided.
    process: this process among several (None = it is alone), which all see `source` and `data_dir`.
    progress: whether to show a bar with the time left.
    fields: names of fields, for readers that take them.

  Returns:
    `sets`: examples and hours of each, by `name/split`; `quarantined`: items left out, by reason;
      `quarantined_share`.

  Raises:
    DataError: the source as a whole is broken, or too much of it or a whole split is unusable. Then
      no data set changes, and `<data_dir>.quarantine.jsonl` lists the unusable items.
    ConfigError: an unknown reader, or limits that make no sense.
    EchoXError: another process does not make its share in time.
  """
  source, data_dir = storage.path(source), storage.path(data_dir)
  _check(limits, sharing, source)
  with _shared(data_dir, prefix, process or Process(), sharing) as work:
    folder, root = work.scratch / 'plan', source.parent if storage.is_file(source) else source
    list_of_refused = data_dir.with_name(f'{data_dir.name}.{quarantine.FILE}')
    refused = Quarantine(str(source), limits.max_quarantined)
    try:
      if work.index == 0:
        plans = planning.make(readers.get(reader), source, refused, fields)
        plans = {prefix + name: splits for name, splits in plans.items()}
        planning.store(folder, plans, root, refused.entries, sharing.shard_examples)
        del plans  # large; each shard is read again
        _Job(work, planning.load(folder, root), limits.max_seconds, keep_encoded).reopen_corrected()
      with work.beat.during(heartbeats.WAITING):
        work.meet('the plan is written')
        job = _Job(work, planning.load(folder, root), limits.max_seconds, keep_encoded)
        work.meet('the plan is read')  # where all is finished already, the first soon removes it
      refused = _collect(source, limits, job.plan.refused, job.plan.examples)
      job.write_shards(refused, sharing.workers, progress and work.index == 0)
      refused = _collect(source, limits, [*job.plan.refused, *job.refused()], job.plan.examples)
      job.check_splits()
      if work.index == 0:
        refused.write(data_dir / quarantine.FILE)
        list_of_refused.unlink(missing_ok=True)
      job.publish()
    except EchoXError:
      if work.index == 0:
        refused.write(list_of_refused)
      raise
    if work.index == 0:
      storage.remove_tree(folder)
  sets = job.counts()
  total = len(refused.entries) + sum(counts['examples'] for counts in sets.values())
  return {
    'sets': sets,
    'quarantined': refused.counts(),
    'quarantined_share': round(len(refused.entries) / total, 4),
  }


@contextlib.contextmanager
def _shared(
  data_dir: Path, prefix: str, process: Process, sharing: Sharing
) -> Iterator[SharedWork]:
  """The work of the job, while this process tells that it lives."""
  name = layout.READING_IN + prefix
  with heartbeats.Heartbeat(
    data_dir / layout.PARTS / name,
    'corpus',
    'listing',
    process=process.index,
    processes=process.count,
    every=sharing.heartbeat_seconds,
  ) as beat:
    yield SharedWork(data_dir, process, name=name, beat=beat, wait_seconds=sharing.wait_seconds)


def _check(limits: Limits, sharing: Sharing, source: Path) -> None:
  if not (0 <= limits.max_quarantined <= 1 and limits.max_seconds > 0):
    raise ConfigError(
      'max_quarantined is a share from 0 to 1, and max_seconds more than 0: correct them.'
    )
  if sharing.shard_examples < 1 or sharing.wait_seconds <= 0:
    raise ConfigError('shard_examples is at least 1, and wait_seconds more than 0: correct them.')
  if not storage.exists(source):
    raise DataError(f'there is no {source}: check the path.')


def _collect(source: Path, limits: Limits, entries: list[Entry], examples: int) -> Quarantine:
  """All that has been left out so far. `examples`: those planned.

  Raises:
    DataError: it is too much.
  """
  refused = Quarantine(str(source), limits.max_quarantined)
  for entry in entries:
    refused.add(entry)
  refused.expect(examples + sum(not entry.set for entry in entries))
  return refused


@dataclasses.dataclass(frozen=True)
class _Job:
  """The part of one process in reading a plan in."""

  work: SharedWork
  plan: StoredPlan
  max_seconds: float
  keep_encoded: bool

  @functools.cached_property
  def outputs(self) -> dict[str, dict[str, Outputs]]:
    """By set and split: file of each shard -> fingerprint of what it is made from."""
    return {
      name: {
        split: {
          self.work.folder / name / file: fingerprint(digest, self._choices)
          for file, (_, digest) in zip(
            record_files.file_names(split, len(stored), self._build(name)), stored
          )
        }
        for split, stored in splits.items()
      }
      for name, splits in self.plan.sets.items()
    }

  @functools.cached_property
  def all_outputs(self) -> Outputs:
    """Those of all sets, in the order of `_places`."""
    return {
      path: inputs
      for splits in self.outputs.values()
      for outputs in splits.values()
      for path, inputs in outputs.items()
    }

  @functools.cached_property
  def _places(self) -> list[_Place]:
    return [
      (name, split, i)
      for name, splits in self.outputs.items()
      for split, outputs in splits.items()
      for i in range(len(outputs))
    ]

  @property
  def _choices(self) -> dict[str, Any]:
    """What decides about the bytes, beside the plan."""
    return {'max_seconds': self.max_seconds, 'keep_encoded': self.keep_encoded}

  def _build(self, name: str) -> str:
    return fingerprint(self.plan.sets[name], self._choices)[:_BUILD_LETTERS]

  def reopen_corrected(self) -> None:
    """Forgets finished shards that lack a recording whose file has changed since."""
    for (name, _, _), path, entries in zip(self._places, self.all_outputs, self._left_out()):
      if any(_size(entry['file']) != entry['size'] for entry in entries):
        self.work.forget(path)
        if self._is_published(name, path.name):
          # so that nobody reads old and new files as one data set
          (self.work.folder / name / record_files.INFO).unlink()

  def _is_published(self, name: str, file: str) -> bool:
    """Whether the data set `name` is there and `file` is one of its files."""
    return dataset.dataset_exists(self.work.folder, name) and any(
      file in found['files']
      for found in dataset.manifest(self.work.folder, name)['splits'].values()
    )

  def write_shards(self, refused: Quarantine, workers: int, progress: bool) -> None:
    """Reads and writes what is not finished; adds what is unusable to `refused`."""
    todo = (self._places[i] for i in self.work.unfinished(self.all_outputs))
    total = sum(self.plan.sets[name][split][i][0] for name, split, i in todo)
    read = functools.partial(read_recording, self.max_seconds, self.keep_encoded)
    with (
      decoding.Workers(read, workers) as pool,
      tqdm(total=total, desc=_STEP, unit='example', disable=not progress, mininterval=1.0) as bar,
      self.work.beat.during(heartbeats.STEPS),
    ):
      write = functools.partial(self._write_shard, pool, bar, refused)
      self.work.run(_STEP, self.all_outputs, write)

  def _write_shard(
    self, pool: decoding.Workers, bar: tqdm, refused: Quarantine, number: int, beside: Path
  ) -> dict[str, Any]:
    """Writes one shard; its measurements name what was left out."""
    name, split, i = self._places[number]
    left_out = []

    def records() -> Iterator[dict[str, Any]]:
      for found in usable(self.plan.shard(name, split, i), pool, name):
        bar.update()
        self.work.beat.done()
        if isinstance(found, Entry):
          left_out.append(dataclasses.asdict(found) | {'size': _size(found.file)})
          refused.add(found)
        else:
          yield schema.encode(found, width=1, keep_encoded=self.keep_encoded)

    written = record_files.write(beside, records(), 1, self.keep_encoded)
    return {**written, _LEFT_OUT: left_out}

  def _left_out(self) -> Iterator[list[dict[str, Any]]]:
    """What each shard lacks that has been written before."""
    for note in self.work.notes(self.all_outputs):
      yield note.get('measured', {}).get(_LEFT_OUT, [])

  def refused(self) -> Iterator[Entry]:
    """What is missing in the shards, in their order."""
    for entries in self._left_out():
      for entry in entries:
        yield Entry(**{name: value for name, value in entry.items() if name != 'size'})

  def check_splits(self) -> None:
    """Raises DataError if a split is empty."""
    for name, splits in self.outputs.items():
      for split, outputs in splits.items():
        if not self.work.measured(outputs, 'examples'):
          raise DataError(dataset.empty_split(name, split))

  def publish(self) -> None:
    """Makes the finished files data sets."""
    for name, splits in self.outputs.items():
      record_files.publish(
        self.work,
        f'data set {name}',
        self.work.folder / name,
        splits,
        keep_encoded=self.keep_encoded,
        build=self._build(name),
        about={'read_in': self._choices},
      )

  def counts(self) -> dict[str, dict[str, Any]]:
    """`examples` and `hours` by `set/split`."""
    return {
      f'{name}/{split}': {key: found[key] for key in ('examples', 'hours')}
      for name in self.plan.sets
      for split, found in dataset.manifest(self.work.folder, name)['splits'].items()
    }


def usable(
  examples: Iterable[planning.PlannedExample], pool: decoding.Workers, name: str
) -> Iterator[schema.Example | Entry]:
  """The planned examples of the set `name` with their audio, or why they cannot be used; `pool`
  runs `read_recording`.
  """
  examples = list(examples)
  found = pool.map(file for example in examples for file in example.recordings if file)
  for example in examples:
    sounds = [next(found) if file else _NOTHING for file in example.recordings]
    wrong = next(filter(_is_wrong, zip(example.recordings, sounds)), None)
    if wrong:
      yield Entry(example.id, wrong[0], wrong[1].reason, wrong[1].detail, name)
      continue
    said = next((sound.said for sound in sounds if sound.said), None)
    turns = (
      dataclasses.replace(turn, audio=sound.audio, recording=sound.file)
      for turn, sound in zip(
        tfds_sets.with_text(example.turns, *said) if said else example.turns, sounds
      )
    )
    yield schema.Example(example.id, tuple(turns))


def read_recording(max_seconds: float, keep_encoded: bool, file: str) -> Sound:
  """Reads a recording, which may be a row of a TFDS set or a line that a voice speaks.

  Raises:
    Unusable: see `decoding.decode`, `voice_lines.read`.
  """
  if voice_lines.is_line(file):
    return Sound(voice_lines.read(file, max_seconds), _NO_FILE)
  if tfds_rows.is_row(file):
    audio, *said = tfds_rows.read(file, max_seconds)
    return Sound(audio, _NO_FILE, tuple(said))
  audio = decoding.decode(file, max_seconds)
  return Sound(audio, decoding.encoded(file) if keep_encoded else _NO_FILE)


def _is_wrong(found: tuple[str, Any]) -> bool:
  return isinstance(found[1], Unusable)


def _size(file: str) -> int:
  """Bytes of a file; -1 = there is none."""
  file = tfds_rows.file_of(file)
  return storage.size(file) if listing.is_file(file) else -1
