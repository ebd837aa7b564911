"""Batches for the training stages: a Grain pipeline over the rows of `selection.py`.

The global order is a function of seed and epoch. The randomness within a row is a function of seed
and place in that order. So a batch depends only on its number: a resumed run continues with exactly
the same batches, however many processes share their rows. With `data.weights` each set appears in
proportion to its weight, in its own order (`mixing.py`).

With `data.buckets` the clips of a batch belong to one length bucket and are padded only to its
length. With `data.packing` a row holds as many examples as fit, one after the other. Their sizes
decide which examples share a row (`packing.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import functools
import sys
from typing import Any

from absl import flags
import grain
import numpy as np

from data_pipeline import mixing, packing, rows, selection, waveforms
from echox_jax import errors
from echox_jax.prompts import IGNORE
from echox_jax.storage import Path
from echox_jax.training.experiment import DataConfig, ExperimentConfig

_PREFETCHED = 4  # batches
# Up to this many rows Grain's own shuffle is as good as random. Beyond it is not: with a million
# rows, neighbouring rows have numbers that correlate by 0.4 (it is a cipher of four rounds).
_FEW = 2**14
_PACKED_STAGES = ('text', 's2t', 't2c')


def make_iterator(
  experiment: ExperimentConfig, workdir: str | Path, share: Sequence[int] | None = None
) -> 'BatchIterator':
  """An endless iterator of the batches of `experiment.stage`, or of this process's share of each.

  Args:
    experiment: stage, data sizes, seed, and `train.batch_size`: rows of a batch over all processes.
    workdir: working folder with `data` and `precomputed`.
    share: which rows of each batch to return, 0 to batch_size - 1; None = all.

  Returns:
    an iterator of dicts of arrays, with B = number of returned rows:
      text: input_ids, labels int32[B,T];
      align: ctc_labels and speech alone, as in s2t;
      s2t, echo: also ctc_labels int32[B,C], states float16[B,E,D] and state_lengths int32[B]; with
        `data.cached_states` off, audio float32[B,S] and audio_lengths int32[B] instead of states;
        echo with recorded targets: unit_words int32[B,W], right-padded with -1;
      t2c: input_ids, labels int32[B,T];
      text, s2t, t2c with `data.packing`: also segments int32[B,T]; clips and ctc_labels have an
      axis of clips after B;
      vocoder: units int32[B,F], audio float32[B,F*hop], real_frames int32[B], reduced_units,
        durations int32[B,R].
    T, C, E, W, F, R are `max_tokens`, `max_ctc_labels`, `max_states`, `max_unit_words`,
    `segment_frames`, `max_reduced_units` of the config's `data`.

  Raises:
    ConfigError: no rows, an unknown stage, or packing or buckets that the stage does not support.
    DataError: the data is missing, or no row of it fits.
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

    def examples(number):
      return [[chosen.name(index) for _, index in row] for row in plan[number].rows]

    return BatchIterator(batches, batch_size, experiment.data.workers, is_first_pass, examples)
  stream = ordered(chosen, experiment).random_map(Finish(experiment))
  places = ordered(chosen, experiment, range(len(chosen)))
  dataset = grain.MapDataset.range(len(stream) // batch_size).map(Gather(stream, batch_size, share))

  def is_first_pass(number):
    return not experiment.data.weights and (number + 1) * batch_size <= len(chosen)

  def examples(number):
    rows = range(number * batch_size, (number + 1) * batch_size)
    return [[chosen.name(places[row])] for row in rows]

  return BatchIterator(dataset, batch_size, experiment.data.workers, is_first_pass, examples)


def ordered(
  chosen: selection.Selection, experiment: ExperimentConfig, items: Sequence[Any] | None = None
) -> grain.MapDataset:
  """The endless stream of rows: each epoch, or each pass of a set with a weight, takes every row
  once. It gives `items`, one for each row, in place of the rows' arrays.
  """
  items = chosen if items is None else items
  if experiment.data.weights or len(chosen) > _FEW:
    return mixing.mixture(experiment, chosen.rows).map(mixing.Taken(items)).seed(experiment.seed)
  return grain.MapDataset.source(items).seed(experiment.seed).shuffle().repeat()


def describe(experiment: ExperimentConfig, workdir: str | Path) -> dict[str, Any]:
  """Row counts of the stage: `stage`, `sets`, `rows` used in an epoch, and `left_out`, counts by
  reason.
  """
  chosen = selection.select(experiment, workdir)
  return {
    'stage': experiment.stage,
    'sets': list(experiment.data.sets),
    'rows': len(chosen),
    'left_out': dict(Counter(chosen.left_out)),
  }


def check_packing(experiment: ExperimentConfig) -> None:
  """Raises ConfigError if the stage cannot be packed, or has no clips to sort."""
  stage, data = experiment.stage, experiment.data
  if data.packing and stage not in _PACKED_STAGES:
    raise errors.ConfigError(
      f'stage {stage!r} takes one example per row: set data.packing to false '
      f'(it is for {", ".join(_PACKED_STAGES)}).'
    )
  if data.buckets and stage not in selection.HEARING_STAGES:
    raise errors.ConfigError(
      f'stage {stage!r} hears no clips: leave data.buckets empty (they are '
      f'for {", ".join(selection.HEARING_STAGES)}).'
    )
  if any(not 0 < bucket <= data.max_states for bucket in data.buckets):
    raise errors.ConfigError(
      f'data.buckets {data.buckets} are not all from 1 to data.max_states = '
      f'{data.max_states}: change them.'
    )


def check_augment(experiment: ExperimentConfig) -> None:
  """Raises ConfigError if augmentation settings make no sense, or are for states while the stage
  reads waveforms, or the other way round.
  """
  data, augment = experiment.data, experiment.data.augment
  wrong = ('speed', 'reverb', 'snr_db') if data.cached_states else ('time_warp', 'noise')
  named = [name for name in wrong if getattr(augment, name)]
  if named and experiment.stage in selection.HEARING_STAGES:
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
  """Plans which rows go into which batch. A batch's bucket is the length of its clips in states, 0
  in stages that do not hear.

  How many positions a clip keeps is known only once it is heard. The plan reserves one position for
  each spoken token and, unless they are dropped, for the blanks around them. Excess positions of a
  packed row are cut off at its end and counted (`overflow_positions`). Rows of a bucket have room
  for as many clips as fill a row on average, and for `most_clips` at most.

  Args:
    experiment: the job.
    chosen: the stage's rows, selection.ROW[N].
  """
  data, adapter = experiment.data, experiment.model.adapter
  plan = functools.partial(
    packing.BatchPlan,
    batch_size=experiment.train.batch_size,
    seed=experiment.seed,
    order=mixing.mixture(experiment, chosen) if data.weights else None,
  )
  hears = experiment.stage in selection.HEARING_STAGES
  ladder = np.asarray(sorted({*data.buckets, data.max_states}) if hears else [0])
  tokens, states = chosen['tokens'].astype(int), chosen['states'].astype(int)
  buckets = ladder[np.searchsorted(ladder, states)]
  if not data.packing:
    return plan(buckets, np.ones((len(chosen), 1), int), {int(b): (1,) for b in ladder})

  sizes, room = tokens[:, None], {0: (data.max_tokens,)}
  if hears:
    heard = states > 0
    runs = (1 if adapter.drop_blank else 2) * chosen['said'] + 1
    budget = adapter.shrink_budget
    kept = np.where(heard, np.minimum(np.minimum(budget, states // 2), runs) - 1, 0)
    length, positions = data.max_tokens + budget - 1, tokens + kept
    clips = {int(b): positions[heard & (buckets == b)] for b in ladder}
    sizes = np.stack([heard, tokens, positions], axis=1).astype(int)

    def fill(b, x):
      return min(most_clips(data, b), max(1, round(length / x.mean()))) if len(x) else 1

    room = {b: (fill(b, x), data.max_tokens, length) for b, x in clips.items()}
  return plan(buckets, sizes, room)


def most_clips(data: DataConfig, states: int) -> int:
  """The most clips that a packed row of the bucket `states` may have."""
  return max(1, data.max_row_states // states)


class BatchIterator:
  """Batches in order. The state is JSON: the number of examples (packed: rows) that all processes
  together have consumed.

  Args:
    batches: batches by number.
    batch_size: rows of a batch over all processes.
    workers: processes that read; 0 = a thread.
    is_first_pass: whether the batch of this number certainly has no repeated row. With
      `data.weights` this may be unknown, because each set starts again at a different time.
    examples: the names of the examples in each row of the batch of this number, of all processes
      (`Selection.name`).
  """

  def __init__(
    self,
    batches: grain.MapDataset,
    batch_size: int,
    workers: int,
    is_first_pass: Callable[[int], bool],
    examples: Callable[[int], list[list[dict[str, Any]]]],
  ):
    self._batches, self._batch_size, self._workers, self._is_first_pass, self.examples = (
      batches,
      batch_size,
      workers,
      is_first_pass,
      examples,
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
    """The state for `set_state`: the place of the next batch, prefetched or not."""
    return {'examples': self._done * self._batch_size}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a place without reading the batches before it.

    Raises:
      DataError: no batch starts there.
    """
    if state['examples'] % self._batch_size:
      raise errors.DataError(
        f'a run that stopped after {state["examples"]} examples cannot go on in batches of '
        f'{self._batch_size}: set train.batch_size back.'
      )
    self._done, self._reader = state['examples'] // self._batch_size, None

  def distinct(self, most: int) -> int:
    """How many of the first batches, at most `most`, come before the first batch with a repeated
    row.
    """
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
  """The requested rows of a batch, by batch number."""

  stream: grain.MapDataset
  batch_size: int
  share: tuple[int, ...]

  def __call__(self, number: int) -> selection.Arrays:
    return rows.stack([self.stream[number * self.batch_size + row] for row in self.share])


@dataclasses.dataclass(frozen=True)
class GatherPlanned:
  """The requested rows of a planned batch, by batch number."""

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
  """Augments a row and gives it its static shape: augmentation, segment, padding."""

  experiment: ExperimentConfig

  def __call__(self, row: selection.Arrays, rng: np.random.Generator) -> selection.Arrays:
    """One example, in a row of the largest bucket."""
    data = self.experiment.data
    if data.packing:
      return self.packed([(row, rng)], data.max_states, most_clips(data, data.max_states))
    return self.plain(row, rng, data.max_states)

  def plain(self, row: selection.Arrays, rng: np.random.Generator, states: int) -> selection.Arrays:
    """One example, with its clip padded to `states`."""
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
    """Examples one after the other; their clips are stacked: `clips` of them, each padded to
    `states`.
    """
    data, special = self.experiment.data, self.experiment.model.special_ids
    out = rows.pack([row for row, _ in examples], data.max_tokens, special.pad)
    if self.experiment.stage not in selection.HEARING_STAGES:
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
    """The empty speech of a written question."""
    return np.zeros((0, self.experiment.model.whisper.hidden_size), np.float16)
