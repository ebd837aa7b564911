"""What a compiled program costs on each device: FLOPs, memory traffic and messages, and the time
that each of them takes.

All of it is read from the program's text, loops with their turns (see `hlo`). Nothing is measured:
the times are those of a chip at its published speeds, with nothing in the way, so that they are
lower bounds; they may overlap, so the slowest bounds a step.

FLOPs are those of products and convolutions (positions that only see padding or dilation not
counted) and of kernels; memory traffic is what `traffic` says, messages what `collectives` says.
The rest of the arithmetic is not counted.
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
  """Of one instruction, all its runs together: FLOPs, bytes of memory traffic, and what it is."""

  flops: float
  bytes: float
  what: str


@dataclasses.dataclass(frozen=True)
class Times:
  """A step on each chip: seconds by what bounds it, and what they follow from.

  Attributes:
    compute_s, hbm_s, ici_s, dcn_s: products, memory traffic, links inside of a slice, network
      between slices.
    flops: of products, convolutions and kernels.
    hbm_bytes: read from memory and written to it.
    ici_bytes, dcn_bytes: received.
    kernels_without_flops: of how many kernels the FLOPs are not known.
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
    """The share of the peak that the model's FLOPs can reach at most, given the slowest term."""
    return model_flops / (devices * chip.peak_flops * getattr(self, self.slowest))


def times(program: hlo.Program, devices: Sequence, chip: Chip) -> Times:
  """Costs of a step on chips of one kind.

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
  """Bytes that a chip receives in a step: (inside of its slice, from other slices)."""
  return _sums((c.times, collectives.received(c, devices)) for c in sent)


def _sums(each: Iterable[tuple[int, tuple[float, float]]]) -> tuple[float, float]:
  """Of (times, (first, second)): both sums."""
  each = list(each)
  return math.fsum(n * pair[0] for n, pair in each), math.fsum(n * pair[1] for n, pair in each)


def instructions(program: hlo.Program) -> list[Cost]:
  """What each instruction costs."""
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
  """The `number` instructions that cost most, (seconds, what), by term."""
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
  """Two for each product that is not one with padding or with the zeros of a dilation."""
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
  """Kernels that run and whose FLOPs are not known."""
  return sum(
    kernels.is_kernel(i) and kernels.flops(i, program.computations[name]) is None
    for name, i, _ in program.run()
  )
