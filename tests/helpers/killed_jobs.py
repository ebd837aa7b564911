"""One run of a tiny training job, to be killed by the tests:
`python -m tests.helpers.killed_jobs JSON`.

Keys: `workdir`, `steps`, `begun` (see `kills`).

Prints lines of JSON: `restored` (step), then `batch` (number of the step, a digest of each row).
"""

import dataclasses
import hashlib
import json
import os
import sys
import time

from data_pipeline import batches
from echox_jax import storage
from echox_jax.training import loop
from echox_jax.training.experiment import DataConfig
from tests.helpers import kills, training_jobs

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
      [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in batch['input_ids']],
    )
    time.sleep(0.03)
    return batch

  def set_state(self, state):
    self._iterator.set_state(state)
    _say('restored', state['examples'] // BATCH)


def main() -> None:
  options = json.loads(sys.argv[1])
  job = training_jobs.experiment(
    steps=options['steps'], vocab_size=VOCABULARY, log_every=2, checkpoint_every=4, batch_size=BATCH
  )
  kills.announce(options)
  loop.train(
    dataclasses.replace(job, data=DataConfig(sets=('questions/train',), max_tokens=TOKENS)),
    storage.path(options['workdir']),
    Rows,
  )
  _say('finished')
  sys.stdout.flush()
  os._exit(0)  # the reading thread waits for nobody


if __name__ == '__main__':
  main()
