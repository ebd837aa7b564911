"""Precompute as one function: runs the steps in order."""

from typing import Any

import jax

from data_pipeline.precompute import records, report, text, units
from data_pipeline.precompute.encoders import Encoders, pretrained_encoders
from data_pipeline.precompute.job import Job
from data_pipeline.shards import Process
from echox_jax import errors, storage
from echox_jax.parallel import distributed, heartbeats
from echox_jax.storage import Path
from echox_jax.training.experiment import ExperimentConfig


def run(
  experiment: ExperimentConfig,
  workdir: str | Path,
  encoders: Encoders | None = None,
  *,
  progress: bool = True,
  process: Process | None = None,
) -> dict[str, Any]:
  """Does everything in `experiment.precompute` that is not finished.

  Args:
    experiment: the job; its stage does not matter.
    workdir: working folder, shared by all processes. The raw data sets are in
      `experiment.data_dir`, or by default in `data` under `workdir`.
    encoders: replace the pretrained encoders.
    progress: whether to show bars with the time left.
    process: this process among several; by default that of `jax.distributed`.

  Returns:
    The report: `clips` and `seconds` of speech of each set, `units_per_second` (reduced units),
    `unit_words_per_second` of speech, `compression` of each kind of unit language (`vocab_size`,
    reduced `units_per_word` on the data it was fitted on, and `units_per_word_held_out` on the
    other unit sets), `tokenizer_vocab_size`, `step_seconds` summed over all processes, `ran` (the
    steps in which this process had work in this run).

  Raises:
    EchoXError: missing raw data, sizes that do not match each other, missing weights.
  """
  check_sizes(experiment)
  process = process or Process(jax.process_index(), jax.process_count(), distributed.barrier)
  encoders = encoders or pretrained_encoders(experiment)
  with heartbeats.Heartbeat(
    storage.path(workdir),  # not among the products
    'precompute',
    process=process.index,
    processes=process.count,
    every=experiment.heartbeat_seconds,
  ) as beat:
    job = Job(experiment, storage.path(workdir), encoders, progress, process, beat)
    text.make_tokenizer(job)
    if experiment.precompute.unit_sets:
      units.make_units(job, units.make_centroids(job))
      units.make_language(job)
    records.make_datasets(job)
    records.make_tables(job)
    return report.write_report(job)


def check_sizes(experiment: ExperimentConfig) -> None:
  """Checks that the sizes of the config match each other.

  Raises:
    ConfigError: they do not match, or there is nothing to compute.
  """
  model, jobs = experiment.model, experiment.precompute
  words = model.units.num_units if model.units.language == 'plain' else model.units.vocab_size
  if words > model.unit_decoder.unit_vocab_size:
    raise errors.ConfigError(
      f'the unit language has up to {words} words, more than the '
      f'{model.unit_decoder.unit_vocab_size} of the '
      'unit decoder: raise model.unit_decoder.unit_vocab_size or lower model.units.vocab_size.'
    )
  if model.units.num_units > model.vocoder.num_units:
    raise errors.ConfigError(
      f'model.units.num_units is {model.units.num_units}, but the vocoder '
      f'knows {model.vocoder.num_units} '
      'units: make model.vocoder.num_units the same.'
    )
  if jobs.shard_examples < 1:
    raise errors.ConfigError(
      f'precompute.shard_examples is {jobs.shard_examples}: make it at least 1.'
    )
  if not jobs.unit_sets and not jobs.state_sets:
    raise errors.ConfigError(
      'precompute has nothing to do: name data sets in precompute.unit_sets '
      'or precompute.state_sets.'
    )
  if jobs.state_sets and model.pad_audio_to_30_s:
    raise errors.ConfigError(
      'states of audio padded to 30 s are not cached: set '
      'precompute.state_sets to () and data.cached_states to False.'
    )
  fitted = {'kmeans': jobs.kmeans_sets, 'unit_language': jobs.language_sets}
  sets = [names for product, names in fitted.items() if not getattr(jobs, product)]
  stray = [name for names in sets for name in names if name not in jobs.unit_sets]
  if jobs.unit_sets and (stray or not all(sets)):
    raise errors.ConfigError(
      'k-means and unit language are fitted on sets that get units, not on '
      f'{", ".join(stray) or "none"}: '
      'name sets of precompute.unit_sets in precompute.kmeans_sets and '
      'precompute.language_sets.'
    )
