"""Batches for the training stages: a Grain pipeline over the rows of `selection.py`.

The order is a function of seed and epoch, and what is random in a row one of seed and position: a run that is resumed from
the iterator's state goes on with the very same batches.
"""

from collections import Counter
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


def make_iterator(experiment: ExperimentConfig, workdir: str | Path, process_index: int = 0, process_count: int = 1) -> grain.DatasetIterator:
  """An endless iterator of this process's share of the batches of `experiment.stage`.

  Args:
    experiment: stage, data sizes, seed, and `train.batch_size`: rows of a batch over all processes.
    workdir: working folder with `data` and `precomputed`.
    process_index: this process.
    process_count: number of processes; each takes every process_count-th row of one global order.

  Returns:
    a Grain iterator (`get_state`, `set_state`) of dicts of arrays with leading axis B = batch_size / process_count:
      text: input_ids, labels int32[B,T];
      s2t, echo: also ctc_labels int32[B,C], states float16[B,E,D] and state_lengths int32[B], or with `data.cached_states`
        off audio float32[B,S] and audio_lengths int32[B];
      t2c: input_ids, labels int32[B,T];
      vocoder: units int32[B,F], audio float32[B,F*hop], real_frames int32[B], reduced_units, durations int32[B,R].
    T, C, E, F, R are `max_tokens`, `max_ctc_labels`, `max_states`, `segment_frames`, `max_reduced_units` of the config's `data`.

  Raises:
    ConfigError: a batch size that the processes cannot share, an unknown stage.
    DataError: data that is missing, or none of which fits.
  """
  batch_size = experiment.train.batch_size
  if batch_size < 1 or batch_size % process_count:
    raise errors.ConfigError(f'train.batch_size is {batch_size}: make it a multiple of the {process_count} processes.')
  chosen = selection.select(experiment, workdir)
  if chosen.left_out and not process_index:
    print(f'stage {experiment.stage}: {len(chosen)} rows; left out {selection.in_words(chosen.left_out)}.', file=sys.stderr)
  dataset = (
      grain.MapDataset.source(chosen).seed(experiment.seed).shuffle().repeat()
      .random_map(Finish(experiment))[process_index::process_count]
      .batch(batch_size // process_count, drop_remainder=True, batch_fn=rows.stack)
      .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED)))
  if experiment.data.workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads its flags when it starts processes
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=experiment.data.workers))
  return iter(dataset)


def describe(experiment: ExperimentConfig, workdir: str | Path) -> dict[str, Any]:
  """How many rows the stage has: `stage`, `sets`, `rows` used in an epoch, and `left_out`, counts by reason."""
  chosen = selection.select(experiment, workdir)
  return {'stage': experiment.stage, 'sets': list(experiment.data.sets), 'rows': len(chosen), 'left_out': dict(Counter(chosen.left_out))}


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
