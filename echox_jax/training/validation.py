"""Held-out losses during training: evaluates `data.eval_sets` every `train.eval_every` steps and
after the last step.

It uses the first `train.eval_batches` batches of each set, in an order that depends on the seed.
They are read once before the first step and stay in host memory, so every evaluation sees the same
rows, even in a resumed run. A batch has as many rows as training computes at a time
(`train.batch_size` / `train.accumulate_steps`), sharded over the same mesh. No row counts twice: a
set with fewer rows gives fewer batches. If a set has too few rows for a single batch, some rows
repeat. A message at the start reports both cases.

The loss is the training loss without randomness: no dropout and no augmentation. Clips of all
lengths share a batch; `data.buckets` are not used, because a small set would not fill them. Stages
with speech use only spoken questions, regardless of `data.written_fraction`. The vocoder's loss
only compares it with the recording. The adversarial losses are left out, because they change as the
discriminators learn.

Losses are means weighted by tokens and counts are sums, as in training (see `step.combine`).
"""

from collections.abc import Callable, Iterator
import dataclasses
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from echox_jax import errors
from echox_jax.models.trees import merge
from echox_jax.parallel import distributed, sharding
from echox_jax.storage import Path
from echox_jax.training import metrics, stages, step
from echox_jax.training.experiment import AugmentConfig, ExperimentConfig
from echox_jax.training.state import TrainState

VARIANT = 'eval'  # name of its compilations in the metrics

Batch = dict[str, np.ndarray]


def check(experiment: ExperimentConfig) -> None:
  """Raises ConfigError if the evaluation settings contradict each other."""
  data, train = experiment.data, experiment.train
  if train.eval_every < 0 or train.eval_batches < 1:
    raise errors.ConfigError(
      f'train.eval_every is {train.eval_every} and train.eval_batches is {train.eval_batches}: '
      'the first must be at least 0, the second at least 1.'
    )
  if train.eval_every and not data.eval_sets:
    raise errors.ConfigError(
      f'train.eval_every is {train.eval_every}, but data.eval_sets is empty: '
      'name held-out data sets there, or set train.eval_every to 0.'
    )
  if data.eval_sets and not train.eval_every:
    raise errors.ConfigError(
      f'data.eval_sets names {", ".join(data.eval_sets)}, but train.eval_every is 0: '
      'set it to a number of steps, or leave data.eval_sets empty.'
    )
  named = (*data.sets, *data.eval_sets)
  again = next((name for name in data.eval_sets if named.count(name) > 1), None)
  if again:
    where = (
      'is among the data.sets that the stage trains on' if again in data.sets else 'is listed twice'
    )
    raise errors.ConfigError(
      f'data.eval_sets names {again!r}, which {where}: take it out, or name a set that is held out.'
    )


def held_out(experiment: ExperimentConfig, name: str) -> ExperimentConfig:
  """Returns the job whose batches come from the held-out set `name`."""
  data = dataclasses.replace(
    experiment.data,
    sets=(name,),
    weights=(),
    written_fraction=0.0,
    spoken_share=1.0,
    buckets=(),
    augment=AugmentConfig(),
    workers=0,
  )
  rows = experiment.train.batch_size // experiment.train.accumulate_steps
  train = dataclasses.replace(experiment.train, batch_size=rows)
  return dataclasses.replace(experiment, data=data, train=train)


def read_batches(
  experiment: ExperimentConfig,
  mesh: Mesh,
  workdir: Path,
  iterator_factory: Callable[..., Iterator[Batch]],
) -> list[Batch]:
  """Reads this process's rows of all evaluation batches; empty without evaluation.

  Args:
    experiment: the job.
    mesh: the devices of all processes.
    workdir: folder of all stages.
    iterator_factory: as for `loop.train`; its iterators also have `distinct(most)`, the number of
      batches, at most `most`, before a row repeats.

  Raises:
    ConfigError, DataError: a set is missing, damaged, or has no usable row; the sentence names
      `data.eval_sets`.
  """
  batches, most = [], experiment.train.eval_batches
  for name in experiment.data.eval_sets:
    job = held_out(experiment, name)
    rows = distributed.rows_of_process(sharding.batch_sharding(mesh), job.train.batch_size)
    try:
      iterator = iterator_factory(job, workdir, rows)
      count = iterator.distinct(most)
      batches += [next(iterator) for _ in range(max(count, 1))]
    except (errors.ConfigError, errors.DataError) as error:
      raise type(error)(f'data.eval_sets: {error}') from error
    if count < most and distributed.is_first():
      what = (
        f'{count} of the {most} batches (train.eval_batches), and only these are evaluated'
        if count
        else 'not even one batch, so some rows count more than once in its losses'
      )
      print(f'stage {experiment.stage}: {name} fills {what}.', file=sys.stderr)
  return batches


class Evaluation:
  """Evaluates a stage on the same batches each time.

  Args:
    stage, experiment, mesh: as for `step.make_train_step`.
    batches: result of `read_batches`; if empty, no evaluation is ever due.
  """

  def __init__(
    self, stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh, batches: list[Batch]
  ):
    self._every, self._steps = experiment.train.eval_every, experiment.train.steps
    self._mesh, self._batches = mesh, batches
    self._function, self._compiled = make_eval_step(stage, experiment, mesh), {}

  def due(self, done: int) -> bool:
    """Returns whether to evaluate after `done` steps. It depends only on `done`, so a resumed run
    does the same."""
    return bool(self._batches) and (done % self._every == 0 or done == self._steps)

  def __call__(self, done: int, current: TrainState, log: metrics.Metrics) -> None:
    """Evaluates the parameters after step `done` and records the result.

    Raises:
      EchoXError: a loss is not finite.
    """
    started, compiling, found = time.perf_counter(), 0.0, []
    for batch in self._batches:
      arguments = current.trainable, current.frozen, step.put_batch(batch, self._mesh)
      form = tuple(value.shape for value in batch.values())
      if form not in self._compiled:
        before = time.perf_counter()
        self._compiled[form] = self._function.lower(*arguments).compile()
        seconds = time.perf_counter() - before
        log.compiled(done, VARIANT, seconds)
        compiling += seconds
      found.append(self._compiled[form](*arguments))
    found = jax.device_get(found)
    whole = step.combine({name: np.stack([values[name] for values in found]) for name in found[0]})
    seconds = time.perf_counter() - started - compiling
    log.evaluated(done, {name: float(value) for name, value in whole.items()}, seconds)


def make_eval_step(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh) -> Any:
  """Returns the jitted, deterministic `(trainable, frozen, batch) -> metrics`: the metrics of the
  stage's loss, and `loss`."""
  evaluate = _of_vocoder(experiment) if stage.optimizers else _of_stage(stage, experiment)
  return jax.jit(evaluate, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _of_stage(stage: stages.Stage, experiment: ExperimentConfig):
  loss_fn = stage.loss

  def evaluate(trainable, frozen, batch) -> step.Metrics:
    loss, values = loss_fn(merge(trainable, frozen), batch, None, experiment)
    return values | {'loss': loss}

  return evaluate


def _of_vocoder(experiment: ExperimentConfig):
  from echox_jax.training import vocoder_step  # stages import their losses only when they run

  cfg, train = experiment.model.vocoder, experiment.train

  def evaluate(trainable, frozen, batch) -> step.Metrics:
    del frozen
    loss, (values, _) = vocoder_step.generator_loss(
      trainable['vocoder'], None, batch, cfg, train.discriminators, train.loss.vocoder, None, False
    )
    seconds = jnp.float32(batch['audio'].size / cfg.sample_rate)
    return values | {'loss': loss, 'audio_seconds': seconds}

  return evaluate
