"""Units: k-means over encoder states, the nearest centroid per state, and the unit language."""

from collections.abc import Callable, Iterable, Iterator
import functools
import time
from typing import Any

import numpy as np

from data_pipeline import language_shards, parts
from data_pipeline.precompute.job import KMEANS, LANGUAGE, Job
from data_pipeline.precompute.progress import Bar
from data_pipeline.shards import SCRATCH
from data_pipeline.turns import ASSISTANT
from echox_jax import errors, rates, storage
from echox_jax.storage import Path
from echox_jax.units import extract, kmeans
from echox_jax.units.unit_language import UnitLanguage


def make_centroids(job: Job) -> np.ndarray:
  """Centroids float32[K,D]: given by the config, or fitted by all processes together."""
  target, inputs, seconds = job.folder / KMEANS, job.kmeans_inputs(), 0.0
  centroids = None
  if not job.choices.kmeans and not job.work.finished(target, inputs):
    stored = [values for values in map(parts.StoredValues, _sample(job)) if values.shape[0]]
    if job.progress:
      states = sum(values.shape[0] for values in stored)
      print(f'fitting {job.cfg.num_units} units on {states} states', flush=True)
    started = time.monotonic()
    how = job.choices.fit
    centroids = kmeans.fit(stored, job.cfg.num_units, how.kmeans_iterations, how.seed)
    seconds = time.monotonic() - started

  def make(beside: Path) -> None:
    kmeans.save(beside, kmeans.load(job.choices.kmeans) if centroids is None else centroids)

  job.make('kmeans', target, inputs, make)
  job.work.seconds['kmeans'] = round(job.work.seconds['kmeans'] + seconds, 1)
  found = kmeans.load(target)
  if len(found) != job.cfg.num_units:
    raise errors.ConfigError(
      f'{job.choices.kmeans or target} has {len(found)} units, the config {job.cfg.num_units}: '
      'make model.units.num_units the same.'
    )
  return found


def _sample(job: Job) -> list[Path]:
  """Files of the states that k-means is fitted on."""
  share, paths = _share(job), []
  for name in job.choices.kmeans_sets:
    outputs = job.sample_parts(name, share)
    with job.bar(f'states of {name}', name, outputs) as bar:
      job.work.run(
        f'states:{name}', outputs, functools.partial(_write_states, job, name, share, bar)
      )
    paths += outputs
  return paths


def _share(job: Job) -> float:
  """The share of the examples of `kmeans_sets` that k-means sees."""
  if not job.choices.kmeans_hours:
    return 1.0
  tables = (job.turns[name].table() for name in job.choices.kmeans_sets)
  samples = sum(int(table['audio'][table['role'] == ASSISTANT].sum()) for table in tables)
  seconds = samples / rates.SAMPLE_RATE
  return min(1.0, job.choices.kmeans_hours * 3600 / seconds) if seconds else 1.0


def _write_states(
  job: Job, name: str, share: float, bar: Bar, i: int, beside: Path
) -> dict[str, Any]:
  """Writes the states of one shard of a set, or of a share of its examples."""
  chosen = (record for record in bar.watch(job.records[name][i]) if parts.is_chosen(record, share))
  clips = parts.Clips(job.sources[name], 'assistant', chosen)
  frames = parts.write_part(beside, list(_layer_states(job, clips)), np.float16)
  return {**bar.heard(clips), 'frames': frames}


def _layer_states(job: Job, clips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """float16[T,D] of each clip, from the layer that units use."""
  encoded = extract.encode_clips(job.encoder('units'), clips, job.choices.batch_seconds, ('layer',))
  return (clip.layer.astype(np.float16) for clip in encoded)


def make_units(job: Job, centroids: np.ndarray) -> None:
  """Writes the unit of every state of every unit set.

  States are not kept. If k-means used all states of a set, its stored states are reused.
  """
  for name in job.choices.unit_sets:
    outputs = job.unit_parts(name)
    with job.bar(f'units of {name}', name, outputs) as bar:
      job.work.run(
        f'units:{name}', outputs, functools.partial(_write_units, job, name, centroids, bar)
      )
    job.check_heard(name, 'assistant', outputs)
    job.work.keep_only(outputs)
  job.work.remove(job.folder / SCRATCH / 'sample')


def _write_units(
  job: Job, name: str, centroids: np.ndarray, bar: Bar, i: int, beside: Path
) -> dict[str, Any]:
  """Writes the units of one shard of a set."""
  states, heard = _states_of_shard(job, name, centroids, bar, i)
  units = list(kmeans.assign_clips(states, centroids))
  frames = parts.write_part(beside, units, np.int32)
  reduced = sum(len(kmeans.reduce_units(clip)[0]) for clip in units)
  return {**heard(), 'frames': frames, 'reduced': reduced}


def _states_of_shard(
  job: Job, name: str, centroids: np.ndarray, bar: Bar, i: int
) -> tuple[Iterable[np.ndarray], Callable[[], dict[str, Any]]]:
  """The states of each clip, stored for k-means or encoded now, and a function that returns what
  was heard.
  """
  stored, inputs = list(job.sample_parts(name, 1.0).items())[i]
  if job.work.finished(stored, inputs):
    return parts.read_part(stored), lambda: job.work.note(stored)['measured']
  if job.encoder('units').width != centroids.shape[1]:
    raise errors.ConfigError(
      f'the k-means is for states of width {centroids.shape[1]}, the encoder gives '
      f'{job.encoder("units").width}: use the encoder and layer it was fitted on, or fit another '
      '(precompute.kmeans empty).'
    )
  clips = parts.Clips(job.sources[name], 'assistant', bar.watch(job.records[name][i]))
  return _layer_states(job, clips), lambda: bar.heard(clips)


def make_language(job: Job) -> None:
  """Fits the unit language of the config, and measures the compression of each kind; or takes the
  one that the config names.
  """
  if job.choices.unit_language:
    _take_language(job)
    return
  target, inputs, step = job.folder / LANGUAGE, job.language_inputs(), 'unit language'
  counts, own = job.folder / SCRATCH / 'language', None
  chosen = job.choices.language_sets
  fitted_on = list(job.unit_parts(*chosen))
  others = list(job.unit_parts(*(name for name in job.choices.unit_sets if name not in chosen)))
  if job.cfg.language == 'ngram' and not job.work.finished(target, inputs):
    own = language_shards.fit_stored(
      job.work, step, counts, fitted_on, inputs, job.cfg, job.choices.fit
    )
    job.work.meet('the counts have been read')

  def make(beside: Path) -> dict[str, Any]:
    samples = (
      language_shards.sample(paths, job.work.measured(paths, 'reduced'))
      for paths in (fitted_on, others)
    )
    language, compression = language_shards.compare(own, job.cfg, job.choices.fit, *samples)
    language.save(beside)
    return {'compression': compression}

  job.make(step, target, inputs, make)
  job.work.remove(counts)


def _take_language(job: Job) -> None:
  """Copies the unit language that the config names, and measures its compression here.

  Raises:
    ConfigError: it is of another kind, or for another number of units.
  """
  given = storage.path(job.choices.unit_language)
  language, cfg = UnitLanguage.load(given), job.cfg
  if (language.kind, language.num_units) != (cfg.language, cfg.num_units):
    raise errors.ConfigError(
      f'{given} is a language of kind {language.kind!r} for {language.num_units} units, the config '
      f'has {cfg.language!r} for {cfg.num_units}: make model.units.language and '
      'model.units.num_units the same.'
    )
  paths = list(job.unit_parts(*job.choices.unit_sets))

  def make(beside: Path) -> dict[str, Any]:
    language.save(beside)
    clips = language_shards.sample(paths, job.work.measured(paths, 'reduced'))
    return {'compression': {language.kind: language_shards.measure(language, clips)}}

  job.make('unit language', job.folder / LANGUAGE, job.language_inputs(), make)
