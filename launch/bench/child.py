"""A process of another interpreter that is asked and answers, one JSON object a line."""

from collections.abc import Mapping
import contextlib
import json
import os
from pathlib import Path
import subprocess
from typing import Any

from echox_jax import errors

_ROOT = Path(__file__).parents[2]


class Child:
  """Runs `python -m module`, which finds this repository; a context that ends it.

  Its standard error is that of this process.

  Raises:
    EchoXError: the interpreter cannot be started.
  """

  def __init__(self, python: Path, module: str):
    self._name = f'{python} -m {module}'
    found = [str(_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    try:
      self._process = subprocess.Popen(
        [str(python), '-m', module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(found)},
      )
    except OSError as error:
      raise errors.EchoXError(
        f'{python} cannot be started ({error.strerror}): name a Python interpreter.'
      ) from error

  def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
    """Sends an object and waits for the one that comes back.

    Raises:
      EchoXError: the process has ended.
    """
    try:
      print(json.dumps(message), file=self._process.stdin, flush=True)
      answer = self._process.stdout.readline()
    except BrokenPipeError:
      answer = ''
    if not answer:
      raise errors.EchoXError(
        f'{self._name} ended with exit code {self._process.wait()}: its own message is above.'
      )
    return json.loads(answer)

  def __enter__(self) -> 'Child':
    return self

  def __exit__(self, *raised: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # it ended before it was told to
      self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()
