"""Guided attention: a head that looks where the speech is is right; t2c learns to look there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import prompts
from echox_jax.parallel import sharding
from echox_jax.training import echo_step, guided, stages, state, step
from echox_jax.training.experiment import (
  DataConfig,
  ExperimentConfig,
  LossConfig,
  OptimizerConfig,
  TrainConfig,
)
from tests.helpers import tiny

VOCAB, IDS = tiny.CONFIG.llm.vocab_size, tiny.CONFIG.special_ids
PROFILE = prompts.get_profile(tiny.CONFIG.profile)
TEXT, WORDS = list(range(20, 28)), [0, 1, 2, 3] * 6


def row():
  ids, labels = prompts.text_to_codec_row(IDS, PROFILE, TEXT, WORDS, VOCAB)
  return np.array(ids), np.array(labels)


def looking(ids, labels, where):
  """Heads of one layer whose unit word k looks at column where(k) alone; what predicts BOS and the
  first unit word looks at where(0).
  """
  asked = np.flatnonzero(labels[1:] != prompts.IGNORE)
  words = np.maximum(np.arange(len(asked)) - 2, 0)
  scores = np.zeros((len(ids), len(ids)), np.float32)
  scores[asked, [where(k) for k in words]] = 1e3
  key = np.eye(len(ids), dtype=np.float32) * len(ids) ** 0.5
  own = {'query': (scores[None, None],), 'key': (key[None, None],)}
  return {'trunk': {'layers': {'self_attn': own}}}


def test_what_is_said_is_where_to_look():
  ids, labels = row()
  start = len(prompts.slice_prefix(IDS, PROFILE))

  def found(where):
    heads = looking(ids, labels, where)
    return float(guided.astray(tiny.CONFIG, heads, ids[None], labels[None], None))

  said = found(lambda k: start + k * len(TEXT) // len(WORDS))
  assert said < 0.03
  assert 0.3 < found(lambda k: start + min(7, 3 + k * len(TEXT) // len(WORDS))) < 0.8
  assert found(lambda k: start + len(TEXT) - 1 - k * len(TEXT) // len(WORDS)) > 0.4
  assert found(lambda k: start + len(TEXT)) == 1  # behind the text


def test_packed_rows_count_each_for_itself():
  ids, labels = row()
  start = len(prompts.slice_prefix(IDS, PROFILE))
  where = lambda k: start + k * len(TEXT) // len(WORDS)
  one = looking(ids, labels, where)['trunk']['layers']['self_attn']
  query = np.zeros((1, 1, 2 * len(ids), 2 * len(ids)), np.float32)
  query[0, 0, : len(ids), : len(ids)] = query[0, 0, len(ids) :, len(ids) :] = one['query'][0][0, 0]
  key = np.eye(2 * len(ids), dtype=np.float32)[None, None] * (2 * len(ids)) ** 0.5
  two = {'trunk': {'layers': {'self_attn': {'query': (query,), 'key': (key,)}}}}
  segments = np.repeat([[0, 1]], len(ids), axis=1)
  np.testing.assert_allclose(
    guided.astray(tiny.CONFIG, two, np.tile(ids, 2)[None], np.tile(labels, 2)[None], segments),
    guided.astray(tiny.CONFIG, looking(ids, labels, where), ids[None], labels[None], None),
    atol=1e-6,
  )


def test_t2c_learns_it_beside_the_unit_words():
  ids, labels = row()
  cfg = dataclasses.replace(
    tiny.CONFIG, unit_decoder=dataclasses.replace(tiny.CONFIG.unit_decoder, text_stride=3)
  )
  job = ExperimentConfig(
    stage='t2c',
    model=cfg,
    data=DataConfig(max_unit_words=30),
    train=TrainConfig(
      steps=60,
      batch_size=1,
      optimizer=OptimizerConfig('muon', 3e-2, warmup_steps=5),
      loss=LossConfig(units_only=True, guide_weight=0.5),
    ),
  )
  batch = {'input_ids': ids[None], 'labels': labels[None]}
  loss, metrics = jax.jit(echo_step.t2c_loss, static_argnums=3)(tiny.params(cfg), batch, None, job)
  np.testing.assert_allclose(loss, metrics['unit_ce'] + 0.5 * metrics['astray'], rtol=1e-6)

  stage, mesh = stages.get_stage('t2c'), sharding.make_mesh({}, jax.devices()[:1])
  current, found = state.create_state(stage, job, mesh, None), []
  train_step = step.make_train_step(stage, job, mesh)
  for number in range(60):
    current, metrics = train_step(
      train_step.functions[train_step.variant(number)], current, jax.tree.map(jnp.array, batch)
    )
    found.append(jax.device_get(metrics))
  assert found[-1]['astray'] < 0.5 * found[0]['astray']
  assert found[-1]['unit_ce'] < 0.5 * found[0]['unit_ce']
