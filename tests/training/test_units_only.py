"""Unit decoders that choose among EOT and the unit words alone learn what they say."""

import dataclasses

import jax
import numpy as np
import pytest

from echox_jax import errors, prompts
from echox_jax.models.unit_decoder import UnitDecoder
from echox_jax.parallel import sharding
from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step, stages, step
from echox_jax.training.experiment import DataConfig, ExperimentConfig, LossConfig, TrainConfig
from tests.helpers import tiny
from tests.helpers.echo_rows import SAYINGS

CFG = tiny.CONFIG
IDS, VOCAB = CFG.special_ids, CFG.llm.vocab_size


def job(cfg=CFG, chunk=0):
  return ExperimentConfig(
    stage='t2c',
    model=cfg,
    data=DataConfig(max_unit_words=10),
    train=TrainConfig(batch_size=8, loss=LossConfig(units_only=True, chunk_tokens=chunk)),
  )


@pytest.mark.parametrize('chunk', [pytest.param(0, marks=pytest.mark.slow), 5])
def test_the_loss_is_that_of_the_ids_that_can_be_said(chunk):
  params = jax.tree.map(lambda x: x / 2.5 if x.ndim > 1 else x, tiny.params())
  text, words = next(iter(SAYINGS.items()))
  ids, labels = prompts.text_to_codec_row(IDS, prompts.get_profile('paper'), text, words, VOCAB)
  batch = {'input_ids': np.array([ids]), 'labels': np.array([labels])}
  (loss, metrics), gradients = jax.value_and_grad(echo_step.t2c_loss, has_aux=True)(
    params, batch, None, job(chunk=chunk)
  )

  table = params['unit_text_embedding']['embedding']
  apply = UnitDecoder(CFG).apply
  hidden = apply({'params': params['t2c']}, table, batch['input_ids'])
  logits = np.asarray(apply({'params': params['t2c']}, hidden, method='logits'), np.float64)[0]
  logits[:, [i for i in range(VOCAB) if i != IDS.eot]] = -np.inf
  said = [(at, i) for at, i in enumerate(labels) if i != IGNORE and i != IDS.bos]
  expected = [np.logaddexp.reduce(logits[at - 1]) - logits[at - 1, i] for at, i in said]
  assert said[-1][1] == IDS.eot and metrics['tokens'] == len(said) == len(words) + 1
  np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)

  of_rows = np.abs(gradients['t2c']['lm_head']['embedding']).sum(axis=1)
  learns = np.arange(len(of_rows)) >= VOCAB
  learns[IDS.eot] = True
  np.testing.assert_array_equal(of_rows > 0, learns)


def test_a_profile_that_may_say_text_learns_not_to():
  released = job(dataclasses.replace(CFG, profile='released'))
  with pytest.raises(errors.ConfigError, match="profile 'released' may say them: set it to False"):
    step.check(stages.STAGES['t2c'], released, sharding.make_mesh({}))
