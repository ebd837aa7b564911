"""Being told to stop: all processes end after the same step, whichever of them was told."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Yields `stop(step)`: whether to stop after `step`, because of SIGTERM or Ctrl-C.

  It must be called after every step. With several processes JAX takes the signal (since
  `jax.distributed.initialize`), tells the others, and all hear True at one and the same later step.
  In a single process a second signal acts as it would without us.
  """
  if jax.process_count() > 1:
    with _handlers({signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}):
      yield multihost_utils.reached_preemption_sync_point
    return
  told = threading.Event()
  with contextlib.ExitStack() as stack:

    def handle(*_):
      told.set()
      stack.close()

    stack.enter_context(_handlers({signal.SIGTERM: handle, signal.SIGINT: handle}))
    yield lambda step: told.is_set()


@contextlib.contextmanager
def _handlers(handlers: dict[int, Callable]) -> Iterator[None]:
  """Installs signal handlers, which only the main thread can; puts the earlier ones back."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
