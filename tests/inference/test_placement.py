"""A model answers alike on one device and on a mesh, and in bfloat16 nearly so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import echox_jax
from echox_jax import errors
from echox_jax.config import LoraConfig
from echox_jax.inference import placement
from echox_jax.models import llama, lora, quantize
from echox_jax.models import params as params_lib
from echox_jax.models.attention import Mask
from echox_jax.parallel import sharding
from tests.helpers import tiny_model

QUESTIONS = [(tiny_model.question(1.5), 16000), 'Paris?', (tiny_model.question(0.7, 1), 16000)]
TARGETS = ('q_proj', 'o_proj', 'up_proj', 'down_proj')


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
  """A model with LoRA, with room for four conversations."""
  made = tiny_model.tiny_bundle(tmp_path_factory.mktemp('tiny'))
  llm = dataclasses.replace(made.config.llm, lora=LoraConfig(4, 8.0, 0.0, TARGETS))
  cfg = dataclasses.replace(made.config, llm=llm)
  fresh = sharding.unbox(
    jax.jit(lambda key: params_lib.init_groups(key, cfg, ('llm',)))(jax.random.key(0))
  )['llm']
  drawn = np.random.default_rng(0)
  low_rank = lora.mask(fresh)
  params = jax.tree.map(
    lambda x, is_lora: drawn.normal(0, 0.1, x.shape).astype('f') if is_lora else np.asarray(x),
    fresh,
    low_rank,
  )
  engine = dataclasses.replace(made.engine, conversations=4)
  return dataclasses.replace(made, config=cfg, params={**made.params, 'llm': params}, engine=engine)


@pytest.fixture(scope='module')
def alone(bundle):
  return bundle.answer(QUESTIONS)


@pytest.mark.parametrize(
  'sizes', [dict(data=4, tensor=2), dict(fsdp=2, tensor=2, data=2)], ids=['tensor', 'fsdp']
)
def test_eight_devices_answer_as_one(bundle, alone, sizes):
  model = dataclasses.replace(bundle, mesh=sharding.make_mesh(sizes))
  seconds = model.warm_up()
  replies = model.answer(QUESTIONS)
  assert seconds > 0 and [reply.text for reply in replies] == [reply.text for reply in alone]
  for reply, wanted in zip(replies, alone):
    assert reply.overflow == wanted.overflow and len(reply.wave) == len(wanted.wave) > 0
    np.testing.assert_allclose(reply.wave, wanted.wave, atol=1e-3)
  chats = [model.chat() for _ in range(2)]
  assert chats[0].ask(QUESTIONS[0]).text == alone[0].text
  assert chats[1].ask(QUESTIONS[1]).text == alone[1].text
  later = dataclasses.replace(bundle).chat()
  later.ask(QUESTIONS[0])
  assert chats[0].ask(QUESTIONS[1]).text == later.ask(QUESTIONS[1]).text


def test_a_device_holds_its_part_alone(bundle):
  params, cfg = placement.prepare(
    bundle.params, bundle.config, sharding.make_mesh(dict(data=4, tensor=2))
  )
  assert cfg.llm.lora.rank == 0 and 'lora_a' not in str(jax.tree.structure(params['llm']))
  kernel = params['llm']['trunk']['layers']['mlp']['up_proj']['kernel']
  assert kernel.sharding.shard_shape(kernel.shape)[-1] * 2 == kernel.shape[-1]


def test_bfloat16(bundle, alone):
  cfg = placement.with_dtype(bundle.config, 'bfloat16')
  params, _ = placement.prepare(bundle.params, cfg, None)
  held = {leaf.dtype.name for leaf in jax.tree.leaves(params['llm'])}
  assert held == {'bfloat16', 'float32'}  # norms
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params['vocoder'])} == {'float32'}
  weights = [leaf for leaf in jax.tree.leaves(params['llm']) if leaf.dtype == 'bfloat16']
  assert sum(x.size for x in weights) > 0.95 * sum(x.size for x in jax.tree.leaves(params['llm']))
  reply = dataclasses.replace(bundle, config=cfg).chat().ask(QUESTIONS[0])
  assert reply.text[:1] == alone[0].text[:1] and np.isfinite(reply.wave).all()


def test_a_folder_is_opened_with_a_dtype_and_a_mesh(tmp_path):
  tiny_model.write_model(tmp_path, tiny_model.tiny_config())
  model = echox_jax.load(tmp_path, dtype='bfloat16', mesh={'tensor': 2, 'data': 4})
  assert model.config.llm.dtype == 'bfloat16' and model.mesh.shape['tensor'] == 2
  assert echox_jax.load(tmp_path).mesh is None
  with pytest.raises(errors.ConfigError, match='dtype is .float16.: use one of float32, bfloat16'):
    echox_jax.load(tmp_path, dtype='float16')
  with pytest.raises(errors.ConfigError, match='does not multiply to the 8 devices'):
    echox_jax.load(tmp_path, mesh={'tensor': 3})


def test_int8_holds_a_quarter_and_answers_nearly_alike(bundle, alone):
  """Random weights leave the tokens no margin, so states are compared, not texts."""
  whole, cfg = placement.prepare(bundle.params, bundle.config, None)
  small, _ = placement.prepare(bundle.params, bundle.config, None, int8=True)

  def kernels(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree['trunk'])
    return sum(leaf.nbytes for path, leaf in flat if path[-1].key.startswith('kernel'))

  assert kernels(small['llm']) < 0.4 * kernels(whole['llm'])
  assert kernels(small['echo']) < 0.4 * kernels(whole['echo'])
  ids = jnp.arange(40, 60)[None]

  def hidden(tree):
    inputs = llama.apply_llm(tree, cfg, 'embed', ids)
    at = jnp.arange(20)[None]
    return llama.apply_llm(tree, cfg, 'hidden', inputs, at, Mask(causal=True))[0]

  states, close = hidden(whole), hidden(small)
  error = jnp.linalg.norm(states - close) / jnp.linalg.norm(states)
  assert 0 < float(error) < 0.05
  reply = dataclasses.replace(bundle, int8=True).chat().ask(QUESTIONS[0])
  assert reply.text and np.isfinite(reply.wave).all() and len(reply.wave)
  split = dataclasses.replace(bundle, int8=True, mesh=sharding.make_mesh(dict(data=4, tensor=2)))
  assert split.chat().ask(QUESTIONS[0]).text == reply.text


def test_a_quantised_kernel_is_nearly_the_kernel():
  kernel = np.random.default_rng(0).normal(size=(2, 30, 7)).astype('f') * np.arange(7)
  values, scale = quantize.quantize_kernel(jnp.asarray(kernel))
  assert values.dtype == jnp.int8 and scale.shape == (2, 7)
  most = np.abs(kernel).max(axis=1, keepdims=True)
  assert (np.abs(values * scale[:, None] - kernel) <= most / 127 / 2 + 1e-6).all()
