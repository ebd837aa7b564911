"""Work in a fresh process, so that what it costs is its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import os
from typing import Any


def in_new_process(function: Callable[..., Any], cores: int = 0, **values: Any) -> Any:
  """What `function(**values)` returns; the process keeps to so many cores, 0 = all that this one
  has.
  """
  with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _keep_to, (cores,)) as pool:
    return pool.submit(function, **values).result()


def _keep_to(cores: int) -> None:
  # before JAX or torch count the cores for their threads
  if cores and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
