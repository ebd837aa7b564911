"""The estimates of `launch.plan`: hours of every step and bytes of everything that is kept."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

from configs.paper import Source
from data_pipeline import selection
from echox_jax import errors, rates
from echox_jax.config import HubertConfig
from echox_jax.models import params as params_lib
from echox_jax.training import flops, stages
from echox_jax.training.experiment import ExperimentConfig
from launch import compile_check
from launch.machines import Machines
from launch.plan_rates import COMPUTED, MEASURED, PREDICTED, Figure

_SAMPLE_BYTES, _UNIT_BYTES, _STATE_BYTES = 2, 4, 2  # dtypes of data_pipeline/schema.py
_ADAM_BYTES = 3 * 4  # a trained parameter and its two moments, float32
_STATES = rates.SAMPLE_RATE // rates.UNIT_HOP  # a second
SLICE, CPU_HOSTS = WHERE = ('slice', 'CPU hosts')


@dataclasses.dataclass(frozen=True)
class Line:
  """One step of the plan.

  Attributes:
    step, work: what, and how much of it.
    where: one of `WHERE`.
    hosts: how many of them.
    hours: of wall-clock time.
    figures: the rates that the hours rest on, by name.
  """

  step: str
  work: str
  where: str
  hosts: int
  hours: float
  figures: Mapping[str, Figure]


@dataclasses.dataclass(frozen=True)
class Stored:
  """Something that is kept in the bucket."""

  what: str
  size: Figure  # bytes


def sources_of(sets: Sequence[str], sources: Sequence[Source]) -> list[Source]:
  """The sources of data sets (`NAME/SPLIT`), each once.

  Raises:
    ConfigError: the config names a set that is in no source.
  """
  known = {source.name: source for source in sources}
  names = list(dict.fromkeys(selection.split_name(name)[0] for name in sets))
  missing = [name for name in names if name not in known]
  if missing:
    raise errors.ConfigError(
      f'the config reads {missing[0]}, whose hours are not known: give --data with the folder of '
      'the data sets, or --sources with a JSON list of {"name", "items", "hours"}.'
    )
  return [known[name] for name in names]


def hours_of(sources: Sequence[Source]) -> float:
  return sum(source.hours for source in sources)


def reading_in(sources: Sequence[Source], found: Mapping[str, Figure], on: Machines) -> Line:
  """Recordings become data sets, on hosts without chips."""
  rate = found['read_in']
  hours = hours_of(sources) / (rate.value * on.cpu_hosts * on.cores_per_host)
  return Line(
    'corpus', f'{hours_of(sources):,.0f} h', CPU_HOSTS, on.cpu_hosts, hours, {'read_in': rate}
  )


def answering(questions: int, found: Mapping[str, Figure]) -> Line:
  """A text model answers the questions of a corpus in writing, on one host."""
  rate = found['answer']
  hours = questions * rate.value / 3600
  return Line('answers', f'{questions:,} questions', SLICE, 1, hours, {'answer': rate})


def precompute(
  experiment: ExperimentConfig, sources: Sequence[Source], found: Mapping[str, Figure], on: Machines
) -> list[Line]:
  """Units, unit language, encoder states and the data sets that hold them, on the slice."""
  jobs, lines = experiment.precompute, []
  spoken, heard = sources_of(jobs.unit_sets, sources), sources_of(jobs.state_sets, sources)
  if spoken and not jobs.kmeans:
    fitted_on = sources_of(jobs.kmeans_sets, sources)
    cost = sum(kmeans_flops(experiment, source, fitted_on) for source in fitted_on)
    lines.append(_encoded('k-means', fitted_on, cost, found, on))
  if spoken:
    cost = sum(unit_flops(experiment, source) for source in spoken)
    if 'units' in found:
      lines.append(_shared('units', spoken, 'units', found, on))
    else:
      lines.append(_encoded('units', spoken, cost, found, on))
    language = sources_of(jobs.language_sets, sources)
    lines.append(_shared('unit language', language, 'language', found, on))
  if heard:
    cost = sum(state_flops(experiment, source) for source in heard)
    lines.append(_encoded('states', heard, cost, found, on))
  both = list(dict.fromkeys([*spoken, *heard]))
  return [*lines, _shared('unit words', both, 'records', found, on)]


def _encoded(
  step: str, sources: Sequence[Source], cost: float, found: Mapping[str, Figure], on: Machines
) -> Line:
  """A step whose FLOPs the chips compute."""
  figures = {
    'flops': Figure(cost, PREDICTED, 'echox_jax/training/flops.py'),
    'mfu': found['mfu.encode'],
  }
  seconds = cost / (on.chips * on.chip.peak_flops * figures['mfu'].value)
  return Line(step, f'{hours_of(sources):,.0f} h', SLICE, on.hosts, seconds / 3600, figures)


def _shared(
  step: str, sources: Sequence[Source], rate: str, found: Mapping[str, Figure], on: Machines
) -> Line:
  """A step whose speech the hosts share, at a rate of each."""
  hours = hours_of(sources) / (found[rate].value * on.hosts)
  work = f'{hours_of(sources):,.0f} h'
  return Line(step, work, SLICE, on.hosts, hours, {rate: found[rate]})


def unit_flops(experiment: ExperimentConfig, source: Source) -> float:
  """Of the frozen unit encoder on all clips of a source, each of the mean length."""
  cfg = experiment.model
  seconds = 3600 * source.hours / source.items + cfg.units.padding_seconds
  if cfg.units.encoder == 'hubert':
    samples = round(seconds * rates.SAMPLE_RATE)
    return flops.hubert_forward(HubertConfig(), source.items, samples)
  return _whisper_flops(experiment, source.items, round(seconds * _STATES))


def state_flops(experiment: ExperimentConfig, source: Source) -> float:
  """Of the speech encoder of the LLM on all clips of a source, each of the mean length."""
  seconds = 3600 * source.hours / source.items + experiment.model.audio_padding_seconds
  return _whisper_flops(experiment, source.items, round(seconds * _STATES))


def kmeans_flops(
  experiment: ExperimentConfig, source: Source, fitted_on: Sequence[Source]
) -> float:
  """Of a fit on (a sample of) a source: its states, and every distance in every iteration."""
  jobs, units = experiment.precompute, experiment.model.units
  share = min(1.0, (jobs.kmeans_hours or math.inf) / hours_of(fitted_on))
  whisper = experiment.model.whisper.hidden_size
  width = HubertConfig().hidden_size if units.encoder == 'hubert' else whisper
  distances = 2 * 3600 * source.hours * _STATES * units.num_units * width
  return share * (unit_flops(experiment, source) + jobs.fit.kmeans_iterations * distances)


def _whisper_flops(experiment: ExperimentConfig, clips: int, states: int) -> float:
  cfg = experiment.model.whisper
  heard = flops.log_mel_forward(cfg.num_mel_bins, clips, 2 * states)
  return heard + flops.whisper_forward(cfg, clips, states)


def stage(
  experiment: ExperimentConfig, sources: Sequence[Source], found: Mapping[str, Figure], on: Machines
) -> Line:
  """One stage: the slower of computing its steps and of loading their speech.

  Raises:
    ConfigError: nothing says which share of the chips' peak the stage reaches.
  """
  name, steps = experiment.stage, experiment.train.steps
  mfu, bound = found.get(f'mfu.{name}') or found.get('mfu'), found.get(f'mfu_bound.{name}')
  if mfu is None or (bound and mfu.basis != MEASURED and mfu.value > bound.value):
    mfu = bound
  if mfu is None:
    raise errors.ConfigError(
      f'nothing says which share of the peak the stage {name!r} reaches: give --mfu, or --rates '
      'with a report of `python -m launch.compile_check`, or --workdir of a run on such chips.'
    )
  batch = compile_check.batch_shapes(experiment)
  cost = Figure(flops.step_flops(experiment, batch), PREDICTED, 'echox_jax/training/flops.py')
  computing = steps * cost.value / (on.chips * on.chip.peak_flops * mfu.value)
  figures = {'step_flops': cost, 'mfu': mfu}
  speech = steps * step_speech(experiment, batch, sources_of(experiment.data.sets, sources))
  loading = speech / (found['load'].value * on.cores_per_host * on.hosts)
  if loading > computing:
    figures['load'] = found['load']
  goodput = found.get(f'goodput.{name}')
  if goodput:
    figures['goodput'] = goodput
  share = goodput.value if goodput else on.goodput
  hours = max(computing, loading) / share / 3600
  return Line(name, f'{steps:,} steps', SLICE, on.hosts, hours, figures)


def step_speech(
  experiment: ExperimentConfig, batch: Mapping[str, Any], sources: Sequence[Source]
) -> float:
  """Seconds of speech that the readers decode for a step, at most."""
  if 'audio_lengths' in batch:
    return math.prod(batch['audio_lengths'].shape) * experiment.data.max_states / _STATES
  if experiment.stage == 'vocoder':  # a segment is cut out of a whole recording
    mean = 3600 * hours_of(sources) / sum(source.items for source in sources)
    return experiment.train.batch_size * mean
  return 0.0


def evaluation(questions: int, found: Mapping[str, Figure]) -> Line:
  """The last step, on one host."""
  rate = found['question']
  hours = questions * rate.value / 3600
  return Line('evaluate', f'{questions:,} questions', SLICE, 1, hours, {'question': rate})


def storage(experiments: Sequence[ExperimentConfig], sources: Sequence[Source]) -> list[Stored]:
  """Data sets, results of precompute, and the checkpoints of every stage."""
  jobs, cfg = experiments[0].precompute, experiments[0].model
  seconds = 3600 * hours_of(sources)
  spoken = 3600 * hours_of(sources_of(jobs.unit_sets, sources))
  heard = 3600 * hours_of(sources_of(jobs.state_sets, sources))
  audio = rates.SAMPLE_RATE * _SAMPLE_BYTES
  found = [
    ('data sets', seconds * audio, '16-bit samples at 16 kHz'),
    ('units and unit words', spoken * 2 * _STATES * _UNIT_BYTES, 'at most a word a unit'),
    ('states', heard * _STATES * cfg.whisper.hidden_size * _STATE_BYTES, 'float16'),
  ]
  for experiment in experiments:
    kept = experiment.train.keep_checkpoints
    trained, frozen = parameters(experiment)
    size = {'float32': 4, 'bfloat16': 2}[experiment.train.frozen_dtype]
    found.append(
      (
        f'checkpoints of {experiment.stage}',
        kept * trained * _ADAM_BYTES + frozen * size,
        f'{kept} x {trained:,} trained parameters, {frozen:,} frozen ones once',
      )
    )
  return [Stored(what, Figure(size, COMPUTED, why)) for what, size, why in found if size]


def parameters(experiment: ExperimentConfig) -> tuple[int, int]:
  """(trained, frozen) parameters of a stage."""
  row = stages.get_stage(experiment.stage)
  shapes = params_lib.param_shapes(
    experiment.model, row.groups_for(experiment), experiment.train.discriminators
  )
  trained = stages.trainable_paths(row, shapes, experiment.train.only)
  sizes = {path: math.prod(shape) for path, shape in shapes.items()}
  count = sum(sizes[path] for path in trained)
  return count, sum(sizes.values()) - count
