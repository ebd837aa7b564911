"""What a compiled program costs on each device: FLOPs, memory traffic and messages, and the time that each of them takes.

All of it is read from the program's text, loops with their turns (see `hlo`). Nothing is measured: the times are those of a chip
at its published speeds, with nothing in the way, so that they are lower bounds; they may overlap, so the slowest bounds a step.

FLOPs are those of products and convolutions (positions that only see padding or dilation not counted) and of kernels that note
their own. Memory traffic is what each instruction outside of fusions reads and writes: a fusion that only slices an operand
reads the slice, one that updates a part of an array in place writes that part; what is in on-chip memory costs nothing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any, NamedTuple

import numpy as np

from echox_jax import collectives, hlo
from echox_jax.chips import Chip

# They move nothing: names for what is there, or control.
_FREE = frozenset((
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all', 'partition-id',
    'replica-id', 'opt-barrier', 'add-dependency', 'domain', 'copy-done', 'async-start', 'async-update', 'async-done', 'all-gather-done',
    'all-reduce-done', 'collective-permute-done', 'slice-done', 'dynamic-slice-done'))
_SLICES = ('dynamic-slice', 'slice', 'gather')


class Cost(NamedTuple):
  """Of one instruction, all its runs together: FLOPs, bytes of memory traffic, and what it is."""
  flops: float
  bytes: float
  what: str


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of a step on each device by what bounds it; `kernels_without_flops` says how many kernels tell no FLOPs."""
  compute_s: float
  hbm_s: float
  ici_s: float
  dcn_s: float
  flops: float
  hbm_bytes: float
  ici_bytes: float
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
  each = instructions(program)
  flops, moved = math.fsum(cost.flops for cost in each), math.fsum(cost.bytes for cost in each)
  sent = collectives.read(program)
  spent = [(c.times, collectives.seconds(c, devices, chip)) for c in sent]
  return Times(
      flops / chip.peak_flops, moved / chip.hbm_bytes_per_s, math.fsum(n * s for n, (s, _) in spent), math.fsum(n * s for n, (_, s) in spent),
      flops, moved, math.fsum(c.times * collectives.received(c, len(devices)) for c in sent), _silent_kernels(program))


def instructions(program: hlo.Program) -> list[Cost]:
  """What each instruction costs."""
  found = []
  for computation, instruction, runs in program.run():
    inside = program.computations[computation]
    flops = _flops(instruction, inside)
    moved = 0.0 if computation in program.inner else _traffic(instruction, inside, program.computations)
    if flops or moved:
      found.append(Cost(runs * flops, runs * moved, f'{runs} x {instruction.operation} {instruction.op_name or instruction.name}'))
  return found


def largest(program: hlo.Program, devices: Sequence, chip: Chip, number: int) -> dict[str, list[tuple[float, str]]]:
  """The `number` instructions that cost most, (seconds, what), by term."""
  each = instructions(program)
  by_link = [(c.times * sum(collectives.seconds(c, devices, chip)), f'{c.times} x {c.kind} of {c.bytes:,} bytes {c.name}')
             for c in collectives.read(program)]
  take = lambda pairs: sorted(pairs, reverse=True)[:number]
  return {'compute_s': take((cost.flops / chip.peak_flops, cost.what) for cost in each if cost.flops),
          'hbm_s': take((cost.bytes / chip.hbm_bytes_per_s, cost.what) for cost in each if cost.bytes), 'ici_s, dcn_s': take(by_link)}


def _flops(instruction: hlo.Instruction, inside: Mapping[str, hlo.Instruction]) -> float:
  operands = [inside[name] for name in instruction.operands if name in inside]
  if instruction.operation == 'dot' and operands:
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
    dims = operands[0].shapes[0].dims
    inner = math.prod(dims[int(i)] for i in contracted[1].split(',') if i) if contracted else 1
    return 2.0 * math.prod(instruction.shapes[0].dims) * inner
  if instruction.operation == 'convolution' and len(operands) == 2:
    return _convolution_flops(instruction, operands[0].shapes[0].dims, operands[1].shapes[0].dims)
  if instruction.operation == 'custom-call':
    noted = re.search(r'"flops":\s*"?(\d+)', instruction.rest)
    return float(noted[1]) if noted else 0.0
  return 0.0


def _convolution_flops(instruction: hlo.Instruction, given: Sequence[int], kernel: Sequence[int]) -> float:
  """Two for each product that is not one with padding or with the zeros of a dilation."""
  out = instruction.shapes[0].dims
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest)
  window = dict(re.findall(r'(size|stride|pad|lhs_dilate|rhs_dilate)=([\dx_\-]+)', (re.search(r'window=\{([^}]*)\}', instruction.rest) or ('', ''))[1]))
  taps = 1
  for i, size in enumerate(int(n) for n in window.get('size', '').split('x') if n):
    part = lambda name, default: int(window[name].split('x')[i].split('_')[0]) if name in window else default
    length = given[labels[1].index(str(i))]
    place = np.arange(out[labels[3].index(str(i))])[:, None] * part('stride', 1) + np.arange(size) * part('rhs_dilate', 1) - part('pad', 0)
    apart = part('lhs_dilate', 1)
    taps *= int(np.sum((place >= 0) & (place % apart == 0) & (place // apart < length)))
  batch, features = out[labels[3].index('b')], out[labels[3].index('f')]
  return 2.0 * taps * batch * features * kernel[labels[2].index('i')]


def _traffic(instruction: hlo.Instruction, inside: Mapping[str, hlo.Instruction], computations: Mapping[str, hlo.Computation]) -> float:
  """Bytes read from memory and written to it in one run."""
  operation = instruction.operation.removesuffix('-start')
  if instruction.operation in _FREE:
    return 0.0
  operands = [inside[name] for name in instruction.operands if name in inside]
  if operation == 'fusion':
    return _fusion_traffic(instruction, operands, computations)
  if operation in _SLICES:
    return 2.0 * _in_hbm(instruction.shapes)
  if operation == 'dynamic-update-slice':
    return 2.0 * _in_hbm(operands[1].shapes) if len(operands) > 1 else 0.0
  if operation == 'copy' and instruction.operation == 'copy-start':  # the result names both places
    return sum(_in_hbm([shape]) for shape in instruction.shapes[:2])
  return _in_hbm(instruction.shapes) + sum(_in_hbm(operand.shapes) for operand in operands)


def _fusion_traffic(instruction: hlo.Instruction, operands: Sequence[hlo.Instruction], computations: Mapping[str, hlo.Computation]) -> float:
  called = instruction.called()
  if not called or called[0] not in computations:
    return _in_hbm(instruction.shapes) + sum(_in_hbm(operand.shapes) for operand in operands)
  inner, total = computations[called[0]], 0.0
  numbered = {int(i.rest.split(')')[0]): i for i in inner.values() if i.operation == 'parameter'}
  for number, operand in enumerate(operands):
    whole = _in_hbm(operand.shapes)
    uses = _uses(numbered[number].name, inner) if number in numbered else []
    if uses and all(use.operation in _SLICES for use in uses):
      whole = min(whole, sum(shape.bytes for use in uses for shape in use.shapes))
    elif uses and all(use.operation == 'dynamic-update-slice' and _source(use.operands[0], inner) == numbered[number].name for use in uses):
      whole = 0.0  # updated in place
    total += whole
  root = next((i for i in inner.values() if i.is_root), None)
  results = [inner[name] for name in root.operands if name in inner] if root is not None and root.operation == 'tuple' else [root]
  for shape, result in zip(instruction.shapes, results):
    result = None if result is None else inner.get(_source(result.name, inner), result)
    if result is not None and result.operation == 'dynamic-update-slice' and len(result.operands) > 1 and result.operands[1] in inner:
      total += min(_in_hbm([shape]), 2.0 * sum(s.bytes for s in inner[result.operands[1]].shapes))
    else:
      total += _in_hbm([shape])
  return total


def _uses(name: str, inner: Mapping[str, hlo.Instruction]) -> list[hlo.Instruction]:
  """Who reads a value, seen through names for it."""
  found = []
  for instruction in inner.values():
    if name in instruction.operands:
      found += _uses(instruction.name, inner) if instruction.operation == 'bitcast' else [instruction]
  return found


def _source(name: str, inner: Mapping[str, hlo.Instruction]) -> str:
  """The value behind names for it."""
  while name in inner and inner[name].operation in ('bitcast', 'copy') and inner[name].operands:
    name = inner[name].operands[0]
  return name


def _in_hbm(shapes: Sequence[hlo.Shape]) -> float:
  return float(sum(shape.bytes for shape in shapes if shape.in_hbm))


def _silent_kernels(program: hlo.Program) -> int:
  """Kernels that run and do not note their FLOPs."""
  return sum('tpu_custom_call' in i.rest and '"flops"' not in i.rest for _, i, _ in program.run() if i.operation == 'custom-call')
