"""Batches that no step trains on: `train.skip_batches`, for batches that break a run.

The batches of a run are numbered from 1. Step n trains on batch n, or, if batches before it are
skipped, on one as many places later. This depends on nothing but the step number and
`train.skip_batches`, so a run trains on the same batches however often it is stopped, and on any
number of processes.
"""

from collections.abc import Collection, Iterator
from typing import Any

from echox_jax import errors


def batch_of(step: int, skip: Collection[int]) -> int:
  """Returns the number of the batch that `step` trains on; 0 for step 0, before the first batch."""
  number = step
  for skipped in sorted(set(skip)):
    number += skipped <= number
  return number


def check(skip: Collection[int], stage: str, done: int, before: Collection[int]) -> None:
  """Checks that a run can go on with the batches `skip` left out.

  Args:
    skip: `train.skip_batches`.
    stage: for the messages.
    done: number of steps done.
    before: `train.skip_batches` of these steps.

  Raises:
    ConfigError: the steps done are not those that a run with `skip` would have done.
  """
  if any(number < 1 for number in skip):
    raise errors.ConfigError(
      f'train.skip_batches is {tuple(skip)}, but batches are numbered from 1: correct it.'
    )
  taken = batch_of(done, before)
  trained = sorted(number for number in set(skip) - set(before) if number <= taken)
  if trained:
    raise errors.ConfigError(
      f'train.skip_batches names batch {trained[0]}, but stage {stage!r} has trained on it already '
      f'(its checkpoint is of step {done}): take it out, or give another --workdir.'
    )
  skipped = sorted(number for number in set(before) - set(skip) if number <= taken)
  if skipped:
    raise errors.ConfigError(
      f'stage {stage!r} was trained without batch {skipped[0]}, but train.skip_batches does not '
      'name it: name it again, or give another --workdir.'
    )


def take(
  iterator: Iterator[dict[str, Any]], stage: str, done: int, skip: Collection[int]
) -> dict[str, Any]:
  """Returns the batch of the step after `done`, and drops those to skip before it.

  Raises:
    DataError: the data ended.
  """
  try:
    for _ in range(batch_of(done + 1, skip) - batch_of(done, skip)):
      batch = next(iterator)
  except StopIteration:
    raise errors.DataError(
      f'the data of stage {stage!r} ended after step {done}: lower train.steps or '
      'train.batch_size, or give more data.'
    ) from None
  return batch
