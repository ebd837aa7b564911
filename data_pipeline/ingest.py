"""From a source of recordings to data sets: read, decode, leave out unusable items, write.

Exchanges and dialogues become two sets: `questions` (train, test: whole conversations, with the
audio of the user's turns) and `answers` (train, holdout: the assistant's turns that have audio).
Transcribed speech becomes `transcripts` (train, dev, test: the user says what the assistant writes
down; category `asr`).

Either every set is written or none: they are made beside `data_dir` and moved in at the end. The
same source always gives the same bytes, however many processes decode.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import dataset, decoding, quarantine, readers, schema
from data_pipeline.quarantine import Entry, Quarantine, Unusable
from data_pipeline.readers.items import Item
from data_pipeline.schema import Example
from echox_jax import rates, storage
from echox_jax.errors import ConfigError, DataError, EchoXError
from echox_jax.storage import Path

HELD_OUT = 0.05  # share of the items held out for tests if the source names no splits
_PAIRED = {
  'questions': {'train': 'train', 'test': 'test'},
  'answers': {'train': 'train', 'test': 'holdout'},
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a job tolerates: the longest recording in seconds, and the share of items that may be
  unusable.
  """

  max_seconds: float = 30.0
  max_quarantined: float = 0.05


@dataclasses.dataclass(frozen=True)
class PlannedExample:
  """A planned example: its turns and the recording of each turn, empty = none."""

  id: str
  turns: tuple[schema.Turn, ...]
  recordings: tuple[str, ...]


Plans = dict[str, dict[str, list[PlannedExample]]]  # by set and split


def build(
  reader: str,
  source: str | os.PathLike[str],
  data_dir: str | os.PathLike[str],
  *,
  prefix: str = '',
  limits: Limits = Limits(),
  keep_encoded: bool = False,
  workers: int = 0,
  progress: bool = False,
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
    workers: processes that decode; 0 or 1 = this one.
    progress: whether to show a bar with the time left.

  Returns:
    `sets`: examples and hours of each, by `name/split`; `quarantined`: items left out, by reason;
      `quarantined_share`.

  Raises:
    DataError: the source as a whole is broken, or too much of it or a whole split is unusable. Then
      only a list of the unusable items is written, `<data_dir>.quarantine.jsonl`.
    ConfigError: an unknown reader, or limits that make no sense.
  """
  source, data_dir = storage.path(source), storage.path(data_dir)
  if not (0 <= limits.max_quarantined <= 1 and limits.max_seconds > 0):
    raise ConfigError(
      'max_quarantined is a share from 0 to 1, and max_seconds more than 0: correct them.'
    )
  if not storage.exists(source):
    raise DataError(f'there is no {source}: check the path.')
  chosen, refused = readers.get(reader), Quarantine(str(source), limits.max_quarantined)
  list_of_refused = data_dir.with_name(f'{data_dir.name}.{quarantine.FILE}')
  try:
    plans = {prefix + name: splits for name, splits in _plan(chosen, source, refused).items()}
    with _staging(data_dir) as beside:
      notes = _write(plans, beside, refused, limits, keep_encoded, workers, progress)
      storage.make_folder(data_dir)
      refused.write(data_dir / quarantine.FILE)
      for name, note in notes.items():
        _replace(data_dir / name, beside)
        storage.atomic_write_json(data_dir / f'{name}.json', note)
  except EchoXError:
    refused.write(list_of_refused)
    raise
  list_of_refused.unlink(missing_ok=True)
  sets = {
    f'{name}/{split}': counts
    for name, note in notes.items()
    for split, counts in note['splits'].items()
  }
  total = len(refused.entries) + sum(counts['examples'] for counts in sets.values())
  return {
    'sets': sets,
    'quarantined': refused.counts(),
    'quarantined_share': round(len(refused.entries) / total, 4),
  }


# Planning the examples.


def _plan(reader: readers.Reader, source: Path, refused: Quarantine) -> Plans:
  """Reads the source; returns the examples of every set and split in the source's order."""
  items = list(usable_sound(reader.read(source), refused))
  plans = _transcripts(items) if reader.transcripts else _exchanges(_with_splits(items))
  total = sum(len(chosen) for splits in plans.values() for chosen in splits.values())
  refused.expect(total + len(refused.entries))
  if not total:
    raise DataError(f'{source} has no item that can be used: correct it.')
  missing = [
    f'{name}/{split}'
    for name, splits in plans.items()
    for split, chosen in splits.items()
    if not chosen
  ]
  if missing:
    name, split = missing[0].split('/')
    raise DataError(
      f'{source} has nothing for {missing[0]}: add items with {name[:-1]}_audio and '
      f'"split": "{"train" if split == "train" else "test"}".'
    )
  return plans


def usable_sound(found: Iterable[Item | Entry], refused: Quarantine) -> Iterator[Item]:
  """The items with unique ids and existing recordings; the others are refused."""
  seen = {}
  for item in found:
    if isinstance(item, Item) and item.id in seen:
      item = Entry(
        item.id, item.where, 'duplicate id', f'repeats the id {item.id!r} of {seen[item.id]}'
      )
    if isinstance(item, Item):
      seen[item.id] = item.where
      missing = next((file for file in item.recordings if file and not decoding.exists(file)), None)
      if missing is not None:
        item = Entry(item.id, missing, 'missing file', f'does not exist, but {item.where} names it')
    if isinstance(item, Entry):
      refused.add(item)
    else:
      yield item


def _with_splits(items: list[Item]) -> list[Item]:
  """The items, each with a split. If the source names no splits, the ids decide among the items
  that feed the same sets.
  """
  if any(item.split for item in items):
    return [item if item.split else dataclasses.replace(item, split='train') for item in items]
  kinds: dict[tuple[bool, ...], list[Item]] = {}
  for item in items:
    kinds.setdefault((_heard(item), _spoken(item)), []).append(item)
  held = set()
  for kind in kinds.values():
    ranked = sorted(kind, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    held |= (
      {item.id for item in ranked[: max(1, round(HELD_OUT * len(kind)))]}
      if len(kind) > 1
      else set()
    )
  return [dataclasses.replace(item, split='test' if item.id in held else 'train') for item in items]


def _heard(item: Item) -> bool:
  return any(turn.role == 'user' and file for turn, file in zip(item.turns, item.recordings))


def _spoken(item: Item) -> bool:
  return any(turn.role == 'assistant' and file for turn, file in zip(item.turns, item.recordings))


def _exchanges(items: list[Item]) -> Plans:
  sets = {'questions': (_heard, _question), 'answers': (_spoken, _answer)}
  return {
    name: {
      split: [make(item) for item in items if has(item) and item.split == named]
      for named, split in _PAIRED[name].items()
    }
    for name, (has, make) in sets.items()
    if any(map(has, items))
  }


def _question(item: Item) -> PlannedExample:
  recordings = tuple(
    file if turn.role == 'user' else '' for turn, file in zip(item.turns, item.recordings)
  )
  return PlannedExample(item.id, item.turns, recordings)


def _answer(item: Item) -> PlannedExample:
  spoken = [
    (turn, file)
    for turn, file in zip(item.turns, item.recordings)
    if turn.role == 'assistant' and file
  ]
  return PlannedExample(item.id, *map(tuple, zip(*spoken)))


def _transcripts(items: list[Item]) -> Plans:
  splits: dict[str, list[PlannedExample]] = {}
  for item in items:
    splits.setdefault(item.split, []).append(PlannedExample(item.id, item.turns, item.recordings))
  return {'transcripts': splits} if splits else {}


# Making the sets.


def _write(
  plans: Plans,
  folder: Path,
  refused: Quarantine,
  limits: Limits,
  keep_encoded: bool,
  workers: int,
  progress: bool,
) -> dict[str, dict[str, Any]]:
  """Writes the sets into `folder`. Each set has a note: examples and hours of its splits, and a
  fingerprint of its content.
  """
  notes = {}
  every = [plan for splits in plans.values() for chosen in splits.values() for plan in chosen]
  clips = sum(bool(file) for plan in every for file in plan.recordings)
  decode = functools.partial(decoding.decode, max_seconds=limits.max_seconds)
  with (
    decoding.Workers(decode, workers) as pool,
    tqdm(total=clips, desc='decoding', unit='clip', disable=not progress, mininterval=1.0) as bar,
  ):
    for name, splits in plans.items():
      counts, digest = {split: {'examples': 0, 'hours': 0.0} for split in splits}, hashlib.sha256()

      def examples(
        split: str,
        chosen: list[PlannedExample],
        name: str = name,
        counts: dict = counts,
        digest: Any = digest,
      ) -> Iterator[Example]:
        samples = 0
        decoded = pool.map(file for plan in chosen for file in plan.recordings if file)
        for plan in chosen:
          audio = [next(decoded) if file else np.zeros(0, np.int16) for file in plan.recordings]
          bar.update(sum(map(bool, plan.recordings)))
          wrong = [
            (file, found)
            for file, found in zip(plan.recordings, audio)
            if isinstance(found, Unusable)
          ]
          if wrong:
            file, why = wrong[0]
            refused.add(Entry(plan.id, file, why.reason, why.detail, name))
            continue
          recordings = [
            decoding.encoded(file) if keep_encoded and file else np.zeros(0, np.uint8)
            for file in plan.recordings
          ]
          example = Example(
            plan.id,
            tuple(
              dataclasses.replace(turn, audio=clip, recording=data)
              for turn, clip, data in zip(plan.turns, audio, recordings)
            ),
          )
          record = schema.encode(example)
          digest.update(
            repr((split, record['id'], record['turns'])).encode()
            + record['audio_lengths'].tobytes()
            + record['audio'].tobytes()
          )
          counts[split]['examples'] += 1
          samples += len(record['audio'])
          counts[split]['hours'] = round(samples / rates.SAMPLE_RATE / 3600, 4)
          yield example

      dataset.write_dataset(
        folder,
        name,
        {split: examples(split, chosen) for split, chosen in splits.items()},
        keep_encoded=keep_encoded,
      )
      notes[name] = {'fingerprint': digest.hexdigest(), 'splits': counts}
  return notes


@contextlib.contextmanager
def _staging(data_dir: Path) -> Iterator[Path]:
  """An empty local folder, beside `data_dir` on local disk, that is deleted at the end."""
  if storage.is_remote(data_dir):
    with tempfile.TemporaryDirectory(prefix='echox-jax-') as folder:
      yield pathlib.Path(folder)
    return
  data_dir.parent.mkdir(parents=True, exist_ok=True)
  storage.remove_leftovers(data_dir.parent, data_dir.name)
  beside = data_dir.with_name(storage.temporary_name(data_dir.name))
  beside.mkdir()
  try:
    yield beside
  finally:
    shutil.rmtree(beside, ignore_errors=True)


def _replace(target: Path, beside: Path) -> None:
  """Replaces the data set `target` by the new one of the same name in `beside`."""
  if storage.is_remote(target):
    storage.upload_folder(beside / target.name, target, dataset.INFO)
    return
  if target.exists():
    os.replace(target, beside / f'{target.name}.old')
  os.replace(beside / target.name, target)
