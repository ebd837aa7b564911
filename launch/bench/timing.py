"""Times programs, and what a machine can do at best."""

from collections.abc import Callable
import os
from pathlib import Path
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 2048  # of matrices


def median(run: Callable[[], Any], runs: int) -> float:
  """Returns the seconds of `run`, which is called once more than is counted."""
  times = []
  for _ in range(runs + 1):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return float(np.median(times[1:]))


def cores() -> int:
  """How many cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def machine() -> dict[str, Any]:
  """Names the processor, and its cores that this process may use."""
  described = Path('/proc/cpuinfo')  # where there is none, `platform` knows little
  lines = described.read_text('utf-8').splitlines() if described.is_file() else []
  names = [line.partition(': ')[2] for line in lines if line.startswith('model name')]
  return {'cpu': names[0] if names else platform.machine(), 'cores': cores()}


def machine_limits() -> dict[str, float]:
  """Returns `gflops` of a product of two matrices, and `gbytes_per_s` of the sum of an array."""
  large, total = jnp.ones(1 << 26), jax.jit(jnp.sum)  # 256 MB
  return {
    'gflops': product_flops() / 1e9,
    'gbytes_per_s': large.nbytes / _best(lambda: total(large)) / 1e9,
  }


def product_flops(dtype: Any = jnp.float32) -> float:
  """Returns the FLOP/s of the product of two square matrices on one device."""
  return 2 * SIZE**3 / _best(product(dtype))


def product(dtype: Any = jnp.float32) -> Callable[[], Any]:
  """Makes a run that multiplies two matrices of SIZE x SIZE."""
  matrix, run = jnp.ones((SIZE, SIZE), dtype), jax.jit(jnp.matmul)
  return lambda: run(matrix, matrix)


def _best(run: Callable[[], Any]) -> float:
  return min(median(run, 1) for _ in range(6))
