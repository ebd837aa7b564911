"""Runs work in a fresh process, to measure its cost alone."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import os
from typing import Any


def in_new_process(function: Callable[..., Any], cores: int = 0, **values: Any) -> Any:
  """The result of `function(**values)` in a new process that uses `cores` cores; 0 = all cores of
  this process.
  """
  with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), _keep_to, (cores,)) as pool:
    return pool.submit(function, **values).result()


def _keep_to(cores: int) -> None:
  # must run before JAX or torch count the cores for their threads
  if cores and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
