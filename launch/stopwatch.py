"""How long the parts of a command took, over all its runs."""

from collections.abc import Iterator
import contextlib
import json
import time

from echox_jax import storage


class Stopwatch:
  """Adds up the seconds of each part, and of everything under `total`.

  Args:
    path: JSON file that keeps them, so that a run that goes on adds to the one before; None = they
      are not kept.
  """

  def __init__(self, path: storage.Path | None = None):
    self._path, self._began = path, time.perf_counter()
    kept = path is not None and storage.is_file(path)
    self._seconds: dict[str, float] = json.loads(path.read_text('utf-8')) if kept else {}
    self._before = self._seconds.pop('total', 0.0)

  @property
  def seconds(self) -> dict[str, float]:
    """By part; `total` comes last."""
    return self._seconds | {'total': self._before + time.perf_counter() - self._began}

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Times what is done inside; what fails does not count."""
    began = time.perf_counter()
    yield
    self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began
    if self._path is not None:
      storage.atomic_write_json(self._path, self.seconds)
