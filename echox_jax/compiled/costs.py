"""The cost of a compiled program on each device: FLOPs, memory traffic and communication, and the
time of each.

All costs come from the program's text, including loop trip counts (see `hlo`). Nothing is measured.
The times assume a chip at its published peak speeds, so they are lower bounds. They may overlap, so
the slowest one bounds a step.

FLOPs include matmuls, convolutions (except positions that only see padding or dilation) and
kernels. `traffic` counts memory traffic, `collectives` counts communication. Other arithmetic is
not counted.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
import re
from typing import NamedTuple

import numpy as np

from echox_jax.compiled import collectives, hlo, kernels, traffic
from echox_jax.parallel.chips import Chip


class Cost(NamedTuple):
  """Total cost of one instruction over all its runs: FLOPs, memory traffic and description."""

  flops: float
  bytes: float
  what: str


@dataclasses.dataclass(frozen=True)
class Times:
  """The lower bounds of a step on each chip in seconds, and the counts behind them.

  Attributes:
    compute_s, hbm_s, ici_s, dcn_s: compute, memory traffic, links inside a slice, network between
      slices.
    flops: FLOPs of matmuls, convolutions and kernels.
    hbm_bytes: bytes read from and written to memory.
    ici_bytes, dcn_bytes: bytes received.
    kernels_without_flops: number of kernels with unknown FLOPs.
  """

  compute_s: float
  hbm_s: float
  ici_s: float
  dcn_s: float
  flops: float
  hbm_bytes: float
  ici_bytes: float
  dcn_bytes: float
  kernels_without_flops: int

  @property
  def slowest(self) -> str:
    """The name of the largest term."""
    return max(('compute_s', 'hbm_s', 'ici_s', 'dcn_s'), key=lambda name: getattr(self, name))

  def mfu_bound(self, model_flops: float, devices: int, chip: Chip) -> float:
    """Returns the maximum MFU given the slowest term."""
    return model_flops / (devices * chip.peak_flops * getattr(self, self.slowest))


def times(program: hlo.Program, devices: Sequence, chip: Chip) -> Times:
  """Computes the costs of a step on chips of one kind.

  Args:
    program: the compiled step.
    devices: in the order of the program's device numbers.
    chip: their kind.
  """
  each, sent = instructions(program), collectives.read(program)
  flops, moved = math.fsum(cost.flops for cost in each), math.fsum(cost.bytes for cost in each)
  ici_s, dcn_s = _sums((c.times, collectives.seconds(c, devices, chip)) for c in sent)
  ici_bytes, dcn_bytes = received(sent, devices)
  return Times(
    flops / chip.peak_flops,
    moved / chip.hbm_bytes_per_s,
    ici_s,
    dcn_s,
    flops,
    moved,
    ici_bytes,
    dcn_bytes,
    _silent_kernels(program),
  )


def received(sent: Sequence[collectives.Collective], devices: Sequence) -> tuple[float, float]:
  """Returns the bytes that a chip receives in a step: (inside its slice, from other slices)."""
  return _sums((c.times, collectives.received(c, devices)) for c in sent)


def _sums(each: Iterable[tuple[int, tuple[float, float]]]) -> tuple[float, float]:
  """Returns both weighted sums of (times, (first, second))."""
  each = list(each)
  return math.fsum(n * pair[0] for n, pair in each), math.fsum(n * pair[1] for n, pair in each)


def instructions(program: hlo.Program) -> list[Cost]:
  """Returns the cost of each instruction."""
  found = []
  for computation, instruction, runs in program.run():
    inside = program.computations[computation]
    flops = _flops(instruction, inside)
    moved = (
      0.0 if computation in program.inner else traffic.of(instruction, inside, program.computations)
    )
    if flops or moved:
      found.append(
        Cost(
          runs * flops,
          runs * moved,
          f'{runs} x {instruction.operation} {instruction.op_name or instruction.name}',
        )
      )
  return found


def largest(
  program: hlo.Program, devices: Sequence, chip: Chip, number: int
) -> dict[str, list[tuple[float, str]]]:
  """Returns the `number` most expensive instructions, (seconds, what), by term."""
  each = instructions(program)
  by_link = [
    (
      c.times * sum(collectives.seconds(c, devices, chip)),
      f'{c.times} x {c.kind} of {c.bytes:,} bytes {c.name}',
    )
    for c in collectives.read(program)
  ]

  def take(pairs):
    return sorted(pairs, reverse=True)[:number]

  return {
    'compute_s': take((cost.flops / chip.peak_flops, cost.what) for cost in each if cost.flops),
    'hbm_s': take((cost.bytes / chip.hbm_bytes_per_s, cost.what) for cost in each if cost.bytes),
    'ici_s, dcn_s': take(by_link),
  }


def _flops(instruction: hlo.Instruction, inside: Mapping[str, hlo.Instruction]) -> float:
  operands = [inside[name] for name in instruction.operands if name in inside]
  if instruction.operation == 'dot' and operands:
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
    dims = operands[0].shapes[0].dims
    inner = math.prod(dims[int(i)] for i in contracted[1].split(',') if i) if contracted else 1
    return 2.0 * math.prod(instruction.shapes[0].dims) * inner
  if instruction.operation == 'convolution' and len(operands) == 2:
    return _convolution_flops(instruction, operands[0].shapes[0].dims, operands[1].shapes[0].dims)
  if kernels.is_kernel(instruction):
    return kernels.flops(instruction, inside) or 0.0
  return 0.0


def _convolution_flops(
  instruction: hlo.Instruction, given: Sequence[int], kernel: Sequence[int]
) -> float:
  """Counts two FLOPs per multiply-add, without those on padding or dilation zeros."""
  out = instruction.shapes[0].dims
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest)
  window = dict(
    re.findall(
      r'(size|stride|pad|lhs_dilate|rhs_dilate)=([\dx_\-]+)',
      (re.search(r'window=\{([^}]*)\}', instruction.rest) or ('', ''))[1],
    )
  )

  def part(axis: int, name: str, default: int) -> int:
    return int(window[name].split('x')[axis].split('_')[0]) if name in window else default

  taps = 1
  for i, size in enumerate(int(n) for n in window.get('size', '').split('x') if n):
    length = given[labels[1].index(str(i))]
    place = (
      np.arange(out[labels[3].index(str(i))])[:, None] * part(i, 'stride', 1)
      + np.arange(size) * part(i, 'rhs_dilate', 1)
      - part(i, 'pad', 0)
    )
    apart = part(i, 'lhs_dilate', 1)
    taps *= int(np.sum((place >= 0) & (place % apart == 0) & (place // apart < length)))
  batch, features = out[labels[3].index('b')], out[labels[3].index('f')]
  return 2.0 * taps * batch * features * kernel[labels[2].index('i')]


def _silent_kernels(program: hlo.Program) -> int:
  """Returns the number of kernels that run and have unknown FLOPs."""
  return sum(
    kernels.is_kernel(i) and kernels.flops(i, program.computations[name]) is None
    for name, i, _ in program.run()
  )
