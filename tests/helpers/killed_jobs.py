"""One run of a tiny training job, to be killed by the tests:
`python -m tests.helpers.killed_jobs WORKDIR STEPS`.

Prints lines of JSON: `restored` (step), then `batch` (number of the step, its rows).
"""

import dataclasses
import json
import os
import sys
import time

import jax

from data_pipeline import batches
from echox_jax import storage
from echox_jax.training import loop
from echox_jax.training.experiment import DataConfig
from tests.helpers import training_jobs

VOCABULARY, TOKENS, BATCH = 320, 48, 8


def _say(kind, *values):
  print(json.dumps([kind, *values]), flush=True)


class Rows:
  """The batches of the job; says what was taken, and takes its time, so that there is some to be
  killed in.
  """

  def __init__(self, job, workdir, share):
    self._iterator, self.get_state = (
      (iterator := batches.make_iterator(job, workdir, share)),
      iterator.get_state,
    )

  def __next__(self):
    batch = next(self._iterator)
    _say(
      'batch',
      self.get_state()['examples'] // BATCH,
      [row.tobytes().hex() for row in batch['input_ids']],
    )
    time.sleep(0.03)
    return batch

  def set_state(self, state):
    self._iterator.set_state(state)
    _say('restored', state['examples'] // BATCH)


def main() -> None:
  workdir, steps = storage.path(sys.argv[1]), int(sys.argv[2])
  if not storage.is_remote(workdir):
    jax.config.update('jax_compilation_cache_dir', str(workdir / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  job = training_jobs.experiment(
    steps=steps, vocab_size=VOCABULARY, log_every=2, checkpoint_every=4, batch_size=BATCH
  )
  loop.train(
    dataclasses.replace(job, data=DataConfig(sets=('questions/train',), max_tokens=TOKENS)),
    workdir,
    Rows,
  )
  _say('finished')
  sys.stdout.flush()
  os._exit(0)  # the reading thread waits for nobody


if __name__ == '__main__':
  main()
