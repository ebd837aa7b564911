"""The text table that the unit decoders start with, on weights of the released code, whose two
tables differ.
"""

import dataclasses

import jax
import numpy as np
import pytest

from echox_jax.models.trees import flatten
from echox_jax.models.unit_decoder import UnitDecoder
from echox_jax.parallel import sharding
from echox_jax.training import init_from, stages, state
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.verification.golden import Golden
from tests.helpers.paths import GOLDEN

TENSORS = {'embed_tokens': 'model.embed_tokens.weight', 'lm_head': 'lm_head.weight'}


def _tensors():
  """Tensors of the released model by their own names."""
  stored = np.load(GOLDEN / 'golden_weights.npz')
  return {
    name.removeprefix('echox/'): stored[name] for name in stored.files if name.startswith('echox/')
  }


@pytest.fixture(scope='module')
def golden():
  return Golden(GOLDEN)


@pytest.mark.parametrize('choice', TENSORS)
def test_the_stage_starts_with_the_chosen_table(golden, choice):
  weights, arrays = _tensors(), golden['stage2']
  cfg = dataclasses.replace(
    golden.cfg, unit_decoder=dataclasses.replace(golden.cfg.unit_decoder, text_table=choice)
  )
  job, stage = ExperimentConfig(stage='t2c', model=cfg), stages.get_stage('t2c')
  mesh = sharding.make_mesh({}, jax.devices()[:1])
  flat = {f'llm/{path}': leaf for path, leaf in flatten(golden.params['llm']).items()}
  read = lambda specs: {
    path: jax.device_put(np.asarray(flat[path]), spec.sharding) for path, spec in specs.items()
  }
  source = init_from.ParamSource('golden', {path: leaf.shape for path, leaf in flat.items()}, read)
  wanted = flatten(state.abstract_state(stage, job, mesh).params())
  table = init_from.load_initial(stage, job, [source], wanted)['unit_text_embedding/embedding']
  expected = weights[TENSORS[choice]]
  np.testing.assert_array_equal(table, expected)
  assert not np.array_equal(weights[TENSORS['lm_head']], weights[TENSORS['embed_tokens']])

  # What the trunk then reads, from the tensors of the released code: [table ; units] through the
  # width projection.
  ids, prefix = arrays['t2u_input_ids'], 'unit_translator.'
  rows = np.concatenate([expected, weights[f'{prefix}unit_embedding.weight']])[ids]
  projected = rows @ weights[f'{prefix}adapter.weight'].T + weights[f'{prefix}adapter.bias']
  model = UnitDecoder(cfg)
  embedded = model.apply({'params': golden.params['echo']}, table, ids, method='embed')
  found = model.apply({'params': golden.params['echo']}, embedded, method='project')
  np.testing.assert_allclose(found, projected, atol=1e-5)
