"""The machines of a plan, and what this one can compute: known chips by their data sheet, all else
measured.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp

from echox_jax.parallel import chips
from echox_jax.parallel.chips import Chip
from launch.bench import timing


@dataclasses.dataclass(frozen=True)
class Machines:
  """What the plan may use.

  Attributes:
    chip, chips: of the slice.
    hosts: of the slice.
    cores_per_host: of every host.
    cpu_hosts: that read in the recordings, without chips.
    goodput: share of the time in which steps that are kept are computed.
  """

  chip: Chip
  chips: int
  hosts: int
  cores_per_host: int
  cpu_hosts: int
  goodput: float = 1.0


def here(goodput: float) -> Machines:
  """This machine; all cores of a CPU are one chip."""
  found = jax.local_devices()
  kind, count = found[0].device_kind, 1 if found[0].platform == 'cpu' else len(found)
  chip = chips.find(kind) or Chip(kind, (), product_flops(), 0, 0.0, 0.0)
  return Machines(chip, count, 1, os.cpu_count() or 1, 1, goodput)


def product_flops() -> float:
  """FLOP/s of the product of two square matrices on one device, in float32 or bfloat16, whichever
  is faster.
  """
  return max(timing.product_flops(dtype) for dtype in (jnp.float32, jnp.bfloat16))
