"""Batches for the training stages: a Grain pipeline over the rows of `selection.py`.

The global order is a function of seed and epoch, and what is random in a row one of seed and place in that order. So a batch
follows from its number: a resumed run goes on with the very same batches, whatever number of processes shares their rows.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import sys
from typing import Any

from absl import flags
from data_pipeline import rows, selection
from echox_jax import errors
from echox_jax.training.experiment import ExperimentConfig
import grain
import numpy as np

_PREFETCHED = 4  # batches


def make_iterator(experiment: ExperimentConfig, workdir: str | Path, share: Sequence[int] | None = None) -> 'BatchIterator':
  """An endless iterator of the batches of `experiment.stage`, or of this process's share of each.

  Args:
    experiment: stage, data sizes, seed, and `train.batch_size`: rows of a batch over all processes.
    workdir: working folder with `data` and `precomputed`.
    share: which rows of each batch are wanted, 0 to batch_size - 1; None = all.

  Returns:
    an iterator of dicts of arrays, B being the number of rows wanted:
      text: input_ids, labels int32[B,T];
      s2t, echo: also ctc_labels int32[B,C], states float16[B,E,D] and state_lengths int32[B], or with `data.cached_states`
        off audio float32[B,S] and audio_lengths int32[B];
      t2c: input_ids, labels int32[B,T];
      vocoder: units int32[B,F], audio float32[B,F*hop], real_frames int32[B], reduced_units, durations int32[B,R].
    T, C, E, F, R are `max_tokens`, `max_ctc_labels`, `max_states`, `segment_frames`, `max_reduced_units` of the config's `data`.

  Raises:
    ConfigError: no rows, an unknown stage.
    DataError: data that is missing, or none of which fits.
  """
  batch_size = experiment.train.batch_size
  if batch_size < 1:
    raise errors.ConfigError(f'train.batch_size is {batch_size}: make it at least 1.')
  share = tuple(range(batch_size) if share is None else share)
  chosen = selection.select(experiment, workdir)
  if chosen.left_out and 0 in share:
    print(f'stage {experiment.stage}: {len(chosen)} rows; left out {selection.in_words(chosen.left_out)}.', file=sys.stderr)
  stream = grain.MapDataset.source(chosen).seed(experiment.seed).shuffle().repeat().random_map(Finish(experiment))
  dataset = grain.MapDataset.range(len(stream) // batch_size).map(Gather(stream, batch_size, share))
  return BatchIterator(dataset, batch_size, experiment.data.workers)


def describe(experiment: ExperimentConfig, workdir: str | Path) -> dict[str, Any]:
  """How many rows the stage has: `stage`, `sets`, `rows` used in an epoch, and `left_out`, counts by reason."""
  chosen = selection.select(experiment, workdir)
  return {'stage': experiment.stage, 'sets': list(experiment.data.sets), 'rows': len(chosen), 'left_out': dict(Counter(chosen.left_out))}


class BatchIterator:
  """Batches in order. Its state, JSON, is the number of examples that all processes together have taken.

  Args:
    batches: by number.
    batch_size: rows of a batch over all processes.
    workers: processes that read; 0 = a thread.
  """

  def __init__(self, batches: grain.MapDataset, batch_size: int, workers: int):
    self._batches, self._batch_size, self._workers = batches, batch_size, workers
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
          f'a run that stopped after {state["examples"]} examples cannot go on in batches of {self._batch_size}: set train.batch_size back.')
    self._done, self._reader = state['examples'] // self._batch_size, None

  def _start(self) -> grain.DatasetIterator:
    dataset = self._batches[self._done:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED))
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
class Finish:
  """The random part of a row, and its static shape: augmentation, segment, padding."""
  experiment: ExperimentConfig

  def __call__(self, row: selection.Arrays, rng: np.random.Generator) -> selection.Arrays:
    data = self.experiment.data
    if self.experiment.stage == 'vocoder':
      hop = self.experiment.model.vocoder.code_hop_size
      return {**rows.segment(row['units'], row['audio'], data.segment_frames, hop, rng),
              **rows.runs(row['units'], data.max_reduced_units, rng)}
    fills, sizes = selection.token_fills(self.experiment), selection.token_sizes(data)
    out = {name: rows.pad(row[name], sizes[name][0], fill) for name, fill in fills.items() if name in row}
    if 'ctc_labels' in row and data.cached_states:
      states = rows.augment(row['states'], data.augment, rng, data.max_states) if 'states' in row else self._no_states
      out |= {'states': rows.pad(states, data.max_states), 'state_lengths': np.int32(len(states))}
    elif 'ctc_labels' in row:
      audio = row.get('audio', np.zeros(0, np.float32))
      out |= {'audio': rows.pad(audio, selection.max_samples(self.experiment)), 'audio_lengths': np.int32(len(audio))}
    return out

  @property
  def _no_states(self) -> np.ndarray:
    """The speech of a written question."""
    return np.zeros((0, self.experiment.model.whisper.hidden_size), np.float16)
