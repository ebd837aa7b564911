"""Echo training scales: what a device receives in a step stays the same when devices and batch grow
together.
"""

import dataclasses

import jax
import pytest

from echox_jax import errors
from echox_jax.parallel import sharding
from echox_jax.training import stages, step
from tests.helpers import sharded_jobs
from tests.helpers.eight_devices import on_eight_devices


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['echo', 's2t'])
def test_a_device_receives_as_much_on_eight_devices_as_on_four(stage):
  four, eight = on_eight_devices(stage, 'fsdp=4', 'fsdp=8', module='scaling_jobs')
  assert four['bytes'] > 0 and eight['bytes'] <= 1.05 * four['bytes']
  if stage == 'echo':
    # The loop that decodes pseudo-labels is there, and its devices do not exchange anything in it.
    assert four['loop'] and eight['loop'] and not four['in_loop'] and not eight['in_loop']


def check(**changes):
  job = sharded_jobs.experiment('echo')
  loss = dataclasses.replace(
    job.train.loss, **{k: v for k, v in changes.items() if k != 'accumulate_steps'}
  )
  train = dataclasses.replace(
    job.train, loss=loss, accumulate_steps=changes.get('accumulate_steps', 1)
  )
  mesh = jax.sharding.AbstractMesh((2, 2, 2, 1), sharding.AXES)
  step.check(stages.get_stage('echo'), dataclasses.replace(job, train=train), mesh)


def test_slices_that_the_mesh_does_not_divide_are_refused():
  check(slices_per_batch=24)
  with pytest.raises(
    errors.ConfigError,
    match='slices_per_batch 22 is not a multiple of the 4 row groups .* multiple of 4',
  ):
    check(slices_per_batch=22)
  with pytest.raises(errors.ConfigError, match='train.accumulate_steps 2: make it a multiple of 8'):
    check(slices_per_batch=20, accumulate_steps=2)


def test_an_llm_too_large_to_be_held_whole_makes_no_answers():
  check(echo_text='generate')
  with pytest.raises(
    errors.ConfigError,
    match="'generate' holds the LLM and the adapter whole .* use 'argmax' or 'gold'",
  ):
    check(echo_text='generate', generate_gib=1e-6)
