"""Traces of a few steps, for TensorBoard's profiler or xprof."""

import pathlib
import tempfile
from typing import Any

import jax

from echox_jax import errors, storage
from echox_jax.parallel import distributed
from echox_jax.storage import Path


def parse(text: str | None) -> tuple[int, int] | None:
  """Parses `START:STOP` to (start, stop): traces from after step `start` to the end of step `stop`.

  Raises:
    ConfigError: the text has another form or selects no step.
  """
  if text is None:
    return None
  start, _, stop = text.partition(':')
  if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
    raise errors.ConfigError(
      f'--profile is {text!r}: write START:STOP, two numbers of steps, the first below the second.'
    )
  return int(start), int(stop)


class Trace:
  """Context manager that traces the first process between two steps; an error also ends the trace.

  Args:
    folder: output folder of the trace.
    window: (start, stop); None = no trace.
  """

  def __init__(self, folder: Path, window: tuple[int, int] | None):
    self._folder, self._on = folder, False
    self._here = tempfile.TemporaryDirectory() if storage.is_remote(folder) else None
    self._start, self._stop = window if window and distributed.is_first() else (-1, -1)

  def __enter__(self) -> 'Trace':
    return self

  def __exit__(self, *error) -> None:
    if self._on:
      self._end()

  def before(self, step: int) -> None:
    """Call before the next step, with `step` steps done; a resumed run may start inside the
    window.
    """
    if self._start <= step < self._stop and not self._on:
      jax.profiler.start_trace(self._here.name if self._here else self._folder)
      self._on = True

  def after(self, step: int, values: Any) -> None:
    """Call after `step` steps; the last one computes `values`."""
    if self._on and step >= self._stop:
      jax.block_until_ready(values)
      self._end()

  def _end(self) -> None:
    jax.profiler.stop_trace()
    self._on = False
    if self._here:
      storage.upload_folder(pathlib.Path(self._here.name), self._folder)
