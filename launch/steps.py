"""Steps of the whole way as child processes: how each one is started, and told to stop."""

import dataclasses
import os
import signal
import subprocess
import sys
from types import FrameType

from echox_jax import errors
from echox_jax.parallel import distributed

# A training step on a CPU asks for gigabytes and gives them back. Kept by the process, in huge
# pages, they need not be cleared each time, a sixth of a step (configs/README.md). glibc reads
# these when a process starts; elsewhere they mean nothing.
ALLOCATOR = {
  'MALLOC_MMAP_MAX_': '0',
  'MALLOC_TRIM_THRESHOLD_': '100000000000',
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
}


@dataclasses.dataclass(frozen=True)
class Step:
  """One part of the whole way.

  Attributes:
    name: what users call it.
    title: what it does, in one line.
    command: the module and its arguments.
    proof: the file that marks it as finished (None = the command checks).
    alone: whether the first host does it, by itself, on its CPU; otherwise all hosts do it
      together.
  """

  name: str
  title: str
  command: tuple[str, ...]
  proof: str | None = None
  alone: bool = False


class Runner:
  """Runs steps one at a time, each in its own process, so that its memory is freed afterwards.

  Within `with`, SIGTERM and Ctrl-C are passed on to the step that runs, which saves its state and
  ends. A container runtime signals only this process; Slurm and a terminal signal the step as well:
  both are fine.

  Attributes:
    told: whether such a signal has come.
  """

  def __init__(self):
    self.told = False
    self._child: subprocess.Popen | None = None
    self._before = {}

  def __enter__(self) -> 'Runner':
    for number in (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._stop)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _stop(self, number: int, frame: FrameType | None) -> None:
    self.told = True
    if self._child:
      self._child.send_signal(signal.SIGTERM)

  def run(self, step: Step) -> int:
    """Runs one step to its end.

    Returns:
      0, or `distributed.STOPPED` if it stopped on request before it was finished: the same command
      goes on there.

    Raises:
      EchoXError: the step failed.
    """
    if step.alone and not distributed.is_first_host(os.environ):
      print(f'{step.name}: the first host does this.', flush=True)
      return 0
    environ = ALLOCATOR | os.environ | ({'JAX_PLATFORMS': 'cpu'} if step.alone else {})
    self._child = subprocess.Popen([sys.executable, '-m', *step.command], env=environ)
    if self.told:  # the signal came while the process was started
      self._child.send_signal(signal.SIGTERM)
    code = self._child.wait()
    self._child = None
    if code == distributed.STOPPED or (code and self.told):
      return distributed.STOPPED
    if code:
      raise errors.EchoXError(
        f'the part {step.name!r} ended with exit code {code} (see its own message above): '
        'correct that and run the same command again; finished parts are kept.'
      )
    return 0


def run_all(todo: list[Step]) -> int:
  """Runs steps in order, and says which one it is at.

  Returns:
    0, or `distributed.STOPPED` if it stopped on request before the last step was finished.

  Raises:
    EchoXError: a step failed.
  """
  with Runner() as runner:
    for number, step in enumerate(todo, 1):
      print(f'[{number}/{len(todo)}] {step.name}: {step.title}', flush=True)
      code = runner.run(step)
      if code or (runner.told and number < len(todo)):
        return distributed.STOPPED
  return 0
