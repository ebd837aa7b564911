"""A small program that has what programs for TPUs have, and its text.

Layers in a scan whose weights are gathered, and a decoding loop with a cache that may end early.
The text as libtpu compiles it for v5e:2x2 is kept beside this file (`TEXT`). To make it anew where
libtpu is installed: `JAX_PLATFORMS=cpu python -m tests.helpers.tpu_program`.
"""

from pathlib import Path
import re

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from echox_jax.compiled import topologies

TEXT = Path(__file__).with_name('tpu_program.hlo.txt')
TOPOLOGY, CHIPS = 'v5e:2x2', 4
LAYERS, ROWS, WIDTH, BUDGET = 6, 2048, 1024, 37  # ROWS over all chips
SLOTS = 256  # of the cache of each layer: more than the on-chip memory holds


def step(weights, rows):
  """Layers on all rows, then up to BUDGET tokens for each eighth row, with a cache."""

  def layer(x, w):
    return jnp.tanh(x @ w), None

  x, _ = jax.lax.scan(layer, rows, weights)

  def token(state):
    i, x, cache, ended = state

    def cached(x, layer):
      w, past = layer
      past = jax.lax.dynamic_update_index_in_dim(past, x, i, axis=0)
      return jnp.tanh(x @ w + past.mean(axis=0)), past

    x, cache = jax.lax.scan(cached, x, (weights, cache))
    return i + 1, x, cache, ended | (x[:, 0] > 0.999)

  start = x.reshape(-1, 8, WIDTH)[:, 0]
  cache = jnp.zeros((LAYERS, SLOTS, *start.shape), start.dtype)
  _, said, _, _ = jax.lax.while_loop(
    lambda state: (state[0] < BUDGET) & ~state[-1].all(),
    token,
    (jnp.int32(0), start, cache, jnp.zeros(len(start), bool)),
  )
  return x, said


def compile_for(devices) -> str:
  """The text of the step compiled for four chips, weights and rows split over them."""
  mesh = Mesh(np.asarray(devices).reshape(CHIPS), ('fsdp',))

  def place(shape, *axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

  weights, rows = place((LAYERS, WIDTH, WIDTH), None, 'fsdp'), place((ROWS, WIDTH), 'fsdp')
  return jax.jit(step).lower(weights, rows).compile().as_text()


if __name__ == '__main__':
  # Notes of the backend and places in the source are long and are not read.
  text = compile_for(topologies.devices(TOPOLOGY))
  text = re.sub(r', backend_config=\{.*\}$', '', text, flags=re.M)
  text = re.sub(r', metadata=\{[^{}]*\}$', '', text, flags=re.M)
  TEXT.write_text(re.sub(r'\nFileNames\n.*?(?=\n%)', '\n', text, flags=re.S).rstrip('\n') + '\n')
