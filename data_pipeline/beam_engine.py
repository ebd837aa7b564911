"""Apache Beam as the engine of a job of shards: it distributes the shards of each step, tries
failed ones again, and adds and removes workers, as its runner does.

The process that starts the job lists, fits and publishes. For each step of many shards it runs a
pipeline whose elements are the unfinished outputs. A worker does not get the function that makes
them, which may hold models and open files. It starts the same job, whose earlier steps are
finished, and takes the function when the job comes to the step. So shards are made, noted and put
into place exactly as without Beam, with the same bytes. All workers see the same storage.

Two attempts at one shard are harmless: each writes a folder of its own and puts the same bytes into
place.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import random
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipeline.shards import Make, Outputs, Process, SharedWork
from echox_jax.errors import EchoXError

Job = Callable[..., Any]  # job(process=...) does all of it
_MANY = 1 << 30  # numbers of workers, so that hardly two are the same


def run(job: Job, on_workers: Job, flags: Sequence[str]) -> Any:
  """Runs a job on Beam.

  Args:
    job: called here.
    on_workers: the same job, called by the workers; picklable.
    flags: Beam's options: `--runner=DataflowRunner`, `--region=...`

  Returns:
    what `job` returns.

  Raises:
    EchoXError: also if a shard failed more often than the runner tries it; the finished ones stay.
  """
  return job(process=Process(engine=functools.partial(_distribute, on_workers, flags)))


def _distribute(
  on_workers: Job, flags: Sequence[str], work: SharedWork, outputs: Outputs, make: Make
) -> None:
  """Makes the unfinished outputs of a step by a pipeline."""
  del make  # the workers have their own
  names = list(map(str, outputs))
  todo = [names[number] for number in work.unfinished(outputs)]
  if not todo:
    return
  try:
    with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
      _ = (
        pipeline
        | 'unfinished' >> beam.Create(todo)
        | 'spread' >> beam.Reshuffle()
        | 'make' >> beam.ParDo(_MakeShard(on_workers))
      )
  except Exception as error:  # runners raise many kinds
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    raise EchoXError(
      f'Beam gave a shard up ({reason}): see the messages of its workers, and start the command '
      'again (finished shards are kept).'
    ) from error


class _MakeShard(beam.DoFn):
  """Makes the output that an element names."""

  def __init__(self, job: Job):
    self._job, self._step = job, None

  def process(self, name: str) -> Iterator[None]:
    try:
      if self._step is None:
        self._step = _take(self._job, name)
      self._step.make(name)
    except BaseException:
      self._step = None  # the next attempt begins afresh
      raise
    yield from ()


class _Step(Exception):
  """Ends a job where its step has been taken."""

  def __init__(self, work: SharedWork, outputs: Outputs, make: Make):
    super().__init__('this step has been taken')
    self._work, self._outputs, self._make = work, outputs, make
    self._numbers = {str(path): number for number, path in enumerate(outputs)}

  def make(self, name: str) -> None:
    """Makes an output, unless an earlier attempt has done it."""
    number = self._numbers[name]
    path = list(self._outputs)[number]
    if not self._work.finished(path, self._outputs[path]):
      self._work.make(number, self._outputs, self._make)


def _take(job: Job, name: str) -> _Step:
  """The step of a job that makes the output `name`."""

  def engine(work: SharedWork, outputs: Outputs, make: Make) -> None:
    if name in map(str, outputs):
      raise _Step(work, outputs, make)

  # not process 0, which lists, publishes and cleans up
  number = random.SystemRandom().randrange(1, _MANY)
  try:
    job(process=Process(number, number + 1, engine=engine))
  except _Step as step:
    return step.with_traceback(None)
  raise EchoXError(f'no step of the job makes {name}: give all workers the same version.')
