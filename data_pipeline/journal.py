"""What a folder of derived files was made from: finished steps, with fingerprints of their inputs, in one JSON file."""

from collections.abc import Callable, Iterable
import hashlib
import json
from pathlib import Path
import time
from typing import Any

from echox_jax import files
from echox_jax.errors import DataError


def fingerprint(*inputs: Any) -> str:
  """A short hash of JSON-ready `inputs`."""
  return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
  """A short hash of a file's content.

  Raises:
    DataError: there is no such file.
  """
  try:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
  except FileNotFoundError as error:
    raise DataError(f'there is no file {path}: correct its path in the config.') from error


class Journal:
  """The finished steps of a folder; `path` is rewritten whole after every step."""

  def __init__(self, path: Path):
    """Reads `path` where it exists.

    Raises:
      DataError: the file is damaged.
    """
    self._path = path
    try:
      self.content = json.loads(path.read_text('utf-8')) if path.exists() else {'steps': {}, 'report': {}}
      self._steps = self.content['steps']
    except (ValueError, KeyError, TypeError) as error:
      raise DataError(f'{path} is damaged: delete it, and everything beside it is made again.') from error

  def finished(self, step: str, inputs: str, outputs: Iterable[Path]) -> bool:
    """Whether `step` was finished from `inputs` (a fingerprint) and its files are still there."""
    known = self._steps.get(step, {})
    return known.get('fingerprint') == inputs and all(path.exists() for path in outputs)

  def run(self, step: str, inputs: str, outputs: Iterable[Path], work: Callable[[], Any]) -> bool:
    """Does `work` unless the step is finished; `work` must write each output whole or not at all. Returns whether it ran."""
    if self.finished(step, inputs, outputs):
      return False
    self._steps.pop(step, None)
    started = time.monotonic()
    work()
    self._steps[step] = {'fingerprint': inputs, 'seconds': round(time.monotonic() - started, 1)}
    self.save()
    return True

  def save(self) -> None:
    """Writes the journal."""
    files.atomic_write_json(self._path, self.content)
