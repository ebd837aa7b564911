"""Steps on eight virtual devices equal steps on one device, at every stage; and steps in parts,
with less kept, or with narrower frozen parameters equal plain ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from echox_jax import errors
from echox_jax.models.trees import flatten
from tests.helpers import sharded_jobs
from tests.helpers.eight_devices import on_eight_devices

MESHES = (
  'data=8',
  'fsdp=8',
  'fsdp=4,tensor=2',
  'data=2,fsdp=2,tensor=2',
  'data=4,sequence=2',
  'dcn_data=2,data=2,fsdp=2',
)
ONE_MESH = {
  'text': 'data=4,sequence=2',
  'align': 'fsdp=4,tensor=2',
  's2t': 'data=2,fsdp=2,tensor=2',
  't2c': 'fsdp=8',
  'echo': 'fsdp=4,tensor=2',
  'vocoder': 'data=8',
}


def compare(stage, *meshes):
  check(on_eight_devices(stage, *meshes), meshes, 1e-5)


def check(rows, meshes, limit):
  reference, *found = rows
  assert reference['moved'] > 1e-3 and [row['mesh'] for row in found] == list(meshes)
  for row in found:
    assert row['losses'] < limit and row['parameters'] < limit, row
    # Whatever the mesh splits parameters over, none of size stays whole.
    assert ('fsdp' not in row['mesh']) or not row['whole'], row


# echo has all parts of text, s2t and t2c; test_validation has the vocoder on eight devices
SLOW = ('align', 's2t', 't2c', 'vocoder')


@pytest.mark.parametrize(
  'stage', ['echo', *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)]
)
def test_eight_devices_equal_one(stage):
  compare(stage, ONE_MESH[stage])


@pytest.mark.slow
def test_answers_made_on_eight_devices_equal_those_of_one():
  compare('echo:generate', 'data=2,fsdp=2,tensor=2')


def test_convolutions_in_groups_and_spectra_are_computed_by_rows():
  assert on_eight_devices('rows')[0] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('stage', ONE_MESH)
def test_every_mesh_equals_one_device(stage):
  compare(stage, *MESHES)


@pytest.mark.slow
def test_every_vocoder_loss_is_trained_alike_in_double_precision():
  meshes = ('data=8', 'fsdp=4,tensor=2')
  check(on_eight_devices(*meshes, module='sharded_jobs64'), meshes, 1e-9)


@pytest.fixture(scope='module')
def plain():
  """The stage t2c without dropout: (metrics of each step, state)."""
  return sharded_jobs.run(sharded_jobs.experiment('t2c', dropout=False), sharded_jobs.one_device())


def test_parts_of_a_batch_equal_the_batch(plain):
  job = sharded_jobs.experiment('t2c', dropout=False, accumulate_steps=2)
  values, current = sharded_jobs.run(job, sharded_jobs.one_device())
  assert sharded_jobs.loss_distance(values, plain[0]) < 1e-5
  assert sharded_jobs.parameter_distance(current, plain[1])[0] < 1e-5


@pytest.mark.parametrize('policy', ['full', pytest.param('dots', marks=pytest.mark.slow)])
def test_less_kept_for_the_backward_pass_changes_nothing(plain, policy):
  values, current = sharded_jobs.run(_with_remat(policy), sharded_jobs.one_device())
  assert sharded_jobs.loss_distance(values, plain[0]) < 1e-5
  assert sharded_jobs.parameter_distance(current, plain[1])[0] < 1e-5


def test_unknown_remat_is_refused():
  with pytest.raises(errors.ConfigError, match="remat is 'some': use one of none, full, dots"):
    sharded_jobs.run(_with_remat('some'), sharded_jobs.one_device(), 0)


@pytest.mark.slow
def test_frozen_parameters_in_bfloat16():
  mesh = sharded_jobs.one_device()
  expected, _ = sharded_jobs.run(sharded_jobs.experiment('s2t'), mesh, 2)
  values, current = sharded_jobs.run(
    sharded_jobs.experiment('s2t', frozen_dtype='bfloat16'), mesh, 2
  )
  assert all(
    abs(a['loss'] - b['loss']) < 0.01 * b['loss'] for a, b in zip(values, expected, strict=True)
  )
  types = lambda tree: {leaf.dtype for leaf in jax.tree.leaves(tree) if leaf.ndim}
  assert types(current.frozen) == {jnp.dtype('bfloat16')}
  assert types(current.trainable) == types(current.opt_state) == {jnp.dtype('float32')}
  kept = {
    path.split('/mu/')[1]
    for path in (
      jax.tree_util.keystr(p, simple=True, separator='/')
      for p, _ in jax.tree_util.tree_leaves_with_path(current.opt_state)
    )
    if '/mu/' in path
  }
  assert kept == set(flatten(current.trainable))


def _with_remat(policy):
  job = sharded_jobs.experiment('t2c', dropout=False)
  decoder = job.model.unit_decoder
  decoder = dataclasses.replace(decoder, trunk=dataclasses.replace(decoder.trunk, remat=policy))
  return dataclasses.replace(job, model=dataclasses.replace(job.model, unit_decoder=decoder))
