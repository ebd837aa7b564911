"""Muon for the kernels of a trunk, AdamW for the rest; and a name of no optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.training import optimizer
from echox_jax.training.experiment import OptimizerConfig

RATE = 0.01


def updates(name, params, gradients):
  cfg = OptimizerConfig(name, RATE, warmup_steps=0, weight_decay=0.0, clip_norm=0.0)
  tx = optimizer.make_optimizer(cfg, 100)
  return jax.jit(lambda p, g: tx.update(g, tx.init(p), p)[0])(params, gradients)


def test_muon_takes_the_kernels_of_a_trunk():
  rng = np.random.default_rng(0)
  shapes = {
    'trunk': {'kernel': (3, 24, 40), 'bias': (3, 40)},
    'adapter': {'kernel': (24, 40)},
    'embedding': (30, 24),
  }
  params, gradients = (
    jax.tree.map(
      lambda shape: jnp.array(rng.normal(size=shape), jnp.float32),
      shapes,
      is_leaf=lambda x: isinstance(x, tuple),
    )
    for _ in range(2)
  )
  ours, adam = (updates(name, params, gradients) for name in ('muon', 'adamw'))
  kernel = np.array(ours['trunk'].pop('kernel')) / RATE
  adam['trunk'].pop('kernel')
  jax.tree.map(np.testing.assert_allclose, ours, adam)
  for layer in kernel:  # steps in all directions alike, of about the size of AdamW's
    sizes = np.linalg.svd(layer, compute_uv=False)
    assert sizes.max() < 2 * sizes.min()
    np.testing.assert_allclose(np.sqrt((layer**2).mean()), 0.2, rtol=0.2)


def test_unknown_name():
  with pytest.raises(errors.ConfigError, match="name is 'sgd': use one of adamw, muon"):
    optimizer.make_optimizer(OptimizerConfig('sgd'), 10)
