"""Plans data sets: which items of a source become which examples of which set and split, in which
order.

Exchanges and dialogues become two sets: `questions` (train, test: whole conversations, with the
audio of the user's turns) and `answers` (train, holdout: the assistant's turns that have audio),
both with a split dev where the source has one.
Transcribed speech becomes `transcripts` (train, dev, test: the user says what the assistant writes
down; category `asr`).

A plan is stored in shards, so that the processes of a job read only what they write. No audio is
read for it, and no recording is looked at one by one.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import json
import os
from typing import Any

from data_pipeline import listing, schema, tfds_rows
from data_pipeline.corpus import voice_lines
from data_pipeline.quarantine import Entry, Quarantine
from data_pipeline.readers import Reader
from data_pipeline.readers import items as items_lib
from data_pipeline.readers.items import Item
from data_pipeline.shards import ranges
from echox_jax import storage
from echox_jax.errors import ConfigError, DataError
from echox_jax.storage import Path

HELD_OUT = 0.05  # share of the items held out for tests if the source names no splits
# split of an item -> that of its examples
_PAIRED = {
  'questions': {'train': 'train', 'dev': 'dev', 'test': 'test'},
  'answers': {'train': 'train', 'dev': 'dev', 'test': 'holdout'},
}
_INDEX = 'plan.json'


@dataclasses.dataclass(frozen=True)
class PlannedExample:
  """A planned example: its turns and the recording of each turn, empty = none."""

  id: str
  turns: tuple[schema.Turn, ...]
  recordings: tuple[str, ...]


Plans = dict[str, dict[str, list[PlannedExample]]]  # by set and split


@dataclasses.dataclass(frozen=True)
class StoredPlan:
  """A plan in shards.

  Attributes:
    folder: where it is.
    root: the folder that paths of recordings are relative to.
    sets: set -> split -> `[examples, sha256]` of each shard.
    refused: items that no set gets.
  """

  folder: Path
  root: Path
  sets: dict[str, dict[str, list[list[Any]]]]
  refused: list[Entry]

  @property
  def examples(self) -> int:
    """The number of examples of all sets."""
    return sum(
      count for splits in self.sets.values() for shards in splits.values() for count, _ in shards
    )

  def shard(self, name: str, split: str, i: int) -> list[PlannedExample]:
    """The examples of one shard."""
    lines = _shard_path(self.folder, name, split, i).read_text('utf-8').splitlines()
    return [_decode(json.loads(line), str(self.root)) for line in lines]


def make(
  reader: Reader, source: Path, refused: Quarantine, fields: Mapping[str, str] | None = None
) -> Plans:
  """Reads the list of a source and looks which recordings are there.

  Args:
    reader: the layout of the source.
    source: file or folder.
    refused: collects the items that cannot be used.
    fields: names of fields, for readers that take them.

  Returns:
    the examples of every set and split, in the order of the source.

  Raises:
    DataError: the source as a whole is broken, or lacks a split.
  """
  if fields and not reader.takes_fields:
    raise ConfigError('this reader takes no --fields: leave them out.')
  found = reader.read(source, fields) if reader.takes_fields else reader.read(source)
  items = list(usable_sound(found, refused, reader.forms))
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


def usable_sound(
  found: Iterable[Item | Entry], refused: Quarantine, forms: tuple[str, ...] = ()
) -> Iterator[Item]:
  """The items with unique ids and existing recordings, or voices that are installed; the others are
  refused. `forms`: see `readers.Reader`.
  """
  found, seen = list(found), {}
  recordings = (file for i in found if isinstance(i, Item) for file in i.recordings if file)
  named = dict.fromkeys(map(tfds_rows.file_of, recordings))
  spoken = [file for file in named if voice_lines.is_line(file)]
  named = [file for file in named if not voice_lines.is_line(file)]
  there = listing.listed(form for file in named for form in _forms(file, forms))
  # a disk may not tell `A.wav` from `a.wav`
  there |= listing.existing(file for file in named if there.isdisjoint(_forms(file, forms)))
  there |= voice_lines.installed(spoken)
  for item in found:
    if isinstance(item, Item) and item.id in seen:
      item = Entry(
        item.id, item.where, 'duplicate id', f'repeats the id {item.id!r} of {seen[item.id]}'
      )
    if isinstance(item, Item):
      seen[item.id] = item.where
      item = _with_recordings(item, there, forms)
    if isinstance(item, Entry):
      refused.add(item)
    else:
      yield item


def _forms(file: str, forms: tuple[str, ...]) -> list[str]:
  """Paths that the recording may have, the named one first."""
  if not forms:
    return [file]
  stem, suffix = os.path.splitext(file)
  return [file, *(stem + other for other in forms if other != suffix)]


def _with_recordings(item: Item, there: set[str], forms: tuple[str, ...]) -> Item | Entry:
  """The item with the paths that exist; refused if one does not."""
  recordings = []
  for file in item.recordings:
    ways = _forms(file, forms) if file else ['']
    existing = next((way for way in ways if not way or tfds_rows.file_of(way) in there), None)
    if existing is None and voice_lines.is_line(file):
      return Entry(item.id, file, 'no voice', voice_lines.lack(file))
    if existing is None:
      return Entry(item.id, file, 'missing file', f'does not exist, but {item.where} names it')
    recordings.append(existing)
  return dataclasses.replace(item, recordings=tuple(recordings))


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
  plans = {
    name: {
      split: [make(item) for item in items if has(item) and item.split == named]
      for named, split in _PAIRED[name].items()
    }
    for name, (has, make) in sets.items()
    if any(map(has, items))
  }
  for splits in plans.values():
    if not splits['dev']:
      del splits['dev']
  return plans


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


# Stored plans.


def store(folder: Path, plans: Plans, root: Path, refused: Iterable[Entry], size: int) -> None:
  """Writes a plan in shards of `size` examples; `load` reads it."""
  shards = [
    (name, split, i, chosen[numbers.start : numbers.stop])
    for name, splits in plans.items()
    for split, chosen in splits.items()
    for i, numbers in enumerate(ranges(len(chosen), size))
  ]

  def write(shard: tuple[str, str, int, list[PlannedExample]]) -> str:
    name, split, i, examples = shard
    text = ''.join(json.dumps(_encode(example, str(root))) + '\n' for example in examples)
    storage.atomic_write_text(_shard_path(folder, name, split, i), text)
    return hashlib.sha256(text.encode()).hexdigest()

  sets: dict[str, dict[str, list]] = {name: {split: [] for split in plans[name]} for name in plans}
  for (name, split, _, examples), digest in zip(shards, listing.each(write, shards)):
    sets[name][split].append([len(examples), digest])
  content = {'sets': sets, 'refused': [dataclasses.asdict(entry) for entry in refused]}
  storage.atomic_write_json(folder / _INDEX, content)


def load(folder: Path, root: Path) -> StoredPlan:
  """The plan that `store` wrote; `root`: as for `store`, as this process sees it."""
  content = json.loads((folder / _INDEX).read_text('utf-8'))
  return StoredPlan(folder, root, content['sets'], [Entry(**entry) for entry in content['refused']])


def _shard_path(folder: Path, name: str, split: str, i: int) -> Path:
  return folder / f'{name}-{split}' / f'{i:05d}.jsonl'


def _encode(example: PlannedExample, root: str) -> list[Any]:
  """JSON-ready; recordings below `root` are relative to it, for hosts that have it elsewhere."""
  turns = [[getattr(turn, field) for field in schema.TEXT_FIELDS] for turn in example.turns]
  prefix = os.path.join(root, '')
  return [example.id, turns, [file.removeprefix(prefix) for file in example.recordings]]


def _decode(values: list[Any], root: str) -> PlannedExample:
  name, turns, recordings = values
  fields = (dict(zip(schema.TEXT_FIELDS, turn)) for turn in turns)
  return PlannedExample(
    name,
    tuple(schema.Turn(**{**turn, 'references': tuple(turn['references'])}) for turn in fields),
    tuple(items_lib.recording(root, file) for file in recordings),
  )
