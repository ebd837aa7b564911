"""One step on eight (virtual) devices equals one step on one device."""

import os
from pathlib import Path
import subprocess
import sys

_SCRIPT = """
import jax
jax.config.update('jax_num_cpu_devices', 8)
from flax import linen as nn
import numpy as np
from echox_jax import sharding
from echox_jax.training import stages, state, step
from tests import training_jobs

job, stage = training_jobs.experiment(), stages.get_stage('text')
batch = next(training_jobs.text_rows(job, None))

def one_step(mesh):
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    current = state.create_state(stage, job, mesh, None)
    train_step = step.make_train_step(stage, job, mesh)
    current, metrics = train_step(train_step.functions['step'], current, step.put_batch(batch, mesh))
    return current, jax.device_get(metrics)

many, metrics = one_step(sharding.make_mesh(dict(data=4, tensor=2)))
one, expected = one_step(sharding.make_mesh({}, devices=jax.devices()[:1]))
assert len(many.trainable['llm']['trunk']['layers']['mlp']['up_proj']['kernel'].sharding.device_set) == 8
assert not many.trainable['llm']['trunk']['layers']['mlp']['up_proj']['kernel'].sharding.is_fully_replicated
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
jax.tree.map(close, metrics, expected)
jax.tree.map(close, jax.device_get(many.params()), jax.device_get(one.params()))
print('equal')
"""


def test_mesh_of_eight_equals_one_device():
  flags = '--xla_backend_optimization_level=0'  # compiles in half the time
  root = Path(__file__).parent.parent
  done = subprocess.run(
      [sys.executable, '-c', _SCRIPT], cwd=root, capture_output=True, text=True, timeout=300,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'PYTHONPATH': str(root)})
  assert done.stdout.strip().endswith('equal'), done.stderr[-3000:]
