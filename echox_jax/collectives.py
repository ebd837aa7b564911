"""What devices send to one another in a compiled program, read from its text (HLO).

A loop's body stands there once; it is multiplied by the number of its turns where the loop's condition tells it (`i < constant`,
counted from 0), otherwise it counts once and the loop is reported as unknown.
"""

from collections.abc import Sequence
import dataclasses
import math
import re

import numpy as np

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute', 'collective-broadcast',
         'send')
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'bf16': 16, 'f16': 16, 's32': 32, 'u32': 32, 'f32': 32,
         's64': 64, 'u64': 64, 'f64': 64, 'c64': 64, 'c128': 128}
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) \(.*\) -> .*\{')
_INSTRUCTION = re.compile(r'(?:ROOT )?%?([^\s=]+) = (.*?) ([a-z][a-z\-]*)\((.*)')
_SHAPE = re.compile(r'([a-z]+\d*)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|body|condition|true_computation|false_computation|async_computation)=%?([^\s,}]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(r"replica_groups=(?:@\S+|mesh\[([^\]]*)\])\s*\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of the program.

  Attributes:
    kind: one of `KINDS`.
    bytes: of its result on one device (what is gathered, reduced or passed on); of a reduce-scatter, what goes in.
    times: how often a step does it.
    groups: int[groups,size] device numbers that take part together, or pairs (from, to); None = all devices.
    name: the operation in the model's code that it serves, '' if not noted.
  """
  kind: str
  bytes: int
  times: int
  groups: np.ndarray | None
  name: str

  def crosses(self, slices: Sequence[int]) -> bool:
    """Whether devices of different slices take part, given each device's slice."""
    slices = np.asarray(slices)
    return bool(np.ptp(slices)) if self.groups is None else bool(np.any(np.ptp(slices[self.groups], axis=1)))


def read(hlo: str) -> tuple[list[Collective], int]:
  """The collectives of a program, and the number of loops with collectives whose turns are unknown.

  Args:
    hlo: text of a compiled module.
  """
  computations, entry = _computations(hlo)
  times, unknown = _times(computations, entry)
  found = []
  for name, lines in computations.items():
    for _, result, operation, rest in lines:
      kind = operation.removesuffix('-start')
      if kind in KINDS and times.get(name):
        found.append(Collective(kind, _bytes(kind, operation, result, rest, lines), times[name], _groups(rest), _name(rest)))
  with_collectives = {name for name, lines in computations.items() if any(line[2].removesuffix('-start') in KINDS for line in lines)}
  return found, len(unknown & with_collectives)


def summary(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
  """By kind: `count` and `bytes` of a whole step."""
  return {kind: {'count': sum(c.times for c in found if c.kind == kind), 'bytes': sum(c.times * c.bytes for c in found if c.kind == kind)}
          for kind in KINDS if any(c.kind == kind for c in found)}


def _computations(hlo: str) -> tuple[dict[str, list[tuple[str, str, str, str]]], str]:
  """{computation: [(name, result, operation, rest)]} and the name of the entry."""
  computations, entry, current = {}, '', None
  for line in hlo.splitlines():  # the text of a kernel runs over several lines, which may begin anywhere
    if line == '}':
      current = None
    elif not line.startswith(' ') and (match := _COMPUTATION.match(line)):
      current = computations.setdefault(match[2], [])
      entry = match[2] if match[1] else entry
    elif current is not None and (match := _INSTRUCTION.match(line.strip())):
      current.append(match.groups())
  return computations, entry


def _times(computations, entry: str) -> tuple[dict[str, int], set[str]]:
  """How often each computation runs, and the bodies of loops whose turns are unknown."""
  times, unknown = {name: 0 for name in computations}, set()

  def visit(name: str, factor: int) -> None:
    times[name] += factor
    for _, _, operation, rest in computations.get(name, ()):
      turns = 1
      called = _CALLED.findall(rest) + [b.strip().lstrip('%') for group in _BRANCHES.findall(rest) for b in group.split(',')]
      if operation == 'while':
        condition = re.search(r'condition=%?([^\s,}]+)', rest)[1]
        turns = _turns(computations.get(condition, ()), rest)
        if turns is None:
          unknown.add(re.search(r'body=%?([^\s,}]+)', rest)[1])
      for other in called:
        if other in computations:
          visit(other, factor * (turns or 1))

  visit(entry, 1)
  return times, unknown


def _turns(condition, rest: str) -> int | None:
  """Turns of a loop: as noted by the compiler, or N of the condition `i < N`."""
  noted = re.search(r'known_trip_count[^\d]*(\d+)', rest)
  if noted:
    return int(noted[1])
  constants = {name: int(match[1]) for name, _, operation, rest in condition if operation == 'constant' and (match := re.match(r'(\d+)\)', rest))}
  last = condition[-1] if condition else None
  if last is None or last[2] != 'compare' or 'direction=LT' not in last[3]:
    return None
  compared = [part.strip().lstrip('%').split(' ')[-1].lstrip('%') for part in last[3].split(')')[0].split(',')]
  return constants.get(compared[-1])


def _bytes(kind: str, operation: str, result: str, rest: str, lines) -> int:
  """Bytes of what is passed on (see `Collective.bytes`)."""
  shapes = [_size(*match) for match in _SHAPE.findall(result)]
  if kind == 'reduce-scatter':
    operands = {part.strip().lstrip('%') for part in rest.split(')')[0].split(',')}
    return sum(_size(*match) for name, result, *_ in lines if name in operands for match in _SHAPE.findall(result))
  if operation.endswith('-start') or kind == 'send':  # the result names operands, results and small states
    return max(shapes, default=0)
  return sum(shapes)


def _size(dtype: str, dims: str) -> int:
  return _BITS.get(dtype, 8 if dtype.startswith('f8') else 0) * math.prod(int(d) for d in dims.split(',') if d) // 8


def _groups(rest: str) -> np.ndarray | None:
  """Device groups in any of the forms that the text has."""
  if match := _LISTED.search(rest):
    return np.asarray([[int(d) for d in group.split(',')] for group in re.findall(r'\{([\d,]+)\}', match[1])])
  if match := _IOTA.search(rest):
    shape, source = ([int(d) for d in match[i].split(',')] for i in (1, 2))
    numbers = np.arange(math.prod(source)).reshape(source)
    if match[3]:
      numbers = numbers.transpose([int(d) for d in match[3].split(',')])
    return numbers.reshape(shape)
  if (match := _MESH.search(rest)) and match[1]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
    axes = re.findall(r"'([^']+)'", match[2])
    if 'device_ids' not in match[1] and ':(' not in match[2] and set(axes) <= sizes.keys():
      numbers, order = np.arange(math.prod(sizes.values())).reshape(*sizes.values()), list(sizes)
      rest_axes = [i for i, name in enumerate(order) if name not in axes]
      return numbers.transpose(rest_axes + [order.index(name) for name in axes]).reshape(-1, math.prod(sizes[a] for a in axes))
  return None


def _name(rest: str) -> str:
  match = re.search(r'op_name="([^"]*)"', rest)
  return match[1] if match else ''
