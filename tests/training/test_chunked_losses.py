"""The stages' losses with heads in chunks equal those with whole logits, gradients included."""

import dataclasses

import jax
import numpy as np
import pytest

from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step, s2t_step
from echox_jax.training.experiment import DataConfig, ExperimentConfig, LossConfig, TrainConfig
from tests.helpers import echo_rows, tiny


def experiment(chunk):
  adapter = dataclasses.replace(tiny.CONFIG.adapter, ctc_chunk=chunk)
  return ExperimentConfig(
    model=dataclasses.replace(tiny.CONFIG, adapter=adapter),
    data=DataConfig(max_unit_words=10),
    train=TrainConfig(loss=LossConfig(chunk_tokens=chunk)),
  )


def t2c_batch():
  vocab = tiny.CONFIG.llm.vocab_size
  ids = np.random.default_rng(0).integers(
    vocab, vocab + tiny.CONFIG.unit_decoder.unit_vocab_size, (3, 17)
  )
  return {'input_ids': ids, 'labels': np.where(np.arange(17) < [[6], [9], [17]], IGNORE, ids)}


@pytest.mark.parametrize(
  'loss, batch',
  [
    (s2t_step.s2t_loss, echo_rows.batch),
    pytest.param(echo_step.t2c_loss, t2c_batch, marks=pytest.mark.slow),
    pytest.param(echo_step.echo_loss, echo_rows.batch, marks=pytest.mark.slow),
  ],
  ids=['s2t', 't2c', 'echo'],
)
def test_stage(loss, batch):
  params = jax.tree.map(lambda x: x / 2.5 if x.ndim > 1 else x, tiny.params())
  run = lambda chunk: jax.jit(
    lambda p, b: jax.value_and_grad(loss, has_aux=True)(p, b, jax.random.key(0), experiment(chunk))
  )(params, batch())
  close = lambda path, a, e: np.testing.assert_allclose(
    a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max() + 1e-9, err_msg=str(path)
  )
  expected = run(0)
  assert any(np.any(x) for x in jax.tree.leaves(expected[1]))
  jax.tree_util.tree_map_with_path(close, run(7), expected)
