"""The rule table, the mesh, and what they refuse."""

import types

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
import pytest

from echox_jax import errors
from echox_jax.models import params as params_lib
from echox_jax.parallel import sharding
from echox_jax.training import stages, state, step
from tests.helpers import sharded_jobs

DEVICES = [
  types.SimpleNamespace(id=i, process_index=0, platform='cpu', device_kind='cpu') for i in range(8)
]


def mesh(**sizes):
  """A mesh without devices."""
  return AbstractMesh(tuple(sizes.get(axis, 1) for axis in sharding.AXES), sharding.AXES)


def boxed(shape, *names):
  return {
    'group': {'kernel': nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)}
  }


@pytest.mark.parametrize(
  'sizes, message',
  [
    (dict(data=4), 'dcn_data=1, data=4, .* does not multiply to the 8 devices'),
    (dict(data=-1, tensor=3), 'does not multiply to the 8 devices'),
    (dict(data=-1, fsdp=-1), 'leaves more than one size open'),
    (dict(data=0), 'has a size that is not a number of devices'),
    (dict(data=-1, dcn_data=3), 'does not multiply to the 8 devices'),
  ],
)
def test_sizes_that_do_not_multiply(sizes, message):
  with pytest.raises(errors.ConfigError, match=message):
    sharding.make_mesh(sizes, DEVICES)


def test_slices_are_the_outermost_part_of_data():
  ids = lambda array: [[d.id for d in row] for row in array[..., 0, 0]]
  assert ids(sharding.arrange(DEVICES, 2, 2, 2, 1, 1)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
  sliced = [types.SimpleNamespace(**vars(d), slice_index=d.id % 2) for d in DEVICES]
  assert ids(sharding.arrange(sliced, 2, 2, 2, 1, 1)) == [[0, 2], [4, 6], [1, 3], [5, 7]]
  with pytest.raises(
    errors.ConfigError, match='form 2 slices, but mesh.dcn_data is 1: set it to 2'
  ):
    sharding.arrange(sliced, 1, 8, 1, 1, 1)


def test_every_parameter_of_every_model_part_has_a_sharding():
  abstract = jax.eval_shape(
    lambda key: params_lib.init_groups(
      key, sharded_jobs.MODEL, params_lib.GROUPS, sharded_jobs.DISCRIMINATORS
    ),
    jax.random.key(0),
  )
  placed = sharding.param_shardings(
    {k: v for k, v in abstract.items() if k != 'hubert'}, mesh(data=2, fsdp=2, tensor=2)
  )
  spec = lambda *path: jax.tree_util.tree_reduce(lambda _, x: x.spec, _at(placed, path), None)
  assert spec('llm', 'trunk', 'layers', 'mlp', 'down_proj', 'kernel') == P(None, 'tensor', 'fsdp')
  assert spec('llm', 'embed_tokens', 'embedding') == P(None, ('fsdp', 'tensor'))
  assert spec('echo', 'lm_head', 'embedding') == P(None, ('fsdp', 'tensor'))
  assert spec('vocoder', 'conv_pre', 'kernel') == P(None, 'fsdp', 'tensor')
  # One sample wide: whole.
  assert spec('discriminators', 'scale_0', 'conv_post', 'kernel') == P(None, 'fsdp', None)
  sharding.param_shardings({'hubert': abstract['hubert']}, mesh(fsdp=2, tensor=2))


def _at(tree, path):
  for key in path:
    tree = tree[key]
  return tree


@pytest.mark.parametrize(
  'shape, names, message',
  [
    (
      (8, 8),
      ('embed', 'table_embed'),
      "parameter group/kernel has axes 'embed' and 'table_embed', .* mesh axis 'fsdp'",
    ),
    (
      (8, 8),
      ('embed', 'colour'),
      "parameter group/kernel has axis 'colour', for which there is no sharding rule",
    ),
    (
      (9, 8),
      ('embed', 'mlp'),
      r"parameter group/kernel of shape \(9, 8\) has 9 'embed', which "
      r'mesh axis fsdp of size 2 does not divide',
    ),
    (
      (7, 6),
      ('vocab', 'table_embed'),
      "has 6 'table_embed', which mesh axis fsdp x tensor of size 4 does not divide",
    ),
  ],
)
def test_parameters_that_do_not_fit(shape, names, message):
  with pytest.raises(errors.ConfigError, match=message):
    sharding.param_shardings(boxed(shape, *names), mesh(fsdp=2, tensor=2))


def test_names_of_activations_are_checked_without_a_mesh():
  x = jnp.zeros((2, 3, 4))
  assert sharding.constrain(x, 'batch', 'length', 'act_embed') is x
  with pytest.raises(errors.ConfigError, match="an activation has axis 'colour'"):
    sharding.constrain(x, 'batch', 'length', 'colour')
  with pytest.raises(errors.ConfigError, match="axes 'batch' and 'embed', .* mesh axis 'fsdp'"):
    sharding.constrain(x, 'batch', 'length', 'embed')
  with pytest.raises(ValueError, match='has 2 axis names'):
    sharding.constrain(x, 'batch', 'length')


@pytest.mark.parametrize(
  'stage, train, message',
  [
    (
      'text',
      dict(batch_size=6),
      'train.batch_size 6 is not a multiple of the 4 parts that mesh axes data=2 and fsdp=2 make',
    ),
    (
      'text',
      dict(batch_size=16, accumulate_steps=8),
      'train.batch_size 16 / train.accumulate_steps 8 = 2 is not a multiple of the 4 parts',
    ),
    (
      'text',
      dict(batch_size=16, accumulate_steps=3),
      'train.batch_size 16 is not a multiple of train.accumulate_steps 3',
    ),
    ('vocoder', dict(accumulate_steps=2), "stage 'vocoder' .* set train.accumulate_steps to 1"),
  ],
)
def test_batches_that_do_not_divide(stage, train, message):
  with pytest.raises(errors.ConfigError, match=message):
    step.check(
      stages.get_stage(stage),
      sharded_jobs.experiment(stage, **train),
      mesh(data=2, fsdp=2, tensor=2),
    )


def test_unknown_dtype_of_frozen_parameters():
  with pytest.raises(
    errors.ConfigError, match="train.frozen_dtype is 'int8': use one of float32, bfloat16"
  ):
    state.abstract_state(
      stages.get_stage('t2c'), sharded_jobs.experiment('t2c', frozen_dtype='int8'), mesh()
    )
