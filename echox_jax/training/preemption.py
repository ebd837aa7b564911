"""Preemption: all processes stop after the same step, whichever of them gets the signal."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Yields `stop(step)`: whether to stop after `step` because of SIGTERM or Ctrl-C.

  Call it after every step. With several processes, JAX catches the signal (since
  `jax.distributed.initialize`) and tells the others; all of them get True at the same later step.
  In a single process, a second Ctrl-C has its default effect. SIGTERM may come again: a scheduler
  and the parent process (`launch.steps`) may both send it.
  """
  if jax.process_count() > 1:
    with _handlers({signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}):
      yield multihost_utils.reached_preemption_sync_point
    return
  told = threading.Event()

  def interrupted(*_):
    told.set()
    signal.signal(signal.SIGINT, signal.default_int_handler)

  with _handlers({signal.SIGTERM: lambda *_: told.set(), signal.SIGINT: interrupted}):
    yield lambda step: told.is_set()


@contextlib.contextmanager
def _handlers(handlers: dict[int, Callable]) -> Iterator[None]:
  """Installs signal handlers and restores the old ones later; only the main thread can do so."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
