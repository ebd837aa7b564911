"""Llama, Qwen2 and Qwen3: the definition, cache, padding, LoRA, rotary scaling."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.config import EchoXConfig, LlamaConfig, LoraConfig, RopeScaling
from echox_jax.models import llama, lora, quantize
from echox_jax.models.attention import Mask

FAMILIES = {
  'llama': dict(head_dim=4, rope_scaling=RopeScaling()),
  'qwen2': dict(head_dim=4, qkv_bias=True, tie_embeddings=True, rope_theta=1e6),
  'qwen3': dict(head_dim=6, qk_norm=True, rope_theta=5e6, rms_norm_eps=1e-6),  # 4 x 6 is not 16
}
IDS = np.random.default_rng(0).integers(0, 30, (2, 7))


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


# test_families answers questions with a Qwen2, too
@pytest.fixture(
  scope='module', params=['llama', pytest.param('qwen2', marks=pytest.mark.slow), 'qwen3']
)
def cfg(request):
  return EchoXConfig(
    llm=LlamaConfig(
      vocab_size=30,
      hidden_size=16,
      intermediate_size=32,
      num_layers=2,
      num_heads=4,
      num_kv_heads=2,
      lora=LoraConfig(rank=2, alpha=6.0, dropout=0.5),
      **FAMILIES[request.param],
    )
  )


@pytest.fixture(scope='module')
def fresh(cfg):
  return nn.meta.unbox(jax.jit(lambda key: llama.init_llm(key, cfg))(jax.random.key(0)))


@pytest.fixture(scope='module')
def params(fresh):
  """Parameters with every LoRA leaf, bias and scale away from its start."""
  rng = np.random.default_rng(1)

  def away(path, leaf):
    if path[-1].key in lora.LEAVES:
      return leaf + 0.3
    moved = path[-1].key in ('bias', 'scale')
    return leaf + moved * rng.normal(0, 0.4, leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(away, fresh)


@pytest.fixture(scope='module')
def logits(cfg, params):
  with jax.default_matmul_precision('highest'):
    return jax.jit(llama.Llama(cfg.llm).apply)({'params': params}, IDS)


def by_definition(params, cfg, ids):
  """Logits of one row in float64, position by position and head by head."""
  layers, half = params['trunk']['layers'], cfg.head_dim // 2
  freqs = llama.rope_frequencies(cfg.head_dim, cfg.rope_theta, cfg.rope_scaling).astype(float)
  norm = lambda x, scale: x / np.sqrt(np.mean(x * x, -1, keepdims=True) + cfg.rms_norm_eps) * scale

  def project(x, where, name, layer):
    found = x @ where[name]['kernel'][layer]
    return found + where[name]['bias'][layer] if 'bias' in where[name] else found

  def turned(head, position):
    pairs = (head[:half] + 1j * head[half:]) * np.exp(1j * position * freqs)
    return np.concatenate([pairs.real, pairs.imag])

  def heads(x, where, name, layer):
    found = project(x, where, f'{name}_proj', layer).reshape(len(ids), -1, cfg.head_dim)
    if f'{name}_norm' in where:
      found = norm(found, where[f'{name}_norm']['scale'][layer])
    return found

  x = params['embed_tokens']['embedding'][ids]
  for layer in range(cfg.num_layers):
    seen, where = norm(x, layers['input_layernorm']['scale'][layer]), layers['self_attn']
    q, k, v = (heads(seen, where, name, layer) for name in 'qkv')
    out = np.zeros_like(q)
    for head in range(cfg.num_heads):
      shared = head // (cfg.num_heads // cfg.num_kv_heads)
      for t in range(len(ids)):
        mine = turned(q[t, head], t)
        scores = np.array([mine @ turned(k[s, shared], s) for s in range(t + 1)])
        weights = np.exp(scores / np.sqrt(cfg.head_dim))
        out[t, head] = weights / weights.sum() @ v[: t + 1, shared]
    x = x + project(out.reshape(len(ids), -1), where, 'o_proj', layer)
    seen, where = norm(x, layers['post_attention_layernorm']['scale'][layer]), layers['mlp']
    gate = project(seen, where, 'gate_proj', layer)
    inner = gate / (1 + np.exp(-gate)) * project(seen, where, 'up_proj', layer)
    x = x + project(inner, where, 'down_proj', layer)
  return norm(x, params['trunk']['norm']['scale']) @ llama.head_embedding(params).T


def test_logits_are_those_of_the_definition(cfg, params, logits):
  merged = lora.merge(params, cfg.llm.lora)
  exact = jax.tree.map(lambda x: np.asarray(x, np.float64), merged)
  for row, found in zip(IDS, logits):
    np.testing.assert_allclose(found, by_definition(exact, cfg.llm, row), atol=1e-5)


def test_a_family_has_the_parameters_that_are_its_own(cfg, fresh):
  attention = fresh['trunk']['layers']['self_attn']
  has_bias = {name for name, leaves in attention.items() if 'bias' in leaves}
  assert has_bias == ({'q_proj', 'k_proj', 'v_proj'} if cfg.llm.qkv_bias else set())
  norms = {name: leaves['scale'].shape for name, leaves in attention.items() if 'scale' in leaves}
  shape = (cfg.llm.num_layers, cfg.llm.head_dim)
  assert norms == ({'q_norm': shape, 'k_norm': shape} if cfg.llm.qk_norm else {})


def test_cached_steps_give_the_states_of_one_pass(cfg, params, logits):
  model, variables, slots = llama.Llama(cfg.llm), {'params': params}, IDS.shape[1] + 2

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

  first, cache = step(llama.init_cache(cfg.llm, 2, slots), IDS[:, :3], 0)
  found = [first]
  for t in range(3, IDS.shape[1]):
    out, cache = step(cache, IDS[:, t : t + 1], t)
    found.append(out)
  np.testing.assert_allclose(np.concatenate(found, axis=1), logits, atol=1e-5)


def test_separate_layers_and_rows_at_different_places_give_the_same_logits(cfg, params, logits):
  """Row 0 is one token ahead of row 1; layers lie apart, as on a CPU."""
  model, slots = llama.Llama(cfg.llm), IDS.shape[1]
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

  cache = llama.init_cache(cfg.llm, 2, slots, separate=True)
  rows, found = np.arange(2), np.zeros(logits.shape, np.float32)
  for t in range(slots + 1):
    at = np.clip([t, t - 1], 0, slots - 1)
    out, cache = step(cache, IDS[rows, at][:, None], jnp.asarray(at))
    found[rows, at] = out
  np.testing.assert_allclose(found, logits, atol=1e-5)


def test_padding_at_the_right_changes_nothing(cfg, params, logits):
  model, variables = llama.Llama(cfg.llm), {'params': params}
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


def test_merged_lora_gives_the_same_logits(cfg, params, logits):
  merged = lora.merge(params, cfg.llm.lora)
  assert not any(jax.tree.leaves(lora.mask(merged)))
  plain = lora.merged_config(cfg).llm
  np.testing.assert_allclose(
    jax.jit(llama.Llama(plain).apply)({'params': merged}, IDS), logits, atol=1e-5
  )
  shapes = jax.eval_shape(
    lambda key: nn.meta.unbox(llama.init_llm(key, dataclasses.replace(cfg, llm=plain))),
    jax.random.key(0),
  )
  assert jax.tree.structure(shapes) == jax.tree.structure(merged)


def test_joined_projections_give_the_same_logits(cfg, params, logits):
  plain = llama.Llama(lora.merged_config(cfg).llm)
  joined = llama.join_projections(lora.merge(params, cfg.llm.lora))
  block = joined['trunk']['layers']
  assert set(block['self_attn']) - {'q_norm', 'k_norm'} == {'qkv_proj', 'o_proj'}
  assert set(block['mlp']) == {'gate_up_proj', 'down_proj'}
  turned = llama.transpose_head(joined, llama.head_embedding(joined))
  for tree in (joined, llama.separate_layers(joined), turned):
    found = jax.jit(plain.apply)({'params': tree}, IDS)
    np.testing.assert_allclose(found, logits, atol=1e-5)


def test_int8_kernels_give_nearly_the_same_states(cfg, params):
  plain = llama.Llama(lora.merged_config(cfg).llm)
  whole = llama.join_projections(lora.merge(params, cfg.llm.lora))
  hidden = jax.jit(
    lambda tree: plain.apply(
      {'params': tree},
      plain.apply({'params': tree}, IDS, method='embed'),
      jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape),
      Mask(causal=True),
      method='hidden',
    )[0]
  )
  expected, found = hidden(whole), hidden(quantize.quantize(whole))
  assert 0 < jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected) < 0.03


def test_lora_leaves_are_those_of_the_named_projections(cfg, params):
  attention = lora.mask(params)['trunk']['layers']['self_attn']
  for name, leaves in attention.items():
    found = {leaf for leaf, is_lora in leaves.items() if is_lora}
    assert found == ({'lora_a', 'lora_b'} if name in cfg.llm.lora.targets else set())


def test_lora_starts_as_the_plain_model(cfg, fresh):
  merged = lora.merge(fresh, cfg.llm.lora)
  np.testing.assert_array_equal(
    merged['trunk']['layers']['self_attn']['q_proj']['kernel'],
    fresh['trunk']['layers']['self_attn']['q_proj']['kernel'],
  )


def test_lora_dropout_needs_and_uses_a_key(cfg, params, logits):
  noisy = jax.jit(
    lambda key: llama.Llama(cfg.llm).apply(
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


def test_tied_head(cfg):
  tied = dataclasses.replace(cfg.llm, tie_embeddings=True)
  made = nn.meta.unbox(jax.jit(llama.Llama(tied).init)(jax.random.key(0), IDS))['params']
  assert 'lm_head' not in made
  assert llama.head_embedding(made) is made['embed_tokens']['embedding']
  turned = llama.transpose_head(made, llama.head_embedding(made))
  np.testing.assert_array_equal(llama.head_row(turned, 3), llama.head_row(made, 3))
