"""Attention: one result by every means, what is masked has no influence, and plain words where a
means cannot be had.
"""

import dataclasses
import functools
import importlib.util
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.models import attention as attention_lib
from echox_jax.models import llama
from echox_jax.models.attention import Mask, attention
from tests.helpers import tiny
from tests.helpers.processes import run_python

B, T, N, K, H = 2, 150, 4, 2, 8
LENGTHS = jnp.array([150, 90])
KEYS = jnp.arange(T) < LENGTHS[:, None]
SEGMENTS = jnp.where(KEYS, 1 + (jnp.arange(T) >= 40) + (jnp.arange(T) >= 70), 0)
MASKS = {
  'causal': Mask(causal=True),
  'both ways': Mask(),
  'keys': Mask(KEYS),
  'causal keys': Mask(KEYS, causal=True),
  'left padding': Mask(KEYS[:, ::-1], causal=True),
  'segments': Mask(segments=SEGMENTS, causal=True),
}


@pytest.fixture(scope='module')
def arrays():
  rng = np.random.default_rng(0)
  return tuple(jnp.asarray(rng.normal(size=(B, T, heads, H)), jnp.float32) for heads in (N, K, K))


def of_real(mask, out):
  """What counts: positions that are real keys."""
  return out if mask.keys is None else jnp.where(mask.keys[..., None, None], out, 0)


@pytest.mark.parametrize('name', MASKS)
def test_one_head_after_another_is_the_plain_form_gradients_included(arrays, name):
  mask = MASKS[name]

  def value(compute, arrays):
    out = of_real(mask, compute(*arrays, mask))
    return jnp.sum(jnp.sin(out)), out

  plain, ours = (
    jax.jit(jax.grad(functools.partial(value, compute), has_aux=True))(arrays)
    for compute in (attention_lib.xla, attention_lib.by_head)
  )
  for wanted, found in zip(jax.tree.leaves(plain), jax.tree.leaves(ours)):
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize('name', MASKS)
def test_splash_is_the_plain_form_gradients_included(arrays, name):
  mask = MASKS[name]
  splash = functools.partial(
    attention_lib.splash, keys=mask.keys, segments=mask.segments, causal=mask.causal, interpret=True
  )

  def value(compute, arrays):
    out = of_real(mask, compute(*arrays))
    return jnp.sum(jnp.sin(out)), out

  plain, ours = (
    jax.jit(jax.grad(functools.partial(value, compute), has_aux=True))(arrays)
    for compute in (lambda q, k, v: attention_lib.xla(q, k, v, mask), splash)
  )
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(ours)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.isfinite(splash(*arrays)).all()


def test_masks_are_what_they_say():
  keys, segments = jnp.array([[True, True, False, True]]), jnp.array([[1, 1, 2, 2]])
  assert Mask().dense(3, 3) is None
  np.testing.assert_array_equal(Mask(keys).dense(2, 4)[0, 0], [[1, 1, 0, 1]])
  np.testing.assert_array_equal(
    Mask(keys, causal=True).dense(4, 6)[0, 0],
    [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]],
  )
  np.testing.assert_array_equal(
    Mask(keys, segments, causal=True).dense(4, 4)[0, 0],
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
  )
  np.testing.assert_array_equal(
    Mask(allowed=keys[:, None, None], causal=True).dense(4, 4)[0, 0],
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]],
  )


_MESH = """
import functools
import jax
jax.config.update('jax_num_cpu_devices', 4)
from echox_jax.parallel import sharding
from echox_jax.models import attention as lib
import jax.numpy as jnp
import numpy as np
lib.current_platform, lib.splash = lambda: 'tpu', functools.partial(lib.splash, interpret=True)
rng = np.random.default_rng(0)
q, k, v = (jnp.asarray(rng.normal(size=(4, 20, heads, 8)), jnp.float32) for heads in (4, 2, 2))
mask = lib.Mask(jnp.arange(20) < jnp.array([[20], [7], [3], [12]]), causal=True)
of_real = lambda x: jnp.where(mask.keys[..., None, None], x, 0)

def compute(backend):
  return jax.jit(lambda q, k, v: of_real(lib.attention(q, k, v, mask, backend=backend)))

plain = compute('xla')(q, k, v)
with jax.set_mesh(sharding.make_mesh({'data': 2, 'tensor': 2})):
  split = compute('auto').lower(q, k, v)
  assert 'manual_computation' in split.as_text() or 'shard_map' in split.as_text()
  np.testing.assert_allclose(split.compile()(q, k, v), plain, atol=1e-5)
"""


def test_under_a_mesh_each_device_computes_its_rows_and_heads():
  """The real path of a TPU, interpreted: two devices share the rows, two the heads."""
  run_python('-c', _MESH)


def test_what_cannot_be_had_is_said_once_and_computed_plainly(arrays, caplog):
  attention_lib.say_once.cache_clear()
  mask = MASKS['causal']
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      np.testing.assert_array_equal(
        attention(*arrays, mask, backend='splash'), attention(*arrays, mask)
      )
  assert [record.message for record in caplog.records] == [
    "attention 'splash' is not available here, as this runs on cpu, not tpu: using xla instead."
  ]
  with caplog.at_level(logging.WARNING):
    attention(*arrays, mask, backend='auto')  # the plain form is the best there is on a CPU
  assert len(caplog.records) == 1
  with pytest.raises(
    errors.ConfigError, match="attention is 'flash': use one of xla, splash, cudnn, by_head, auto"
  ):
    attention(*arrays, mask, backend='flash')


@pytest.mark.parametrize(
  'backend, change, words',
  [
    ('splash', dict(dropout=True), 'drops attention weights'),
    ('splash', dict(mask=Mask(allowed=KEYS[:, None, None])), 'irregular'),
    ('splash', dict(query=jnp.zeros((B, 1, N, H))), 'cache'),
    ('cudnn', {}, 'bfloat16 or float16, not float32'),
    (
      'cudnn',
      dict(query=jnp.zeros((B, T, N, 256), jnp.bfloat16)),
      'heads of 8, 16 ... 128, not 256',
    ),
  ],
)
def test_obstacles_are_named(arrays, monkeypatch, backend, change, words):
  monkeypatch.setattr(
    attention_lib, 'current_platform', lambda: {'splash': 'tpu', 'cudnn': 'gpu'}[backend]
  )
  given = dict(query=arrays[0], key=arrays[1], mask=MASKS['causal'], dropout=False)
  assert words in attention_lib.obstacle(backend, **given | change)
  if backend == 'splash':
    assert attention_lib.obstacle(backend, **given) is None


def test_cudnn_is_asked_for_what_the_mask_says(arrays, monkeypatch):
  """The call itself, computed by the plain form of the same function."""
  asked = []
  of_jax = jax.nn.dot_product_attention

  def plain(*args, implementation, **kwargs):
    asked.append((implementation, kwargs['is_causal'], kwargs['mask'] is not None))
    return of_jax(*args, **kwargs)

  monkeypatch.setattr(attention_lib, 'current_platform', lambda: 'gpu')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', plain)
  arrays = tuple(x.astype(jnp.bfloat16) for x in arrays)
  for mask in MASKS.values():
    found = attention(*arrays, mask, backend='auto').astype(jnp.float32)
    np.testing.assert_allclose(
      of_real(mask, found), of_real(mask, attention(*arrays, mask).astype(jnp.float32)), atol=0.03
    )
  assert asked == [
    ('cudnn', mask.causal, mask.keys is not None or mask.segments is not None)
    for mask in MASKS.values()
  ]


def test_a_llama_with_splash_is_the_llama(monkeypatch):
  cfg = dataclasses.replace(tiny.TRUNK, remat='full')
  ids = jnp.arange(24).reshape(2, 12)
  params = llama.Llama(cfg).init(jax.random.key(0), ids)
  plain = llama.Llama(cfg).apply(params, ids)
  monkeypatch.setattr(attention_lib, 'current_platform', lambda: 'tpu')
  monkeypatch.setattr(
    attention_lib, 'splash', functools.partial(attention_lib.splash, interpret=True)
  )
  ours = llama.Llama(dataclasses.replace(cfg, attention='splash')).apply(params, ids)
  np.testing.assert_allclose(ours, plain, atol=1e-5)


_COMPILE = """
import os
os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'  # it is only compiled for
from echox_jax.parallel import sharding
from echox_jax.compiled import topologies
from echox_jax.models.attention import attention, Mask
import jax, jax.numpy as jnp
mesh = sharding.make_mesh({'data': 2, 'tensor': 2}, topologies.devices('v5e:2x2'))
where = jax.sharding.NamedSharding(mesh, sharding.spec(('batch', None, 'heads', None)))
rows = jax.sharding.NamedSharding(mesh, sharding.spec(('batch', None)))
for width in (64, 128):
  shape = lambda heads: jax.ShapeDtypeStruct((4, 1000, heads, width), jnp.bfloat16, sharding=where)
  segments = jax.ShapeDtypeStruct((4, 1000), jnp.int32, sharding=rows)
  def loss(q, k, v, segments):
    mask = Mask(segments=segments, causal=True)
    return attention(q, k, v, mask, backend='auto').astype(jnp.float32).sum()
  with jax.set_mesh(mesh):
    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    text = step.lower(shape(8), shape(4), shape(4), segments).compile().as_text()
  assert text.count('custom_call_target="tpu_custom_call"') >= 3, text.count('tpu_custom_call')
"""


@pytest.mark.slow
def test_splash_compiles_for_a_tpu_slice():
  """Forward and backward, heads of 64 and 128, rows and heads split; needs libtpu."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed')
  run_python('-c', _COMPILE)


@pytest.mark.parametrize('slots', [512, 513, 800])
def test_a_cache_is_read_as_far_as_it_is_in_use(slots):
  """One token over a long cache: rows of other lengths, holes, and slots beyond that hold NaN."""
  rng = np.random.default_rng(slots)
  query = rng.normal(size=(4, 1, 6, 16)).astype('f')
  key, value = rng.normal(size=(2, 4, 2, slots, 16)).astype('f')
  used = np.asarray([1, 255, 257, 511])
  keys = (np.arange(slots) < used[:, None]) & (rng.random((4, slots)) < 0.8)
  keys[:, 0] = True
  wanted = attention_lib.cached_attention(query, key, value, attention_lib.Mask(keys))
  found = attention_lib.by_block(query, key, value, keys)
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  key[:, :, 512:], value[:, :, 512:] = np.nan, np.nan  # no block behind the last one in use is read
  np.testing.assert_array_equal(attention_lib.by_block(query, key, value, keys), found)
  keys[2] = False
  assert np.isfinite(attention_lib.by_block(query, key, value, keys)).all()
  everything = np.ones_like(keys)
  key, value = rng.normal(size=(2, 4, 2, slots, 16)).astype('f')
  np.testing.assert_allclose(
    attention_lib.by_block(query, key, value, everything),
    attention_lib.cached_attention(query, key, value, attention_lib.Mask(everything)),
    atol=1e-6,
  )
