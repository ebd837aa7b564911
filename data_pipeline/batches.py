"""Batches for the training stages: a Grain pipeline over the rows of `selection.py`.

The global order is a function of seed and epoch, and what is random in a row one of seed and place
in that order. So a batch follows from its number: a resumed run goes on with the very same batches,
whatever number of processes shares their rows. With `data.weights` sets come as often as those say,
each in an order of its own (`mixing.py`).

With `data.buckets` the clips of a batch are of one length class, and no longer padded than that.
With `data.packing` a row holds as many examples as find room in it, one behind the other. Which
stand where is planned from their sizes (`packing.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import functools
from pathlib import Path
import sys
from typing import Any

from absl import flags
import grain
import numpy as np

from data_pipeline import mixing, packing, rows, selection, waveforms
from echox_jax import errors
from echox_jax.prompts import IGNORE
from echox_jax.training.experiment import DataConfig, ExperimentConfig

_PREFETCHED = 4  # batches
# Up to so many rows Grain's own shuffle is as good as random. Of more it is not: of a million, rows
# that follow one another have numbers that correlate by 0.4 (it is a cipher of four rounds).
_FEW = 2**14
_PACKED_STAGES, _HEARING_STAGES = ('text', 's2t', 't2c'), ('s2t', 'echo')


def make_iterator(
  experiment: ExperimentConfig, workdir: str | Path, share: Sequence[int] | None = None
) -> 'BatchIterator':
  """An endless iterator of the batches of `experiment.stage`, or of this process's share of each.

  Args:
    experiment: stage, data sizes, seed, and `train.batch_size`: rows of a batch over all processes.
    workdir: working folder with `data` and `precomputed`.
    share: which rows of each batch are wanted, 0 to batch_size - 1; None = all.

  Returns:
    an iterator of dicts of arrays, B being the number of rows wanted:
      text: input_ids, labels int32[B,T];
      s2t, echo: also ctc_labels int32[B,C], states float16[B,E,D] and state_lengths int32[B], or
        with `data.cached_states` off audio float32[B,S] and audio_lengths int32[B];
      t2c: input_ids, labels int32[B,T];
      text, s2t, t2c with `data.packing`: also segments int32[B,T]; clips and ctc_labels have an
      axis of clips after B;
      vocoder: units int32[B,F], audio float32[B,F*hop], real_frames int32[B], reduced_units,
        durations int32[B,R].
    T, C, E, F, R are `max_tokens`, `max_ctc_labels`, `max_states`, `segment_frames`,
    `max_reduced_units` of the config's `data`.

  Raises:
    ConfigError: no rows, an unknown stage, packing or buckets that the stage does not know.
    DataError: data that is missing, or none of which fits.
  """
  batch_size = experiment.train.batch_size
  if batch_size < 1:
    raise errors.ConfigError(f'train.batch_size is {batch_size}: make it at least 1.')
  share = tuple(range(batch_size) if share is None else share)
  check_packing(experiment)
  check_augment(experiment)
  chosen = selection.select(experiment, workdir)
  if chosen.left_out and 0 in share:
    print(
      f'stage {experiment.stage}: {len(chosen)} rows of {", ".join(experiment.data.sets)}; '
      f'left out {selection.in_words(chosen.left_out)}.',
      file=sys.stderr,
    )
  if experiment.data.packing or experiment.data.buckets:
    plan = make_plan(experiment, chosen.rows)
    batches = grain.MapDataset.range(mixing.ENDLESS).map(
      GatherPlanned(chosen, plan, Finish(experiment), share)
    )

    def is_first_pass(number):
      return not any(turn for row in plan[number].rows for turn, _ in row)

    return BatchIterator(batches, batch_size, experiment.data.workers, is_first_pass)
  stream = ordered(chosen, experiment).random_map(Finish(experiment))
  dataset = grain.MapDataset.range(len(stream) // batch_size).map(Gather(stream, batch_size, share))

  def is_first_pass(number):
    return not experiment.data.weights and (number + 1) * batch_size <= len(chosen)

  return BatchIterator(dataset, batch_size, experiment.data.workers, is_first_pass)


def ordered(chosen: selection.Selection, experiment: ExperimentConfig) -> grain.MapDataset:
  """The endless stream of rows: each epoch, or each pass of a set that has a weight, takes every
  row once.
  """
  if experiment.data.weights or len(chosen) > _FEW:
    return mixing.mixture(experiment, chosen.rows).map(mixing.Taken(chosen)).seed(experiment.seed)
  return grain.MapDataset.source(chosen).seed(experiment.seed).shuffle().repeat()


def describe(experiment: ExperimentConfig, workdir: str | Path) -> dict[str, Any]:
  """How many rows the stage has: `stage`, `sets`, `rows` used in an epoch, and `left_out`, counts
  by reason.
  """
  chosen = selection.select(experiment, workdir)
  return {
    'stage': experiment.stage,
    'sets': list(experiment.data.sets),
    'rows': len(chosen),
    'left_out': dict(Counter(chosen.left_out)),
  }


def check_packing(experiment: ExperimentConfig) -> None:
  """Raises ConfigError where the stage cannot be packed, or has no clips to sort."""
  stage, data = experiment.stage, experiment.data
  if data.packing and stage not in _PACKED_STAGES:
    raise errors.ConfigError(
      f'stage {stage!r} takes one example a row: set data.packing to false '
      f'(it is for {", ".join(_PACKED_STAGES)}).'
    )
  if data.buckets and stage not in _HEARING_STAGES:
    raise errors.ConfigError(
      f'stage {stage!r} hears no clips: leave data.buckets empty (they are '
      f'for {", ".join(_HEARING_STAGES)}).'
    )
  if any(not 0 < bucket <= data.max_states for bucket in data.buckets):
    raise errors.ConfigError(
      f'data.buckets {data.buckets} are not all from 1 to data.max_states = '
      f'{data.max_states}: change them.'
    )


def check_augment(experiment: ExperimentConfig) -> None:
  """Raises ConfigError where variations make no sense, or are of states where waveforms are read or
  the other way round.
  """
  data, augment = experiment.data, experiment.data.augment
  wrong = ('speed', 'reverb', 'snr_db') if data.cached_states else ('time_warp', 'noise')
  named = [name for name in wrong if getattr(augment, name)]
  if named and experiment.stage in _HEARING_STAGES:
    what = (
      'waveforms: set data.cached_states to False'
      if data.cached_states
      else 'cached states: set data.cached_states to True'
    )
    raise errors.ConfigError(f'data.augment.{named[0]} is for {what}, or leave it out.')
  shares = {
    name: getattr(augment, name) for name in ('time_mask', 'feature_mask', 'time_warp', 'speed')
  }
  for name, value in shares.items():
    if not 0 <= value < 1:
      raise errors.ConfigError(
        f'data.augment.{name} is {value}: it must be at least 0 and below 1.'
      )
  if augment.reverb < 0 or augment.noise < 0:
    raise errors.ConfigError(
      'data.augment.reverb and data.augment.noise cannot be below 0: correct them.'
    )
  if augment.snr_db and (len(augment.snr_db) != 2 or augment.snr_db[0] > augment.snr_db[1]):
    raise errors.ConfigError(
      f'data.augment.snr_db is {augment.snr_db}: give the lowest and the highest, in dB.'
    )


def make_plan(experiment: ExperimentConfig, chosen: np.ndarray) -> packing.BatchPlan:
  """Which rows stand in which batch. A batch's bucket is the length of its clips in states, 0 in
  stages that do not hear.

  How many positions a clip keeps is known only when it is heard: a place is kept for one a token
  that was said, and the blanks around them. What a packed row has too many is cut off at its end
  and counted (`overflow_positions`). Rows of a bucket have room for as many clips as their
  dialogues fill a row on average, `most_clips` at most.

  Args:
    experiment: the job.
    chosen: the stage's rows, selection.ROW[N].
  """
  data, budget = experiment.data, experiment.model.adapter.shrink_budget
  plan = functools.partial(
    packing.BatchPlan,
    batch_size=experiment.train.batch_size,
    seed=experiment.seed,
    order=mixing.mixture(experiment, chosen) if data.weights else None,
  )
  ladder = np.asarray(
    sorted({*data.buckets, data.max_states}) if experiment.stage in _HEARING_STAGES else [0]
  )
  tokens, states = chosen['tokens'].astype(int), chosen['states'].astype(int)
  buckets = ladder[np.searchsorted(ladder, states)]
  if not data.packing:
    return plan(buckets, np.ones((len(chosen), 1), int), {int(b): (1,) for b in ladder})

  sizes, room = tokens[:, None], {0: (data.max_tokens,)}
  if experiment.stage in _HEARING_STAGES:
    heard = states > 0
    kept = np.where(
      heard, np.minimum(np.minimum(budget, states // 2), 2 * chosen['said'] + 1) - 1, 0
    )
    length, positions = data.max_tokens + budget - 1, tokens + kept
    clips = {int(b): positions[heard & (buckets == b)] for b in ladder}
    sizes = np.stack([heard, tokens, positions], axis=1).astype(int)

    def fill(b, x):
      return min(most_clips(data, b), max(1, round(length / x.mean()))) if len(x) else 1

    room = {b: (fill(b, x), data.max_tokens, length) for b, x in clips.items()}
  return plan(buckets, sizes, room)


def most_clips(data: DataConfig, states: int) -> int:
  """Clips that a packed row of the bucket `states` may have."""
  return max(1, data.max_row_states // states)


class BatchIterator:
  """Batches in order. Its state, JSON, is the number of examples (packed: rows) that all processes
  together have taken.

  Args:
    batches: by number.
    batch_size: rows of a batch over all processes.
    workers: processes that read; 0 = a thread.
    is_first_pass: whether the batch of a number is known to have no row that has come before; of
      sets with `data.weights`, each of which begins anew in its own time, it may not be known.
  """

  def __init__(
    self,
    batches: grain.MapDataset,
    batch_size: int,
    workers: int,
    is_first_pass: Callable[[int], bool],
  ):
    self._batches, self._batch_size, self._workers, self._is_first_pass = (
      batches,
      batch_size,
      workers,
      is_first_pass,
    )
    self.set_state({'examples': 0})

  def __iter__(self) -> 'BatchIterator':
    return self

  def __next__(self) -> selection.Arrays:
    if self._reader is None:
      self._reader = self._start()
    batch = next(self._reader)
    self._done += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """What `set_state` goes on from: the place of the next batch, prefetched or not."""
    return {'examples': self._done * self._batch_size}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a place, without reading what lies before it.

    Raises:
      DataError: no batch begins there.
    """
    if state['examples'] % self._batch_size:
      raise errors.DataError(
        f'a run that stopped after {state["examples"]} examples cannot go on in batches of '
        f'{self._batch_size}: set train.batch_size back.'
      )
    self._done, self._reader = state['examples'] // self._batch_size, None

  def distinct(self, most: int) -> int:
    """How many of the first batches, `most` at most, come before one that has a row again."""
    return next((number for number in range(most) if not self._is_first_pass(number)), most)

  def _start(self) -> grain.DatasetIterator:
    dataset = self._batches[self._done :].to_iter_dataset(
      grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED)
    )
    if self._workers:
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its flags when it starts processes
      dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
    return iter(dataset)


@dataclasses.dataclass(frozen=True)
class Gather:
  """The wanted rows of a batch, by its number."""

  stream: grain.MapDataset
  batch_size: int
  share: tuple[int, ...]

  def __call__(self, number: int) -> selection.Arrays:
    return rows.stack([self.stream[number * self.batch_size + row] for row in self.share])


@dataclasses.dataclass(frozen=True)
class GatherPlanned:
  """The wanted rows of a batch that a plan tells, by its number."""

  chosen: selection.Selection
  plan: packing.BatchPlan
  finish: 'Finish'
  share: tuple[int, ...]

  def __call__(self, number: int) -> selection.Arrays:
    batch, experiment = self.plan[number], self.finish.experiment

    def example(epoch, index):
      return (self.chosen[index], np.random.default_rng((experiment.seed, epoch, index)))

    examples = ([example(*place) for place in batch.rows[row]] for row in self.share)
    if experiment.data.packing:
      clips = self.plan.room[batch.bucket][0]
      return rows.stack([self.finish.packed(some, batch.bucket, clips) for some in examples])
    return rows.stack([self.finish.plain(*one, batch.bucket) for (one,) in examples])


@dataclasses.dataclass(frozen=True)
class Finish:
  """The random part of a row, and its static shape: augmentation, segment, padding."""

  experiment: ExperimentConfig

  def __call__(self, row: selection.Arrays, rng: np.random.Generator) -> selection.Arrays:
    """One example, in a row of the longest bucket, the largest that there is."""
    data = self.experiment.data
    if data.packing:
      return self.packed([(row, rng)], data.max_states, most_clips(data, data.max_states))
    return self.plain(row, rng, data.max_states)

  def plain(self, row: selection.Arrays, rng: np.random.Generator, states: int) -> selection.Arrays:
    """One example; room for `states` of its clip."""
    data = self.experiment.data
    if self.experiment.stage == 'vocoder':
      hop = self.experiment.model.vocoder.code_hop_size
      return {
        **rows.segment(row['units'], row['audio'], data.segment_frames, hop, rng),
        **rows.runs(row['units'], data.max_reduced_units, rng),
      }
    fills, sizes = selection.token_fills(self.experiment), selection.token_sizes(data)
    out = {
      name: rows.pad(row[name], sizes[name][0], fill) for name, fill in fills.items() if name in row
    }
    return out | self._clip(row, rng, states) if 'ctc_labels' in row else out

  def packed(
    self, examples: Sequence[tuple[selection.Arrays, np.random.Generator]], states: int, clips: int
  ) -> selection.Arrays:
    """Examples one behind the other, their clips side by side, `clips` of them, each with room for
    `states`.
    """
    data, special = self.experiment.data, self.experiment.model.special_ids
    out = rows.pack([row for row, _ in examples], data.max_tokens, special.pad)
    if self.experiment.stage not in _HEARING_STAGES:
      return out
    size, fill = data.max_ctc_labels, IGNORE
    heard = [(row, rng) for row, rng in examples if special.audio in row['input_ids']]
    heard += [({'ctc_labels': np.zeros(0, np.int32)}, None)] * (clips - len(heard))
    return out | rows.stack(
      [
        {'ctc_labels': rows.pad(row['ctc_labels'], size, fill), **self._clip(row, rng, states)}
        for row, rng in heard
      ]
    )

  def _clip(
    self, row: selection.Arrays, rng: np.random.Generator | None, states: int
  ) -> selection.Arrays:
    data = self.experiment.data
    if data.cached_states:
      found = (
        rows.augment(row['states'], data.augment, rng, states)
        if 'states' in row
        else self._no_states
      )
      return {'states': rows.pad(found, states), 'state_lengths': np.int32(len(found))}
    longest = selection.max_samples(self.experiment, states)
    audio = (
      waveforms.augment(row['audio'], data.augment, rng, longest)
      if 'audio' in row
      else np.zeros(0, np.float32)
    )
    return {'audio': rows.pad(audio, longest), 'audio_lengths': np.int32(len(audio))}

  @property
  def _no_states(self) -> np.ndarray:
    """The speech of a written question."""
    return np.zeros((0, self.experiment.model.whisper.hidden_size), np.float16)
