"""A model answers alike on one device and on a mesh, and in bfloat16 or int8 nearly so."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import echox_jax
from echox_jax import errors
from echox_jax.inference import placement
from echox_jax.models import llama, quantize
from echox_jax.models.attention import Mask
from tests.helpers import mesh_answers, tiny_model
from tests.helpers.processes import run_python

QUESTION = mesh_answers.QUESTIONS[0]


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
  return mesh_answers.bundle(tmp_path_factory.mktemp('tiny'))


@pytest.mark.slow
def test_eight_devices_answer_as_one(bundle, tmp_path):
  run_python('-m', 'tests.helpers.mesh_answers', tmp_path, timeout=600)
  told = json.loads((tmp_path / 'told.json').read_text())
  replies, turns = mesh_answers.answers(bundle)
  assert told['texts'] == [reply.text for reply in replies] and told['turns'] == turns
  assert told['overflow'] == [reply.overflow for reply in replies]
  with np.load(tmp_path / 'waves.npz') as waves:
    for reply, wave in zip(replies, waves.values(), strict=True):
      assert len(wave) == len(reply.wave) > 0
      np.testing.assert_allclose(wave, reply.wave, atol=1e-4 * np.abs(reply.wave).max())
  dtype, whole, part = told['kernel']
  assert dtype == 'int8' and np.prod(whole) == 4 * np.prod(part), 'each holds its own part alone'
  assert told['lora_rank'] == 0


@pytest.mark.slow
def test_bfloat16(bundle):
  cfg = placement.with_dtype(bundle.config, 'bfloat16')
  params, _ = placement.prepare(bundle.params, cfg, None)
  leaves = jax.tree.leaves(params['llm'])
  assert {leaf.dtype.name for leaf in leaves} == {'bfloat16', 'float32'}  # float32: norms
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params['vocoder'])} == {'float32'}
  weights = sum(leaf.size for leaf in leaves if leaf.dtype == 'bfloat16')
  assert weights > 0.95 * sum(leaf.size for leaf in leaves)
  reply = dataclasses.replace(bundle, config=cfg).chat().ask(QUESTION)
  assert reply.text[:1] == bundle.chat().ask(QUESTION).text[:1] and np.isfinite(reply.wave).all()


@pytest.mark.slow
def test_int8_holds_a_quarter_and_computes_nearly_the_same(bundle):
  """Random weights leave tokens no margin, so states are compared, not texts."""
  whole, cfg = placement.prepare(bundle.params, bundle.config, None)
  small, _ = placement.prepare(bundle.params, bundle.config, None, int8=True)

  def kernels(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree['trunk'])
    return sum(leaf.nbytes for path, leaf in flat if path[-1].key.startswith('kernel'))

  def hidden(tree):
    at = jnp.arange(20)[None]
    inputs = llama.apply_llm(tree, cfg, 'embed', 40 + at)
    return llama.apply_llm(tree, cfg, 'hidden', inputs, at, Mask(causal=True))[0]

  for group in ('llm', 'echo'):
    assert kernels(small[group]) < 0.4 * kernels(whole[group])
  error = jnp.linalg.norm(hidden(whole) - hidden(small)) / jnp.linalg.norm(hidden(whole))
  assert 0 < float(error) < 0.05
  reply = dataclasses.replace(bundle, int8=True).chat().ask(QUESTION)
  assert reply.text and np.isfinite(reply.wave).all() and len(reply.wave)


def test_a_quantised_kernel_is_nearly_the_kernel():
  kernel = np.random.default_rng(0).normal(size=(2, 30, 7)).astype('f') * np.arange(7, dtype='f')
  values, scale = quantize.quantize_kernel(jnp.asarray(kernel))
  assert values.dtype == jnp.int8 and scale.shape == (2, 7)
  most = np.abs(kernel).max(axis=1, keepdims=True)
  assert (np.abs(values * scale[:, None] - kernel) <= most / 127 / 2 + 1e-6).all()


def test_a_folder_is_opened_with_a_dtype_and_a_mesh(tmp_path):
  folder = tmp_path / 'model'
  tiny_model.write_model(folder, tiny_model.tiny_config())
  model = echox_jax.load(folder, dtype='bfloat16', mesh={'tensor': 1}, int8=True)
  assert model.config.llm.dtype == 'bfloat16' and model.int8
  assert model.mesh.shape['tensor'] == 1 and echox_jax.load(folder).mesh is None
  with pytest.raises(errors.ConfigError, match='dtype is .float16.: use one of float32, bfloat16'):
    echox_jax.load(folder, dtype='float16')
  with pytest.raises(errors.ConfigError, match='does not multiply to the 1 devices'):
    echox_jax.load(folder, mesh={'tensor': 3})
