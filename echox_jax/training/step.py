"""One optimizer step as a jitted function: a loss with one optimizer, or generator and discriminators with two."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from echox_jax import sharding
from echox_jax.training import optimizer, stages
from echox_jax.training import state as state_lib
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.training.state import TrainState
from echox_jax.trees import merge

Metrics = dict[str, jax.Array]
Carry = tuple[jax.Array, Any, Any]  # step, trainable, opt_state


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """The step of a stage.

  Attributes:
    functions: jitted `(step, trainable, opt_state, frozen, batch) -> ((step, trainable, opt_state), metrics)`, by variant;
      the first three arguments are donated.
    variant: which of them does a step, by its number alone, so that a resumed run takes the same.
  """
  functions: Mapping[str, Any]
  variant: Callable[[int], str]

  def __call__(self, function: Callable[..., Any], state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
    """One step with `function`, a (compiled) one of `functions`; the arrays of `state` other than frozen are used up."""
    (step, trainable, opt_state), metrics = function(state.step, state.trainable, state.opt_state, state.frozen, batch)
    return state.replace(step=step, trainable=trainable, opt_state=opt_state), metrics


def make_train_step(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh) -> TrainStep:
  """The step of `stage`; its random numbers come from the seed and the number of the step.

  The metrics are those of the loss, `loss`, `grad_norm` (of each player) and `learning_rate`.
  """
  abstract = state_lib.abstract_state(stage, experiment, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, (abstract.step, abstract.trainable, abstract.opt_state))
  jit = lambda f: jax.jit(f, donate_argnums=(0, 1, 2), out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())))
  if not stage.players:
    return TrainStep({'step': jit(_single(stage, experiment))}, lambda step: 'step')
  start = experiment.train.loss.adversarial_start
  return TrainStep(
      {'plain': jit(_against(experiment, False)), 'adversarial': jit(_against(experiment, True))},
      lambda step: 'adversarial' if step >= start else 'plain')


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
  """This process's rows (numpy) -> global arrays, split over the data axes of the mesh."""
  where = sharding.batch_sharding(mesh)
  return {name: jax.make_array_from_process_local_data(where, value) for name, value in batch.items()}


def _single(stage: stages.Stage, experiment: ExperimentConfig):
  """The step of a stage with one loss."""
  loss_fn, update = stages.loss_function(stage), _updater(experiment)

  def train_step(step, trainable, opt_state, frozen, batch) -> tuple[Carry, Metrics]:
    rng = _rng(experiment, step)
    of_trained = lambda tree: loss_fn(merge(tree, frozen), batch, rng, experiment)
    (loss, metrics), grads = jax.value_and_grad(of_trained, has_aux=True)(trainable)
    trainable, model_state, norm = update(grads, opt_state['model'], trainable)
    metrics = metrics | {'loss': loss, 'grad_norm': norm, 'learning_rate': _rate(experiment, step)}
    return (step + 1, trainable, {'model': model_state}), metrics

  return train_step


def _against(experiment: ExperimentConfig, adversarial: bool):
  """The step of the vocoder: generator and discriminators move at once, judged on the same generated waveform."""
  from echox_jax.training import vocoder_step  # stages import their losses only when they run

  update = _updater(experiment)
  model, weights = experiment.model, experiment.train.loss.vocoder

  def train_step(step, trainable, opt_state, frozen, batch) -> tuple[Carry, Metrics]:
    del frozen
    judges = trainable['discriminators']
    of_generator = lambda tree: vocoder_step.generator_loss(
        tree, judges, batch, model.vocoder, model.discriminators, weights, _rng(experiment, step), adversarial)
    (loss, (metrics, wave)), grads = jax.value_and_grad(of_generator, has_aux=True)(trainable['vocoder'])
    generator, generator_state, norm = update(grads, opt_state['vocoder'], trainable['vocoder'])
    metrics = metrics | {'loss': loss, 'grad_norm': norm, 'learning_rate': _rate(experiment, step),
                         'audio_seconds': jnp.float32(batch['audio'].size / model.vocoder.sample_rate)}
    judges_state = opt_state['discriminators']
    if adversarial:
      of_judges = lambda tree: vocoder_step.discriminator_loss(tree, wave, batch['audio'], model.discriminators)
      (_, more), grads = jax.value_and_grad(of_judges, has_aux=True)(judges)
      judges, judges_state, norm = update(grads, judges_state, judges)
      metrics |= more | {'grad_norm_discriminators': norm}
    return (step + 1, {'vocoder': generator, 'discriminators': judges},
            {'vocoder': generator_state, 'discriminators': judges_state}), metrics

  return train_step


def _updater(experiment: ExperimentConfig):
  """(grads, opt_state, params) -> (params, opt_state, norm of the gradient before clipping)."""
  tx = optimizer.make_optimizer(experiment.train.optimizer, experiment.train.steps)

  def update(grads, opt_state, params):
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, optax.global_norm(grads)

  return update


def _rng(experiment: ExperimentConfig, step: jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.key(experiment.seed), step)


def _rate(experiment: ExperimentConfig, step: jax.Array) -> jax.Array:
  return optimizer.make_schedule(experiment.train.optimizer, experiment.train.steps)(step)
