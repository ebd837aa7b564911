import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.models.trees import flatten
from echox_jax.parallel import sharding
from echox_jax.training import stages, state, step
from tests.helpers import training_jobs


def _mesh():
  return sharding.make_mesh({}, devices=jax.devices()[:1])


def _paths(name, rank=2):
  job = training_jobs.experiment(name, rank=rank)
  abstract = state.abstract_params(job, stages.get_stage(name).groups_for(job), _mesh())
  return flatten(abstract)


@pytest.mark.parametrize(
  'name, trained, frozen',
  [
    ('text', {'llm'}, {'llm'}),
    ('align', {'adapter'}, {'llm'}),
    ('s2t', {'adapter', 'llm'}, {'llm'}),
    ('t2c', {'t2c'}, {'unit_text_embedding'}),
    (
      'echo',
      {'adapter', 'llm', 'echo', 'denoising_adapter'},
      {'llm', 't2c', 'unit_text_embedding'},
    ),
    ('vocoder', {'vocoder', 'discriminators'}, set()),
  ],
)
def test_groups_trained_and_frozen(name, trained, frozen):
  paths = _paths(name)
  chosen = stages.trainable_paths(stages.get_stage(name), paths)
  groups = lambda some: {p.split('/')[0] for p in some}
  assert groups(chosen) == trained
  assert groups(paths.keys() - chosen) == frozen
  of_llm = {p for p in chosen if p.startswith('llm/')}
  is_lora = lambda p: p.endswith(('/lora_a', '/lora_b'))
  assert not any(map(is_lora, of_llm)) if name == 'text' else all(map(is_lora, of_llm))


def test_pattern_that_matches_nothing_is_an_error():
  with pytest.raises(errors.ConfigError, match='lora.rank'):
    stages.trainable_paths(stages.get_stage('s2t'), _paths('s2t', rank=0))


def test_unknown_stage():
  with pytest.raises(errors.ConfigError, match='use one of text, align, s2t, t2c, echo, vocoder'):
    stages.get_stage('speech')


def test_speech_encoder_is_held_when_states_are_not_cached():
  job = training_jobs.experiment('s2t')
  live = dataclasses.replace(job, data=dataclasses.replace(job.data, cached_states=False))
  stage = stages.get_stage('s2t')
  assert 'whisper' not in stage.groups_for(job) and 'whisper' in stage.groups_for(live)


def test_frozen_leaves_have_no_optimizer_state_and_do_not_change():
  # A loss that depends on every parameter held, so that only the table decides what moves.
  def loss(params, batch, rng, experiment):
    del batch, rng, experiment
    return sum(jnp.sum((x - 1.0) ** 2) for x in jax.tree.leaves(params)), {}

  job, stage, mesh = training_jobs.experiment('echo'), stages.get_stage('echo'), _mesh()
  stage = dataclasses.replace(stage, loss=loss)
  abstract = state.abstract_state(stage, job, mesh)
  before = jax.tree.map(
    lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), abstract
  )
  assert {leaf.shape for leaf in jax.tree.leaves(abstract.opt_state)} <= {
    x.shape for x in jax.tree.leaves(abstract.trainable)
  } | {()}
  moments = [leaf for leaf in jax.tree.leaves(before.opt_state) if leaf.ndim]
  assert len(moments) == 2 * len(jax.tree.leaves(before.trainable))

  with jax.set_mesh(mesh):
    train_step = step.make_train_step(stage, job, mesh)
    after, metrics = train_step(
      train_step.functions[train_step.variant(0)], before, step.put_batch({'x': np.zeros(8)}, mesh)
    )
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.frozen))
  assert all(np.all(leaf) for leaf in jax.tree.leaves(after.trainable))
  assert int(after.step) == 1 and np.isfinite(metrics['grad_norm'])


def test_vocoder_variant_depends_on_the_step_alone():
  job = training_jobs.experiment('vocoder')
  job = training_jobs.with_train(job, loss=dataclasses.replace(job.train.loss, adversarial_start=5))
  train_step = step.make_train_step(stages.get_stage('vocoder'), job, _mesh())
  assert [train_step.variant(n) for n in (0, 4, 5, 6)] == [
    'plain',
    'plain',
    'adversarial',
    'adversarial',
  ]


def test_the_text_table_of_the_unit_decoder_is_a_choice():
  job = training_jobs.experiment('t2c')

  def origin(table, tied=False):
    model = dataclasses.replace(
      job.model,
      llm=dataclasses.replace(job.model.llm, tie_embeddings=tied),
      unit_decoder=dataclasses.replace(job.model.unit_decoder, text_table=table),
    )
    return stages.get_stage('t2c').copies_for(dataclasses.replace(job, model=model))[
      'unit_text_embedding'
    ]

  assert origin('embed_tokens') == 'llm/embed_tokens' and origin('lm_head') == 'llm/lm_head'
  assert origin('lm_head', tied=True) == 'llm/embed_tokens'  # there is no other
  with pytest.raises(
    errors.ConfigError, match="text_table is 'rows': use one of embed_tokens, lm_head"
  ):
    origin('rows')


def test_a_run_may_train_only_a_part_of_its_stage():
  paths = _paths('echo')
  chosen = stages.trainable_paths(stages.get_stage('echo'), paths, ('echo/.*',))
  assert chosen == {path for path in paths if path.startswith('echo/')}
  job = training_jobs.experiment('echo', only=('echo/.*',))
  abstract = state.abstract_state(stages.get_stage('echo'), job, _mesh())
  assert set(abstract.trainable) == {'echo'} and {'llm', 'adapter'} < set(abstract.frozen)


def test_a_part_that_the_stage_does_not_train_is_an_error():
  with pytest.raises(errors.ConfigError, match="'llm/.*' .*does not train: use some of adapter"):
    stages.trainable_paths(stages.get_stage('echo'), _paths('echo'), ('llm/.*',))
