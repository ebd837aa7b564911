"""Writes the precomputed data sets (states, units and unit words in their columns) and tables of
their sizes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from data_pipeline import dataset, index, parts, record_files, schema, selection
from data_pipeline.fingerprints import fingerprint
from data_pipeline.precompute.job import LANGUAGE, Job
from data_pipeline.precompute.progress import Bar
from data_pipeline.shards import Outputs
from echox_jax import storage
from echox_jax.storage import Path
from echox_jax.units import extract, kmeans
from echox_jax.units.unit_language import UnitLanguage


@dataclasses.dataclass(frozen=True)
class _Split:
  """One split to write.

  Attributes:
    name: `set/split`.
    paths: its files, one per shard.
    has_states: whether any split of its data set has states, which sets the width of the column.
    units: files of its units; empty if it gets no units.
    language: turns units into unit words.
  """

  name: str
  paths: Sequence[Path]
  has_states: bool
  units: Sequence[Path]
  language: UnitLanguage | None


def make_datasets(job: Job) -> None:
  """Writes the data sets with states, units and unit words."""
  for folder in dict.fromkeys(selection.split_name(name)[0] for name in job.sets):
    names = [name for name in job.sets if selection.split_name(name)[0] == folder]
    outputs = {name: job.record_files(name) for name in names}
    step = f'data set {folder}'
    features, info = (job.folder / folder / name for name in (record_files.FEATURES, dataset.INFO))
    inputs = fingerprint([list(some.values()) for some in outputs.values()])
    if job.work.index == 0 and not job.work.finished(info, inputs):
      info.unlink(missing_ok=True)  # so that nobody reads old and new files as one data set
    for name in names:
      has_states = bool({*names} & {*job.choices.state_sets})
      _make_split(job, step, name, outputs[name], has_states)
    written = {
      name: [note['measured'] for note in job.work.notes(some)] for name, some in outputs.items()
    }
    job.work.keep_only([features, info, *(path for some in outputs.values() for path in some)])
    for path in (features, info):
      job.make(step, path, inputs, functools.partial(_write_metadata, written))


def _write_metadata(written: Mapping[str, Sequence[Mapping[str, Any]]], beside: Path) -> None:
  splits = {selection.split_name(name)[1]: measured for name, measured in written.items()}
  width = next(iter(written.values()))[0]['width']
  record_files.write_metadata(beside, splits, width)


def _make_split(job: Job, step: str, name: str, outputs: Outputs, has_states: bool) -> None:
  """Writes the files of one split."""
  has_units = name in job.choices.unit_sets
  language = None
  if has_units and job.work.unfinished(outputs):
    language = UnitLanguage.load(job.folder / LANGUAGE)
  units = list(job.unit_parts(name)) if has_units else []
  split = _Split(name, list(outputs), has_states, units, language)
  with job.bar(f'writing {name}', name, outputs) as bar:
    job.work.run(step, outputs, functools.partial(_write_shard, job, split, bar))
  job.products += outputs
  if name in job.choices.state_sets:
    job.check_heard(name, 'user', outputs)


def _write_shard(job: Job, split: _Split, bar: Bar, i: int, beside: Path) -> dict[str, Any]:
  """Writes one file of a split. Audio is dropped where states replace it."""
  hears = split.name in job.choices.state_sets
  width = job.encoder('speech').width if split.has_states else 1
  states, heard = _user_states(job, split, i, width, bar) if hears else (iter(()), dict)
  units, words = parts.iterate_parts(split.units[i : i + 1]), 0

  def with_columns(turn: schema.Turn) -> schema.Turn:
    nonlocal words
    if split.units and turn.role == 'assistant' and len(turn.audio):
      own = next(units)
      unit_words = split.language.encode(kmeans.reduce_units(own)[0])
      words += len(unit_words)
      return dataclasses.replace(turn, units=own, unit_words=unit_words)
    if hears and turn.role == 'user' and len(turn.audio):
      return dataclasses.replace(turn, states=np.asarray(next(states)), audio=np.zeros(0, np.int16))
    return turn

  def examples() -> Iterator[schema.Example]:
    for record in bar.watch(job.records[split.name][i]):
      example = schema.decode(job.sources[split.name][record])
      yield schema.Example(example.id, tuple(map(with_columns, example.turns)))

  written = record_files.write(beside, examples(), width)
  return {**written, **heard(), 'width': width, 'words': words}


def _user_states(
  job: Job, split: _Split, i: int, width: int, bar: Bar
) -> tuple[Iterator[np.ndarray], Callable[[], dict[str, Any]]]:
  """The final encoder states of the user clips in a shard, and a function that returns what was
  heard once they are consumed.

  If only units have changed, the states come from the earlier file.
  """
  path, made_from = split.paths[i], job.states_inputs(split.name, 'user')
  before = job.work.note(path).get('measured', {})
  if storage.is_file(path) and before.get('states') == made_from:
    kept = (
      turn.states
      for example in record_files.read(path, width)
      for turn in example.turns
      if len(turn.states)
    )
    return kept, lambda: {key: before[key] for key in ('clips', 'seconds', 'states')}
  clips = parts.Clips(job.sources[split.name], 'user', job.records[split.name][i])
  encoded = extract.encode_clips(
    job.encoder('speech'), clips, job.choices.batch_seconds, ('final',)
  )
  return (clip.final for clip in encoded), lambda: {**bar.heard(clips), 'states': made_from}


def make_tables(job: Job) -> None:
  """Makes the tables of sizes (`index`) of all data sets that the stages read.

  With them no host has to read a whole set before it trains.
  """
  # Raw sets are read for their questions and transcripts. The vocoder stage reads units and needs
  # no token counts.
  trained_on = (n for n in job.experiment.data.sets if n not in job.choices.unit_sets)
  asked = dict.fromkeys((*job.choices.state_sets, *trained_on))
  raw = [n for n in asked if dataset.dataset_exists(job.raw, selection.split_name(n)[0])]
  wanted = [
    *((job.raw, name, job.folder) for name in raw),
    *((job.folder, name, job.folder) for name in job.sets),
    *((job.folder, name, None) for name in job.choices.unit_sets),
  ]
  for folder, name, tokens in wanted[job.work.index :: job.work.count]:
    index.open_table(
      job.folder, folder, *selection.split_name(name), tokens, job.experiment.data.workers
    )
  job.work.meet('the tables are there')
