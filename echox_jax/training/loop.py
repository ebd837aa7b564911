"""Training one stage, from its config to its finished checkpoint."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import json
from pathlib import PurePath
import time
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from echox_jax import config as config_lib
from echox_jax import errors, storage
from echox_jax.parallel import chips, distributed, heartbeats, sharding
from echox_jax.storage import Path
from echox_jax.training import (
  checkpoint,
  event_files,
  flops,
  frozen,
  init_from,
  layout,
  lineage,
  metrics,
  not_finite,
  preemption,
  profiling,
  skipping,
  stages,
  state,
  step,
  validation,
)
from echox_jax.training.experiment import ExperimentConfig

# `(experiment, workdir, rows) -> iterator` over this process's rows of each batch. Its `get_state`
# and `set_state` work with a state that is the same for all processes. Iterators over held-out sets
# also have `distinct` (see `validation.read_batches`); others may have `examples` (see
# `not_finite.explain`).
IteratorFactory = Callable[[ExperimentConfig, Path, Sequence[int]], Iterator[dict[str, Any]]]

# Fields that may differ when a run is resumed: they change no parameter, or, as `skip_batches`, are
# checked with the checkpoint.
_FREE = (
  'data_dir',
  'heartbeat_seconds',
  'data.workers',
  'data.cache_gigabytes',
  'data.cache_folder',
  'data.eval_sets',
  'train.eval_every',
  'train.eval_batches',
  'train.log_every',
  'train.tensorboard',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.skip_batches',
  'mesh',
  'engine',
)
# Files that may lie elsewhere today: `precompute` compares their contents, `lineage` their
# identity.
_FILES = (
  'precompute.kmeans',
  'precompute.unit_language',
  'precompute.hubert',
  'tokenizer.model',
  'train.init_from',
)


def train(
  experiment: ExperimentConfig,
  workdir: str | Path,
  iterator_factory: IteratorFactory,
  profile: tuple[int, int] | None = None,
  packaged_encoder: init_from.PackagedEncoder | None = None,
) -> dict[str, Any]:
  """Trains the stage of `experiment` under `workdir`; resumes from its newest checkpoint, if any.

  On SIGTERM or Ctrl-C the run finishes the step, saves and stops. The same command resumes it, on
  any number of processes and devices. All processes must see the same `workdir`; the first one
  writes the shared files.

  Args:
    experiment: the job.
    workdir: folder of all stages.
    iterator_factory: makes the batches.
    profile: (first, last) steps to trace into the stage's folder `profile`.
    packaged_encoder: loads the speech encoder if the stage holds one and no checkpoint has it.

  Returns:
    `stage`, `steps` done, `finished`, `seconds` of this call, `metrics` of the last window,
    `evaluation`: the newest evaluation record (empty = none); `already_finished` if there was
    nothing to do.

  Raises:
    EchoXError: the user can fix the problem: a missing predecessor, held-out set or package,
      another config, a damaged checkpoint, a full disk, a loss that is not finite.
  """
  started, steps = time.time(), experiment.train.steps
  stage = stages.get_stage(experiment.stage)
  validation.check(experiment)
  if experiment.train.tensorboard:
    event_files.check_installed()
  workdir = storage.path(workdir)
  folder = workdir / stage.name
  if distributed.is_first():
    storage.remove_leftovers(folder)
  finished = checkpoint.read_finished(folder)
  if finished is not None:
    check_config(folder / layout.CONFIG, experiment)
    if finished['steps'] >= steps:
      lineage.warn(workdir, stage.name)
      return finished | {'already_finished': True}

  mesh = sharding.make_mesh(dataclasses.asdict(experiment.mesh))
  step.check(stage, experiment, mesh)
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES), contextlib.ExitStack() as stack:
    stack.enter_context(storage.owned(folder, jax.process_index()))
    beat = stack.enter_context(
      heartbeats.Heartbeat(
        folder,
        'train',
        stage.name,
        steps,
        jax.process_index(),
        jax.process_count(),
        experiment.heartbeat_seconds,
      )
    )
    checkpoints = checkpoint.Checkpoints(folder, experiment.train.keep_checkpoints)
    stack.callback(checkpoints.close)
    done = checkpoints.latest_step()
    if done is not None:
      check_config(folder / layout.CONFIG, experiment)
    else:
      sources = init_from.open_sources(stage, experiment, workdir)
    skip = experiment.train.skip_batches
    rows = distributed.rows_of_process(sharding.batch_sharding(mesh), experiment.train.batch_size)
    iterator = iterator_factory(experiment, workdir, rows)
    held_out = validation.read_batches(experiment, mesh, workdir, iterator_factory)
    if done is None:
      trained_from = lineage.sources(experiment.train.init_from or stage.starts_from, workdir)
      current = state.create_state(stage, experiment, mesh, sources, packaged_encoder)
      done, noted = 0, {}
    else:
      current, noted = _restore(
        checkpoints, done, state.abstract_state(stage, experiment, mesh), iterator
      )
      trained_from = noted.get('sources', {})
    skipping.check(skip, stage.name, done, noted.get('skip_batches', ()))
    lineage.warn(workdir, stage.name, trained_from)
    distributed.barrier('read')  # no process writes before all have read
    if distributed.is_first():
      storage.atomic_write_json(folder / layout.CONFIG, config_lib.to_dict(experiment))
      checkpoint.unmark_finished(folder)

    train_step, compiled = step.make_train_step(stage, experiment, mesh), {}
    meta = {
      'stage': stage.name,
      'model': config_lib.to_dict(experiment.model),
      'sources': trained_from,
      'skip_batches': list(skip),
    }
    meta['frozen'] = noted.get('frozen') or frozen.write(folder, current.frozen)

    def save():
      return checkpoints.save(
        done, current.trainable, current.opt_state, iterator, meta | {'step': done}
      )

    evaluate = validation.Evaluation(stage, experiment, mesh, held_out)
    events = folder / event_files.FOLDER if experiment.train.tensorboard else None
    log = metrics.Metrics(
      folder / layout.METRICS,
      stage.name,
      done,
      steps,
      chips.peak_flops(mesh.devices.flat),
      started,
      events,
    )
    stack.callback(log.close)
    trace = stack.enter_context(profiling.Trace(folder / layout.PROFILE, profile))
    stop = stack.enter_context(preemption.watch())
    stopping = False
    beat.resumed(done)
    beat.doing(heartbeats.STEPS)

    def flush():
      try:
        log.flush(done)
      except not_finite.NotFinite as error:
        raise not_finite.explain(error, folder, experiment, iterator) from error

    while done < steps and not stopping:
      waited = time.perf_counter()
      batch = step.put_batch(skipping.take(iterator, stage.name, done, skip), mesh)
      waited = time.perf_counter() - waited
      variant = train_step.variant(done)
      form = variant, *(value.shape for value in batch.values())  # each bucket has its own shapes
      if form not in compiled:
        before = time.perf_counter()
        arguments = (current.step, current.trainable, current.opt_state, current.frozen, batch)
        with beat.during('compiling'):
          compiled[form] = (
            train_step.functions[variant].lower(*arguments).compile(),
            flops.step_flops(experiment, batch),
          )
        log.compiled(done, variant, time.perf_counter() - before)
      function, cost = compiled[form]
      trace.before(done)
      current, values = train_step(function, current, batch)
      done += 1
      beat.begun(done, values['loss'], waited)
      trace.after(done, values)
      log.add(values, waited, cost)
      stopping = stop(done)
      saving = done % experiment.train.checkpoint_every == 0 or done == steps or stopping
      if saving or evaluate.due(done) or done % experiment.train.log_every == 0:
        flush()  # also before saving: raises rather than save a non-finite state
      if evaluate.due(done):
        # before saving: a run resumed from this checkpoint already has its evaluation
        with beat.during('evaluating'):
          evaluate(done, current, log)
      if saving:
        before = time.perf_counter()
        with beat.during('saving'):
          log.sync()  # a run resumed from this checkpoint has its records
          save()
        log.exclude(time.perf_counter() - before)
      log.saved(checkpoints.complete())
    with beat.during('saving'):
      log.saved(checkpoints.complete(wait=True))
    if done < steps:
      beat.stopped()

  summary = {
    'stage': stage.name,
    'steps': done,
    'finished': done >= steps,
    'seconds': time.time() - started,
    'metrics': log.last,
    'evaluation': log.last_evaluation,
  }
  if summary['finished'] and distributed.is_first():
    checkpoint.mark_finished(folder, summary | {'sources': trained_from})
  return summary


def check_config(file: Path, experiment: ExperimentConfig) -> None:
  """Compares the config of the run in `file` with `experiment`. More steps are allowed, and so are
  changes to fields that affect no parameter.

  Raises:
    CheckpointError: another field differs, or the file is damaged.
  """
  try:
    before = _flatten(config_lib.upgrade_experiment(json.loads(file.read_text('utf-8'))))
  except (FileNotFoundError, ValueError) as error:
    raise errors.CheckpointError(
      f'{file} is missing or damaged, so its checkpoints cannot be used: give another --workdir.'
    ) from error

  def plain(job):
    return _flatten(json.loads(json.dumps(config_lib.to_dict(job))))

  # a run from before a field existed used its default
  after, defaults = plain(experiment), plain(ExperimentConfig())
  for name in sorted(before.keys() | after.keys()):
    free = any(name == field or name.startswith(field + '.') for field in _FREE)
    free |= name.endswith('.attention')  # who computes it: the results agree up to rounding
    old, new = before.get(name, defaults.get(name)), after.get(name)
    free |= name in _FILES and _file_names(old) == _file_names(new)
    if old == new or free or (name == 'train.steps' and new > old):
      continue
    raise errors.CheckpointError(
      f'{file.parent} was trained with {name} = {old!r}, but the config has {new!r}: '
      'change it back, or give another --workdir.'
    )


def _file_names(paths: str | Sequence[str]) -> list[str]:
  return [PurePath(path).name for path in ([paths] if isinstance(paths, str) else paths)]


def _restore(
  checkpoints: checkpoint.Checkpoints, done: int, abstract: state.TrainState, iterator
) -> tuple[state.TrainState, dict[str, Any]]:
  """Restores the state and metadata of step `done`; sets the iterator to its saved position."""
  *trees, meta = checkpoints.restore(
    done, abstract.trainable, abstract.frozen, abstract.opt_state, iterator
  )
  return state.TrainState(jax.device_put(jnp.int32(done), abstract.step.sharding), *trees), meta


def _flatten(values: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested dicts -> {`a.b.c`: value}."""
  flat = {}
  for key, value in values.items():
    flat |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return flat
