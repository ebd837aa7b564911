"""The share of its time that training waits for checkpoints, where their storage may be far away.

Stage text of the nano config, with an LLM of --width, learns random ids and saves every --every
steps below --workdir, which may be gs://. Orbax copies a checkpoint and writes it while steps go
on; steps wait for the requests that come before that, and for the checkpoint before if it is not
complete. `python -m tests.helpers.buckets --latency 0.03 -- COMMAND` gives a command a bucket on
this machine whose every request takes 30 ms longer.

Figures: `megabytes` of a checkpoint, `checkpoints` (the last one is left out, since no steps follow
it), `step_seconds`, `wait_seconds` and `write_seconds` of a checkpoint (medians), `waiting`: the
share of the time in which no step was computed, from the first checkpoint on, and
`waiting_if_written_at_once`: the same if steps waited until each checkpoint was complete.
"""

import argparse
import contextlib
import dataclasses
import tempfile
from typing import Any
import uuid

import numpy as np

from configs import echox_nano
from echox_jax import config, storage
from echox_jax.storage import Path
from echox_jax.training import layout, loop, records
from echox_jax.training.experiment import ExperimentConfig

_TOKENS = 72


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--workdir',
    type=storage.check_writable,
    help='folder to save below, local or gs://; what is written there is removed (default: a '
    'temporary folder)',
  )
  command.add_argument('--width', type=int, default=384, help='of the LLM (default %(default)s)')
  command.add_argument(
    '--every', type=int, default=25, help='steps between checkpoints (default %(default)s)'
  )
  command.add_argument(
    '--checkpoints', type=int, default=7, help='to save, the last included (default %(default)s)'
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  with _folder(options.workdir) as workdir:
    job = _job(options.width, options.every, options.checkpoints * options.every)
    loop.train(job, workdir, _Rows)
    stage = workdir / job.stage
    found = records.read(stage / layout.METRICS)
    last = stage / layout.CHECKPOINTS / str(job.train.steps)
    size = sum(map(storage.size, storage.tree(last)))
  # from the first checkpoint to the last one, neither compiling nor the end of the run included
  windows = [r for r in found if r['kind'] == 'train']
  assert [r['step'] for r in windows] == list(
    range(options.every, job.train.steps + 1, options.every)
  )
  elapsed = windows[-1]['time'] - windows[0]['time']
  stepping = sum(window['step_time'] * options.every for window in windows[1:])
  *saves, _ = [r for r in found if r['kind'] == 'save']
  waits, writes = ([r[name] for r in saves] for name in ('wait_seconds', 'write_seconds'))
  return {
    'workdir': str(options.workdir),
    'megabytes': round(size / 1e6, 1),
    'checkpoints': len(saves),
    'step_seconds': round(stepping / options.every / len(saves), 4),
    'wait_seconds': round(float(np.median(waits)), 3),
    'write_seconds': round(float(np.median(writes)), 3),
    'waiting': round(1 - stepping / elapsed, 4),
    'waiting_if_written_at_once': round(sum(writes) / (sum(writes) + stepping), 4),
  }


@contextlib.contextmanager
def _folder(given: Path | None):
  """A folder of this measurement alone, removed at the end."""
  if given is None:
    with tempfile.TemporaryDirectory() as folder:
      yield storage.path(folder)
    return
  folder = given / f'checkpoints-{uuid.uuid4().hex[:8]}'
  try:
    yield folder
  finally:
    storage.remove_tree(folder)


def _job(width: int, every: int, steps: int) -> ExperimentConfig:
  job = config.build(ExperimentConfig, echox_nano.get_config('text').to_dict())
  llm = dataclasses.replace(
    job.model.llm, hidden_size=width, intermediate_size=4 * width, head_dim=width // 4
  )
  train = dataclasses.replace(
    job.train, steps=steps, checkpoint_every=every, log_every=every, keep_checkpoints=2
  )
  return dataclasses.replace(job, model=dataclasses.replace(job.model, llm=llm), train=train)


class _Rows:
  """Random ids, always the same."""

  def __init__(self, job: ExperimentConfig, workdir: Path, share):
    del workdir
    ids = np.random.default_rng(0).integers(20, job.model.llm.vocab_size, (len(share), _TOKENS))
    self._batch = {'input_ids': ids.astype(np.int32), 'labels': ids.astype(np.int32)}

  def __next__(self) -> dict[str, np.ndarray]:
    return self._batch

  def get_state(self) -> dict[str, int]:
    """Nothing to go on from."""
    return {}

  def set_state(self, state: dict[str, int]) -> None:
    """See `get_state`."""
