"""One optimizer step as a jitted function: a loss with one optimizer, or generator and
discriminators with two.

With `train.accumulate_steps` a batch is split into that many parts. They are computed one after
another, followed by a single update. Each part is weighted by its supervised tokens, so a loss that
is a mean over tokens, its gradient and its metrics equal those of the whole batch. Terms that are
means over something else (CTC over rows, the echo decoder's over unit words) are weighted by tokens
too, so they are only exact if the parts are alike. Counts (tokens, seconds, overflows...) are
summed.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from echox_jax import errors, prompts
from echox_jax.models import params as params_lib
from echox_jax.models import positions
from echox_jax.models.trees import Tree, merge
from echox_jax.parallel import sharding
from echox_jax.training import candidates, keys, optimizer, stages
from echox_jax.training import state as state_lib
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Carry = tuple[jax.Array, Any, Any]  # step, trainable, opt_state

# Metrics that are counts, like all `overflow_*`; the others are means.
_COUNTS = (
  'tokens',
  'audio_seconds',
  'kept_frames',
  'slices',
  'unit_words',
  'replaced_text',
  'silent_slices',
)


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """The step of a stage.

  Attributes:
    functions: jitted
      `(step, trainable, opt_state, frozen, batch) -> ((step, trainable, opt_state), metrics)`, by
      variant; the first three arguments are donated.
    variant: selects the function from the step number alone, so that a resumed run uses the same.
  """

  functions: Mapping[str, Any]
  variant: Callable[[int], str]

  def __call__(
    self, function: Callable[..., Any], state: TrainState, batch: Mapping[str, jax.Array]
  ) -> tuple[TrainState, Metrics]:
    """Runs one step with `function`, a (compiled) member of `functions`; donates all arrays of
    `state` except the frozen ones.
    """
    (step, trainable, opt_state), metrics = function(
      state.step, state.trainable, state.opt_state, state.frozen, batch
    )
    return state.replace(step=step, trainable=trainable, opt_state=opt_state), metrics


def check(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh) -> None:
  """Raises ConfigError if the batch, or its slices, cannot be split over the mesh or into
  `accumulate_steps` parts.
  """
  _check_positions(stage, experiment)
  parts, rows = experiment.train.accumulate_steps, experiment.train.batch_size
  if parts < 1 or rows % parts:
    raise errors.ConfigError(
      f'train.batch_size {rows} is not a multiple of train.accumulate_steps '
      f'{parts}: change one of them.'
    )
  if parts > 1 and stage.optimizers:
    raise errors.ConfigError(
      f'stage {stage.name!r} trains two parts against each other and takes whole '
      'batches: set train.accumulate_steps to 1.'
    )
  if 't2c' in stage.groups:
    _check_units_only(experiment)
  if 'echo' in stage.groups:
    _check_echo(experiment, mesh)
  if stage.name == 'align':
    candidates.check(experiment)
  what = (
    'train.batch_size'
    if parts == 1
    else f'train.batch_size {rows} / train.accumulate_steps {parts} ='
  )
  sharding.check_rows(rows // parts, mesh, what)


def make_train_step(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh) -> TrainStep:
  """Builds the step of `stage`; its random numbers depend on the seed and the step number.

  The metrics are the loss function's own, plus `loss`, `grad_norm` (one per optimizer) and
  `learning_rate`.
  """
  abstract = state_lib.abstract_state(stage, experiment, mesh)
  shardings = jax.tree.map(
    lambda leaf: leaf.sharding, (abstract.step, abstract.trainable, abstract.opt_state)
  )

  def jit(f):
    return jax.jit(
      f, donate_argnums=(0, 1, 2), out_shardings=(shardings, NamedSharding(mesh, PartitionSpec()))
    )

  if not stage.optimizers:
    return TrainStep({'step': jit(_single(stage, experiment, shardings[1]))}, lambda step: 'step')
  start = experiment.train.loss.adversarial_start
  return TrainStep(
    {'plain': jit(_against(experiment, False)), 'adversarial': jit(_against(experiment, True))},
    lambda step: 'adversarial' if step >= start else 'plain',
  )


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
  """Turns this process's rows (numpy) into global arrays, sharded over the data axes of the mesh.

  The transfer is asynchronous: steps are dispatched ahead of the devices, so a batch is transferred
  while earlier steps run.
  """
  where = sharding.batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(where, value) for name, value in batch.items()
  }


def _check_positions(stage: stages.Stage, experiment: ExperimentConfig) -> None:
  """Raises ConfigError if a row needs more positions than its model has."""
  model, data = experiment.model, experiment.data
  row = f'data.max_tokens {data.max_tokens}'
  rows = []  # (positions of a row, fields that determine them, model part and its config)
  if 'llm' in stage.groups and stage.uses_speech:
    both = f'{row} and adapter.shrink_budget {model.adapter.shrink_budget}'
    rows.append((data.max_tokens + positions.speech(model), both, 'llm', model.llm))
  elif 'llm' in stage.groups:
    rows.append((data.max_tokens, row, 'llm', model.llm))
  if 'echo' in stage.groups:
    both = (
      f'streaming.max_slice_tokens {model.streaming.max_slice_tokens} '
      f'and data.max_unit_words {data.max_unit_words}'
    )
    length = positions.slice_row(model, data.max_unit_words)
    rows.append((length, both, 'unit_decoder.trunk', model.unit_decoder.trunk))
  elif 't2c' in stage.groups:
    rows.append((data.max_tokens, row, 'unit_decoder.trunk', model.unit_decoder.trunk))
  for length, why, name, part in rows:
    if length > part.max_positions:
      raise errors.ConfigError(
        f'rows of stage {stage.name!r} take up to {length} positions ({why}), but '
        f'model.{name}.max_positions is {part.max_positions}: '
        'shorten the rows, or use a model that was trained for more positions.'
      )


def _check_units_only(experiment: ExperimentConfig) -> None:
  """Raises ConfigError if a unit decoder may say text that it does not learn to leave out."""
  profile = experiment.model.profile
  if experiment.train.loss.units_only and prompts.get_profile(profile).free_unit_ids:
    raise errors.ConfigError(
      'train.loss.units_only leaves out the text ids, but the unit decoders of profile '
      f'{profile!r} may say them: set it to False, or choose another profile.'
    )


def _check_echo(experiment: ExperimentConfig, mesh: Mesh) -> None:
  """Raises ConfigError if the slices do not divide over the row groups, or a device cannot hold the
  LLM that generates answers.
  """
  model, choices, parts = experiment.model, experiment.train.loss, experiment.train.accumulate_steps
  groups = sharding.row_groups(mesh)
  if choices.slices_per_batch % (groups * parts):
    of_parts = f' x train.accumulate_steps {parts}' if parts > 1 else ''
    raise errors.ConfigError(
      f'train.loss.slices_per_batch {choices.slices_per_batch} is not a multiple of the {groups} '
      'row groups that mesh axes '
      f'data={mesh.shape["data"]} and fsdp={mesh.shape["fsdp"]} make{of_parts}: make it a '
      f'multiple of {groups * parts}.'
    )
  if choices.echo_text == 'generate' and mesh.size > 1:
    width = 2 if experiment.train.frozen_dtype == 'bfloat16' else 4
    gib = (
      width
      * sum(map(math.prod, params_lib.param_shapes(model, ('llm', 'adapter')).values()))
      / 2**30
    )
    if gib > choices.generate_gib:
      raise errors.ConfigError(
        "train.loss.echo_text 'generate' holds the LLM and the adapter whole on every device, "
        f'{gib:.1f} GiB, but '
        f"train.loss.generate_gib is {choices.generate_gib:g}: use 'argmax' or 'gold', or raise "
        'it where memory allows.'
      )


def combine(metrics: Metrics) -> Metrics:
  """Combines the metrics of parts, float[parts] each (numpy or JAX): sums counts and weights means
  by supervised tokens.

  In stages without tokens (the vocoder) all parts have equal weight.
  """
  weights = metrics.get('tokens', 0 * metrics['loss'] + 1)
  whole = weights.sum().clip(1.0)

  def is_count(name):
    return name in _COUNTS or name.startswith('overflow_')

  return {
    name: x.sum() if is_count(name) else (x * weights).sum() / whole for name, x in metrics.items()
  }


def _single(stage: stages.Stage, experiment: ExperimentConfig, shardings: Tree):
  """Builds the step of a stage with one loss; `shardings` are those of the trained parameters."""
  loss_fn, update = stage.loss, _updater(experiment)
  parts = experiment.train.accumulate_steps

  def gradients(trainable, frozen, batch, rng) -> tuple[Metrics, Tree]:
    def of_trained(tree):
      return loss_fn(merge(tree, frozen), batch, rng, experiment)

    (loss, metrics), grads = jax.value_and_grad(of_trained, has_aux=True)(trainable)
    return metrics | {'loss': loss}, grads

  def accumulated(trainable, frozen, batch, rng) -> tuple[Metrics, Tree]:
    def one(total, part):
      rows, number = part
      metrics, grads = gradients(trainable, frozen, rows, jax.random.fold_in(rng, number))
      total = jax.tree.map(lambda sum_, grad: sum_ + metrics['tokens'] * grad, total, grads)
      return jax.lax.with_sharding_constraint(total, shardings), metrics

    zeros = jax.lax.with_sharding_constraint(jax.tree.map(jnp.zeros_like, trainable), shardings)
    grads, metrics = jax.lax.scan(one, zeros, (_parts(batch, parts), jnp.arange(parts)))
    whole = jnp.maximum(jnp.sum(metrics['tokens']), 1.0)
    return combine(metrics), jax.tree.map(lambda grad: grad / whole, grads)

  compute = gradients if parts == 1 else accumulated

  def train_step(step, trainable, opt_state, frozen, batch) -> tuple[Carry, Metrics]:
    metrics, grads = compute(trainable, frozen, batch, keys.step_key(experiment.seed, step))
    trainable, model_state, norm = update(grads, opt_state['model'], trainable)
    metrics |= {'grad_norm': norm, 'learning_rate': _rate(experiment, step)}
    return (step + 1, trainable, {'model': model_state}), metrics

  return train_step


def _against(experiment: ExperimentConfig, adversarial: bool):
  """Builds the step of the vocoder: it updates generator and discriminators together, on the same
  generated waveform.
  """
  from echox_jax.training import vocoder_step  # stages import their losses only when they run

  update = _updater(experiment)
  model, weights = experiment.model, experiment.train.loss.vocoder
  judges_cfg = experiment.train.discriminators

  def train_step(step, trainable, opt_state, frozen, batch) -> tuple[Carry, Metrics]:
    del frozen
    judges = trainable['discriminators']

    def of_generator(tree):
      return vocoder_step.generator_loss(
        tree,
        judges,
        batch,
        model.vocoder,
        judges_cfg,
        weights,
        keys.step_key(experiment.seed, step),
        adversarial,
      )

    (loss, (metrics, wave)), grads = jax.value_and_grad(of_generator, has_aux=True)(
      trainable['vocoder']
    )
    generator, generator_state, norm = update(grads, opt_state['vocoder'], trainable['vocoder'])
    metrics = metrics | {
      'loss': loss,
      'grad_norm': norm,
      'learning_rate': _rate(experiment, step),
      'audio_seconds': jnp.float32(batch['audio'].size / model.vocoder.sample_rate),
    }
    judges_state = opt_state['discriminators']
    if adversarial:

      def of_judges(tree):
        return vocoder_step.discriminator_loss(tree, wave, batch['audio'], judges_cfg)

      (_, more), grads = jax.value_and_grad(of_judges, has_aux=True)(judges)
      judges, judges_state, norm = update(grads, judges_state, judges)
      metrics |= more | {'grad_norm_discriminators': norm}
    return (
      step + 1,
      {'vocoder': generator, 'discriminators': judges},
      {'vocoder': generator_state, 'discriminators': judges_state},
    ), metrics

  return train_step


def _parts(batch: Mapping[str, jax.Array], parts: int) -> dict[str, jax.Array]:
  """Splits arrays [B, ...] into [parts, B / parts, ...]; a part takes every `parts`-th row, so rows
  stay on their devices.
  """

  def take(x):
    return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

  return {
    name: sharding.constrain(take(x), None, 'batch', *(None,) * (x.ndim - 1))
    for name, x in batch.items()
  }


def _updater(experiment: ExperimentConfig):
  """Returns (grads, opt_state, params) -> (params, opt_state, gradient norm before clipping)."""
  tx = optimizer.make_optimizer(experiment.train.optimizer, experiment.train.steps)

  def update(grads, opt_state, params):
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, optax.global_norm(grads)

  return update


def _rate(experiment: ExperimentConfig, step: jax.Array) -> jax.Array:
  return optimizer.make_schedule(experiment.train.optimizer, experiment.train.steps)(step)
