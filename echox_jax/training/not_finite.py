"""Losses and gradients that are not finite: the run stops and names the batch.

The metrics of steps are fetched together, at the end of a window (`train.log_every`, an evaluation
or a checkpoint), so a bad step is found at most one window later, without waiting for the devices
in between. Every step of the window is checked, so the first bad one is named. The steps after it
are lost; the run resumes from the last checkpoint. That one is good: before a checkpoint the window
is checked, and with finite gradient norms AdamW leaves finite parameters finite.

`STAGE/not_finite/batch-NUMBER.json` holds the examples of the batch, what the steps of the window
gave, and the seed and the random key of the step.
"""

from collections.abc import Iterator, Mapping, Sequence
import math
import time
from typing import Any

import jax

from echox_jax import errors, storage
from echox_jax.parallel import distributed
from echox_jax.storage import Path
from echox_jax.training import keys, layout, skipping
from echox_jax.training.experiment import ExperimentConfig


class NotFinite(errors.EchoXError):
  """A step gave a loss or a gradient norm that is not finite.

  Attributes:
    name: the metric.
    step: the first bad step.
    found: the step after which it was found.
    window: {step: metrics} of the steps that were checked.
  """

  def __init__(self, stage: str, name: str, step: int, window: Mapping[int, Mapping[str, float]]):
    self.name, self.step, self.window = name, step, window
    self.found = max(window)
    super().__init__(
      f'stage {stage!r}: {name} is {window[step][name]} at step {step} (found after step '
      f'{self.found}); the last good checkpoint is kept: lower train.optimizer.learning_rate and '
      'start again in another --workdir, or check the data.'
    )


def check(stage: str, last: int, window: Sequence[Mapping[str, Any]]) -> None:
  """Checks the losses and gradient norms of consecutive steps.

  Args:
    stage: for the message.
    last: number of the last step.
    window: the metrics of each step.

  Raises:
    NotFinite: one of them is not finite.
  """
  first = last - len(window) + 1
  for step, values in enumerate(window, first):
    for name in sorted(values, key=lambda name: (name != 'loss', name)):
      if (name == 'loss' or name.startswith('grad_norm')) and not math.isfinite(values[name]):
        losses = {
          first + i: {name: float(value) for name, value in sorted(row.items())}
          for i, row in enumerate(window)
        }
        raise NotFinite(stage, name, step, losses)


def explain(
  error: NotFinite, folder: Path, experiment: ExperimentConfig, iterator: Iterator[Any]
) -> errors.EchoXError:
  """Saves what is known of the bad step's batch; all processes call it together.

  Args:
    error: what `check` found.
    folder: the stage's folder.
    experiment: the job.
    iterator: of the batches; its `examples(index)`, if it has one, names the examples of a batch
      by its index from 0.

  Returns:
    The error to raise: it names the file, and how to go on without the batch.
  """
  number = skipping.batch_of(error.step, experiment.train.skip_batches)
  examples = getattr(iterator, 'examples', None)
  file = folder / layout.BAD_BATCHES / f'batch-{number}.json'
  if distributed.is_first():
    key = jax.random.key_data(keys.step_key(experiment.seed, error.step - 1))
    storage.atomic_write_json(
      file,
      {
        'stage': experiment.stage,
        'step': error.step,
        'batch': number,
        'found_after_step': error.found,
        'metric': error.name,
        'value': str(error.window[error.step][error.name]),
        # JSON has no numbers that are not finite
        'steps': {
          step: {name: value if math.isfinite(value) else str(value) for name, value in row.items()}
          for step, row in error.window.items()
        },
        'seed': experiment.seed,
        'key': jax.device_get(key).tolist(),
        'examples': examples(number - 1) if examples else None,
        'time': time.time(),
      },
    )
  distributed.barrier('not finite')  # no process ends the others before the file is written
  skip = ','.join(map(str, sorted({*experiment.train.skip_batches, number})))
  return errors.EchoXError(
    f'stage {experiment.stage!r}: {error.name} is {error.window[error.step][error.name]} at step '
    f'{error.step} (found after step {error.found}); the last good checkpoint is kept, and {file} '
    f'names the examples of the batch: look at them and run the same command again with '
    f'--config.train.skip_batches={skip} to go on without it, or lower '
    'train.optimizer.learning_rate and start again in another --workdir.'
  )
