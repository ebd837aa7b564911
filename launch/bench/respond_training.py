"""The training step of `launch.bench respond`: stage s2t on random clips and ids."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from data_pipeline import batches, rows
from echox_jax import prompts, rates
from echox_jax.config import LoraConfig
from echox_jax.models.trees import merge
from echox_jax.parallel import sharding
from echox_jax.training import keys, stages, state
from echox_jax.training.experiment import ExperimentConfig

LORA = LoraConfig(rank=64, alpha=16.0, dropout=0.05)  # as in the paper
_SECONDS, _ANSWER, _TRANSCRIPT = 10, 100, 30


def steps(job: ExperimentConfig) -> dict[str, Callable[[], Any]]:
  """Compiled when first called: `train_step_s` is the loss and its gradients, `forward_s` the loss
  alone.
  """
  llm = dataclasses.replace(job.model.llm, lora=LORA)
  batch, rng = question_batch(job), keys.step_key(0, 0)
  job = dataclasses.replace(job, model=dataclasses.replace(job.model, llm=llm))
  stage, mesh = stages.get_stage('s2t'), sharding.make_mesh({}, jax.devices()[:1])
  boxed = jax.jit(lambda key: state.init_params(key, job, stage.groups_for(job)))(jax.random.key(0))
  trainable, frozen = state.split(stage, sharding.unbox(boxed))

  def loss(tree: dict, frozen: dict, batch: dict) -> jax.Array:
    return stage.loss(merge(tree, frozen), batch, rng, job)[0]

  def on_mesh(program: Callable[..., Any]) -> Any:
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
      return program(trainable, frozen, batch)

  programs = {'train_step_s': jax.jit(jax.value_and_grad(loss)), 'forward_s': jax.jit(loss)}
  return {name: functools.partial(on_mesh, program) for name, program in programs.items()}


def question_batch(job: ExperimentConfig) -> dict[str, Any]:
  """Random clips with random answers and transcripts, as many as `train.batch_size`."""
  rng, finish, model = np.random.default_rng(0), batches.Finish(job), job.model
  profile = prompts.get_profile(model.profile)

  def ids(number):
    return rng.integers(20, model.special_ids.bos, number).astype(np.int32)

  def row():
    wave = rng.normal(0, 0.1, _SECONDS * rates.SAMPLE_RATE).astype(np.float32)
    made = rows.question_row(model.special_ids, profile, (), (), ids(_ANSWER), audio=True)
    return finish(made | {'ctc_labels': ids(_TRANSCRIPT), 'audio': wave}, rng)

  return rows.stack([row() for _ in range(job.train.batch_size)])
