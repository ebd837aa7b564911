"""The vocoder of `tests.helpers.sharded_jobs` with all its losses, in double precision:
`python -m tests.helpers.sharded_jobs64 data=8 ...`.

Logarithms of magnitudes near zero, and absolute differences near zero, magnify rounding: in single
precision two orders of summation give gradients that differ by 2e-4. In double precision what is
left is 1e-9 of them, unless a step is really another.
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp

jax.config.update('jax_enable_x64', True)
# modules ask for single precision by this name, some of them when they are imported
jnp.float32 = jnp.float64

from echox_jax.training.experiment import ExperimentConfig, VocoderLossConfig  # noqa: E402
from tests.helpers import sharded_jobs  # noqa: E402

LOSSES = VocoderLossConfig(
  mel=1.0, mel_windows=(256,), stft=1.0, stft_windows=(128,), adversarial=0.1, feature_matching=0.2
)


def experiment() -> ExperimentConfig:
  """The stage as nano trains it, tiny."""
  job = sharded_jobs.experiment('vocoder')
  wide = lambda part: dataclasses.replace(part, dtype='float64')
  train = dataclasses.replace(
    job.train,
    loss=dataclasses.replace(job.train.loss, vocoder=LOSSES),
    discriminators=wide(job.train.discriminators),
  )
  model = dataclasses.replace(job.model, vocoder=wide(job.model.vocoder))
  return dataclasses.replace(job, model=model, train=train)


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', 8)
  for row in sharded_jobs.compare(experiment(), sys.argv[1:]):
    print(json.dumps(row), flush=True)
