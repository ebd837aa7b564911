"""Parity of the unit part with arrays of the released code (tests/golden), in float32 at the highest precision."""

import dataclasses
import json
from pathlib import Path

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors, prompts
from echox_jax.conversion import released, released_config, released_units, whisper_hf
from echox_jax.inference import generate, trigger
from echox_jax.models import echox, unit_decoder
from echox_jax.models.llama import head_embedding
from echox_jax.models.unit_decoder import DenoisingAdapter, UnitDecoder
from echox_jax.models.whisper import WhisperEncoder
from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step, released_loss
from echox_jax.training.experiment import DataConfig, ExperimentConfig

GOLDEN = Path(__file__).parent / 'golden'
UNITS = 'unit_translator.'


@pytest.fixture(autouse=True, scope='module')
def released_ids():
  """Full precision, and the tiny model's id in the place of the typo 12800."""
  with pytest.MonkeyPatch.context() as patch, jax.default_matmul_precision('highest'):
    typo = json.loads((GOLDEN / 'config.json').read_text())['ids']['typo_bos']
    patch.setitem(prompts.PROFILES, 'released', dataclasses.replace(prompts.PROFILES['released'], slice_bos=typo))
    yield


@pytest.fixture(scope='module')
def cfg():
  made = released_config.config_from_json(json.loads((GOLDEN / 'config.json').read_text()))
  return dataclasses.replace(
      made, adapter=dataclasses.replace(made.adapter, dropout=0.0, shrink_budget=64),
      unit_decoder=dataclasses.replace(made.unit_decoder, denoising_dropout=0.0))


@pytest.fixture(scope='module')
def weights():
  return dict(np.load(GOLDEN / 'golden_weights.npz'))


@pytest.fixture(scope='module')
def echox_weights(weights):
  return {name.removeprefix('echox/'): value for name, value in weights.items() if name.startswith('echox/')}


@pytest.fixture(scope='module')
def params(cfg, echox_weights, weights):
  whisper = {name.removeprefix('whisper/'): value for name, value in weights.items() if name.startswith('whisper/')}
  groups = released.import_s2t(echox_weights, cfg) | released_units.import_units(echox_weights, cfg)
  return jax.tree.map(jnp.asarray, groups | {'whisper': whisper_hf.encoder_params(whisper, cfg.whisper)})


@pytest.fixture(scope='module')
def stage2():
  return dict(np.load(GOLDEN / 'golden_stage2.npz'))


@pytest.fixture(scope='module')
def stage3():
  return dict(np.load(GOLDEN / 'golden_stage3.npz'))


@pytest.fixture(scope='module')
def stream():
  return dict(np.load(GOLDEN / 'golden_stream.npz'))


def released_gradients(grads, cfg, group):
  """Our gradients under the released names: {released key: array}."""
  flat = traverse_util.flatten_dict(grads, sep='/')
  found = {}
  for rule in released_units._rules(cfg, group, 'denoising_adapter' in grads):
    values = np.asarray(flat[rule.path])
    for i, source in enumerate(rule.sources()):
      found[UNITS + source] = rule.transform(values if rule.layers is None else values[i])
  return found


def test_forward_of_the_unit_decoder(cfg, params, stage2):
  table, ids = params['unit_text_embedding']['embedding'], stage2['t2u_input_ids']
  model, variables = UnitDecoder(cfg), {'params': params['echo']}
  projected = model.apply(variables, model.apply(variables, table, ids, method='embed'), method='project')
  np.testing.assert_allclose(projected, stage2['adapter_out'], atol=1e-5)
  real = stage2['t2u_attention_mask']
  hidden = model.apply(variables, table, ids, real)
  np.testing.assert_allclose(hidden[real], stage2['t2u_hidden'][real], atol=5e-5)
  np.testing.assert_allclose(model.apply(variables, hidden, method='logits')[real], stage2['t2u_logits'][real], atol=5e-5)


def test_stage2_loss_and_gradients(cfg, params, stage2):
  experiment = ExperimentConfig(model=cfg, data=DataConfig(max_unit_words=30))
  held = {'t2c': params['echo'], 'unit_text_embedding': params['unit_text_embedding']}
  batch = {'input_ids': stage2['t2u_input_ids'], 'labels': stage2['t2u_labels']}
  (loss, metrics), grads = jax.value_and_grad(echo_step.t2c_loss, has_aux=True)(held, batch, jax.random.key(0), experiment)
  np.testing.assert_allclose(loss, stage2['loss'], rtol=1e-5)
  assert metrics['tokens'] == (stage2['t2u_labels'] != IGNORE).sum() and metrics['overflow_unit_words'] == 0
  ours = released_gradients(grads, cfg, 't2c')
  compare_gradients(ours, stage2, '')
  assert not np.any(ours[f'{UNITS}model.embed_tokens.weight'])


def compare_gradients(ours, golden, prefix, frozen=()):
  """Every norm and every array that the golden file has."""
  norms = [key for key in golden if key.startswith(f'{prefix}gradnorm/')]
  assert norms
  for key in norms:
    name = key.split('gradnorm/')[1]
    if name in ours and name not in frozen:
      np.testing.assert_allclose(np.linalg.norm(ours[name]), golden[key], rtol=1e-4, atol=1e-7, err_msg=name)
  for key in golden:
    name = key.split('grad/')[-1]
    if key.startswith(f'{prefix}grad/') and name in ours:
      np.testing.assert_allclose(ours[name], golden[key], atol=2e-5, err_msg=name)
