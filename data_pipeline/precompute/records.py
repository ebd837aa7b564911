"""Writes the precomputed data sets (states, units and unit words in their columns) and tables of
their sizes. Audio stays in the raw data sets; readers join it row by row.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from data_pipeline import dataset, index, parts, record_files, schema, selection
from data_pipeline.precompute.job import LANGUAGE, Job
from data_pipeline.precompute.progress import Bar
from data_pipeline.shards import Outputs
from echox_jax import storage, tensor_files
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
    step, has_states = f'data set {folder}', bool({*names} & {*job.choices.state_sets})
    if job.work.index == 0 and not all(map(job.work.all_finished, outputs.values())):
      # so that nobody reads old and new files as one data set
      (job.folder / folder / record_files.INFO).unlink(missing_ok=True)
    for name in names:
      _make_split(job, step, name, outputs[name], has_states)
    splits = {selection.split_name(name)[1]: some for name, some in outputs.items()}
    width = next(job.work.notes(next(iter(splits.values()))))['measured']['width']
    audio_of = {selection.split_name(name)[1]: job.raw_inputs(name) for name in names}
    job.products += record_files.publish(
      job.work, step, job.folder / folder, splits, width=width, about={dataset.AUDIO_OF: audio_of}
    )


def _make_split(job: Job, step: str, name: str, outputs: Outputs, has_states: bool) -> None:
  """Writes the files of one split."""
  has_units = name in job.choices.unit_sets
  language = None
  if has_units and not job.work.all_finished(outputs):
    language = UnitLanguage.load(job.folder / LANGUAGE)
  units = list(job.unit_parts(name)) if has_units else []
  split = _Split(name, list(outputs), has_states, units, language)
  with job.bar(f'writing {name}', name, outputs) as bar:
    job.work.run(step, outputs, functools.partial(_write_shard, job, split, bar))
  job.products += outputs
  if name in job.choices.state_sets:
    job.check_heard(name, 'user', outputs)


def _write_shard(job: Job, split: _Split, bar: Bar, i: int, beside: Path) -> dict[str, Any]:
  """Writes one file of a split."""
  hears = split.name in job.choices.state_sets
  width = job.encoder('speech').width if split.has_states else 1
  states, heard = _user_states(job, split, i, width, bar) if hears else (iter(()), dict)
  units, words = parts.iterate_parts(split.units[i : i + 1]), 0

  def with_columns(turn: schema.Turn, samples: int) -> schema.Turn:
    nonlocal words
    if split.units and turn.role == 'assistant' and samples:
      own = next(units)
      unit_words = split.language.encode(kmeans.reduce_units(own)[0])
      words += len(unit_words)
      return dataclasses.replace(turn, units=own, unit_words=unit_words)
    if hears and turn.role == 'user' and samples:
      return dataclasses.replace(turn, states=np.asarray(next(states)))
    return turn

  def records() -> Iterator[dict[str, Any]]:
    for number in bar.watch(job.records[split.name][i]):
      stored = job.turns[split.name][number]
      said, samples = schema.decode_texts(stored), stored['audio_lengths']
      example = schema.Example(said.id, tuple(map(with_columns, said.turns, samples)))
      record = schema.encode(example, width=width)
      # states replace audio; other audio is not far: `dataset.WithAudio`
      yield record | {'audio_lengths': np.where(record['state_lengths'], 0, samples)}

  written = record_files.write(beside, records(), width)
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
  for name in job.turns:
    _count_tokens(job, name)
  wanted = [
    *((job.raw, name, job.folder) for name in job.asked),
    *((job.folder, name, job.folder) for name in job.sets),
    *((job.folder, name, None) for name in job.choices.unit_sets),
  ]
  for folder, name, tokenizer in wanted[job.work.index :: job.work.count]:
    index.open_table(
      job.folder,
      folder,
      *selection.split_name(name),
      tokenizer,
      tokens=map(_read_tokens, job.token_parts(name)),
    )
  job.work.meet('the tables are there')
  job.work.keep_only(
    [
      index.table_path(job.folder, folder, *selection.split_name(name), tokenizer)
      for folder, name, tokenizer in wanted
    ]
  )


def _count_tokens(job: Job, name: str) -> None:
  """Counts the tokens of every turn of a set; raw and precomputed sets have the same turns."""
  outputs = job.token_parts(name)
  counter = index.TokenCounter(job.raw, *selection.split_name(name), job.folder)

  def count(i: int, beside: Path) -> None:
    parts.write_arrays(beside, {'tokens': counter(job.records[name][i])})

  job.work.run('tokens', outputs, count)
  job.work.keep_only(outputs)


def _read_tokens(path: Path) -> np.ndarray:
  return tensor_files.open_tensors(path)['tokens']
