"""A model answers alike on one device and on a mesh, and in bfloat16 or int8 nearly so."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import echox_jax
from echox_jax import errors
from echox_jax.inference import placement, programs
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
  heard = mesh_answers.heard(tmp_path)
  assert told['heard'] == heard and heard[:2] == heard[2:], 'chosen alike, together and alone'


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


# 480 rows are widened in parts of 160, and 191, a prime, at once; 7 are fewer than a part has
@pytest.mark.parametrize('features', [7, 191, 480])
@pytest.mark.parametrize('shape', [(1,), (2, 1), (8,), (3, 5)])
def test_rows_of_a_kernel_multiply_as_the_kernel(shape, features):
  rng = np.random.default_rng(0)
  kernel, x = rng.normal(size=(30, features)).astype('f'), rng.normal(size=(*shape, 30)).astype('f')
  made = quantize.quantize({'kernel': jnp.asarray(kernel)})
  rows = quantize.with_rows({'deep': made})['deep']
  assert rows['kernel_rows'].shape == (features, 30) and 'kernel' not in rows
  stored = np.asarray(made['kernel'], 'f') * made['kernel_scale']
  np.testing.assert_allclose(quantize.scaled_product(x, rows), x @ stored, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(quantize.row(rows, 3), stored[:, 3], rtol=1e-6)


@pytest.mark.slow
def test_a_loop_over_tokens_reads_int8(bundle):
  """XLA would gladly widen the weights once, before the loop, and read four times as much in it."""
  if jax.default_backend() != 'cpu':
    pytest.skip('the rows are for CPUs')
  params, cfg = placement.prepare(bundle.params, bundle.config, None, int8=True)
  made = programs.Programs(cfg, bundle.engine)
  rows, none = np.arange(1, dtype=np.int32), np.int32(0)
  program = made.decode_chunk.lower(params, made.new_conversations(), rows, none).compile()
  weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params['llm']) if leaf.dtype == jnp.int8)
  cache = sum(leaf.nbytes for leaf in jax.tree.leaves(made.new_conversations().cache))
  assert program.memory_analysis().temp_size_in_bytes < cache + weights


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
