"""Llama: cache, padding, LoRA, rotary scaling."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.config import EchoXConfig, LlamaConfig, LoraConfig, RopeScaling
from echox_jax.models import llama, lora
from echox_jax.models.attention import Mask

CFG = EchoXConfig(
  llm=LlamaConfig(
    vocab_size=30,
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    rope_scaling=RopeScaling(),
    lora=LoraConfig(rank=2, alpha=6.0, dropout=0.5),
  )
)
IDS = np.random.default_rng(0).integers(0, 30, (2, 7))


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def params():
  """Parameters with every LoRA leaf away from its zero start."""
  made = nn.meta.unbox(jax.jit(lambda key: llama.init_llm(key, CFG))(jax.random.key(0)))
  return jax.tree.map(lambda is_lora, x: x + 0.3 if is_lora else x, lora.mask(made), made)


@pytest.fixture(scope='module')
def logits(params):
  with jax.default_matmul_precision('highest'):
    return jax.jit(llama.Llama(CFG.llm).apply)({'params': params}, IDS)


def test_cached_steps_give_the_states_of_one_pass(params, logits):
  model, variables, slots = llama.Llama(CFG.llm), {'params': params}, IDS.shape[1] + 2

  @jax.jit
  def step(cache, ids, index):
    positions = index + jnp.arange(ids.shape[1])[None] + jnp.zeros_like(ids)
    mask = Mask(allowed=(jnp.arange(slots) <= positions[..., None])[:, None])
    hidden, cache = model.apply(
      variables,
      model.apply(variables, ids, method='embed'),
      positions,
      mask,
      cache,
      index,
      method='hidden',
    )
    return model.apply(variables, hidden, method='logits'), cache

  first, cache = step(llama.init_cache(CFG.llm, 2, slots), IDS[:, :3], 0)
  found = [first]
  for t in range(3, IDS.shape[1]):
    out, cache = step(cache, IDS[:, t : t + 1], t)
    found.append(out)
  np.testing.assert_allclose(np.concatenate(found, axis=1), logits, atol=1e-5)


def test_separate_layers_and_rows_at_different_places_give_the_same_logits(params, logits):
  """Row 0 is one token ahead of row 1; layers lie apart, as on a CPU."""
  model, slots = llama.Llama(CFG.llm), IDS.shape[1]
  apart = llama.separate_layers(params)
  assert llama.are_layers_separate(apart) and not llama.are_layers_separate(params)

  @jax.jit
  def step(cache, ids, index):
    mask = Mask(jnp.arange(slots) <= index[:, None])
    hidden, cache = model.apply(
      {'params': apart},
      model.apply({'params': apart}, ids, method='embed'),
      index[:, None],
      mask,
      cache,
      index,
      method='hidden',
    )
    return model.apply({'params': apart}, hidden, method='logits')[:, 0], cache

  cache = llama.init_cache(CFG.llm, 2, slots, separate=True)
  rows, found = np.arange(2), np.zeros(logits.shape, np.float32)
  for t in range(slots + 1):
    at = np.clip([t, t - 1], 0, slots - 1)
    out, cache = step(cache, IDS[rows, at][:, None], jnp.asarray(at))
    found[rows, at] = out
  np.testing.assert_allclose(found, logits, atol=1e-5)


def test_padding_at_the_right_changes_nothing(params, logits):
  model, variables = llama.Llama(CFG.llm), {'params': params}
  ids = np.pad(IDS, ((0, 0), (0, 3)))
  mask = Mask(jnp.arange(10)[None] < jnp.array([[7], [7]]), causal=True)
  positions = jnp.broadcast_to(jnp.arange(10), ids.shape)
  hidden, _ = jax.jit(
    lambda: model.apply(
      variables, model.apply(variables, ids, method='embed'), positions, mask, method='hidden'
    )
  )()
  np.testing.assert_allclose(
    model.apply(variables, hidden[:, :7], method='logits'), logits, atol=1e-5
  )


def test_merged_lora_gives_the_same_logits(params, logits):
  merged = lora.merge(params, CFG.llm.lora)
  assert not any(jax.tree.leaves(lora.mask(merged)))
  plain = lora.merged_config(CFG).llm
  np.testing.assert_allclose(
    jax.jit(llama.Llama(plain).apply)({'params': merged}, IDS), logits, atol=1e-5
  )
  shapes = jax.eval_shape(
    lambda key: nn.meta.unbox(llama.init_llm(key, dataclasses.replace(CFG, llm=plain))),
    jax.random.key(0),
  )
  assert jax.tree.structure(shapes) == jax.tree.structure(merged)


def test_joined_projections_give_the_same_logits(params, logits):
  plain = llama.Llama(lora.merged_config(CFG).llm)
  joined = llama.join_projections(lora.merge(params, CFG.llm.lora))
  block = joined['trunk']['layers']
  assert set(block['self_attn']) == {'qkv_proj', 'o_proj'}
  assert set(block['mlp']) == {'gate_up_proj', 'down_proj'}
  turned = llama.transpose_head(joined, llama.head_embedding(joined))
  for tree in (joined, llama.separate_layers(joined), turned):
    found = jax.jit(plain.apply)({'params': tree}, IDS)
    np.testing.assert_allclose(found, logits, atol=1e-5)


def test_lora_leaves_are_those_of_the_named_projections(params):
  attention = lora.mask(params)['trunk']['layers']['self_attn']
  assert attention == {
    **{name: {'kernel': False, 'lora_a': True, 'lora_b': True} for name in CFG.llm.lora.targets},
    'o_proj': {'kernel': False},
  }


def test_lora_starts_as_the_plain_model():
  made = nn.meta.unbox(jax.jit(lambda key: llama.init_llm(key, CFG))(jax.random.key(0)))
  merged = lora.merge(made, CFG.llm.lora)
  np.testing.assert_array_equal(
    merged['trunk']['layers']['self_attn']['q_proj']['kernel'],
    made['trunk']['layers']['self_attn']['q_proj']['kernel'],
  )


def test_lora_dropout_needs_and_uses_a_key(params, logits):
  noisy = jax.jit(
    lambda key: llama.Llama(CFG.llm).apply(
      {'params': params}, IDS, deterministic=False, rngs={'dropout': key}
    )
  )
  assert not np.allclose(noisy(jax.random.key(1)), logits, atol=1e-4)


def test_llama3_scaling_of_rotary_frequencies():
  """The definition (facts 4), wavelength by wavelength."""
  plain = llama.rope_frequencies(128, 500000.0, None)
  scaled = llama.rope_frequencies(128, 500000.0, RopeScaling())
  for before, after in zip(plain.astype(np.float64), scaled):
    wavelength = 2 * np.pi / before
    if wavelength < 2048:
      expected = before
    elif wavelength > 8192:
      expected = before / 8
    else:
      smooth = (8192 / wavelength - 1) / 3
      expected = (1 - smooth) * before / 8 + smooth * before
    np.testing.assert_allclose(after, expected, rtol=1e-5)


def test_rotation_depends_on_distance_only():
  freqs = llama.rope_frequencies(8, 10000.0, None)
  q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
  at = lambda x, position: llama.apply_rope(x, jnp.array([[position]]), freqs)
  np.testing.assert_allclose(
    jnp.sum(at(q, 9) * at(k, 4)), jnp.sum(at(q, 25) * at(k, 20)), atol=1e-5
  )


def test_tied_head():
  cfg = dataclasses.replace(CFG.llm, tie_embeddings=True)
  made = nn.meta.unbox(jax.jit(llama.Llama(cfg).init)(jax.random.key(0), IDS))['params']
  assert 'lm_head' not in made
  assert llama.head_embedding(made) is made['embed_tokens']['embedding']
  turned = llama.transpose_head(made, llama.head_embedding(made))
  np.testing.assert_array_equal(llama.head_row(turned, 3), llama.head_row(made, 3))
