"""Parses the text of a compiled program (HLO): computations, instructions, and how often each one
runs.

The text contains a loop's body once. Its trip count comes from the compiler's annotation or from
its condition, `i < constant`, counted from 0. If the condition has more terms, such as "and not all
rows have ended", the loop may end earlier, so the constant is an upper bound. A loop with neither
counts once and is reported as unknown. For a conditional, the branch that writes the most counts.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import re

_BITS = {
  'pred': 8,
  's2': 2,
  'u2': 2,
  's4': 4,
  'u4': 4,
  's8': 8,
  'u8': 8,
  's16': 16,
  'u16': 16,
  'bf16': 16,
  'f16': 16,
  's32': 32,
  'u32': 32,
  'f32': 32,
  's64': 64,
  'u64': 64,
  'f64': 64,
  'c64': 64,
  'c128': 128,
}
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) \(.*\) -> .*\{')
_INSTRUCTION = re.compile(r'(ROOT )?%?([^\s=]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)')
_SHAPE = re.compile(r'([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?')
_CALLED = re.compile(
  r'(?:calls|to_apply|body|condition|true_computation|false_computation|async_computation|called_computation)=%?([^\s,}]+)'
)
_BRANCHES = re.compile(r'(?:branch_computations|called_computations)=\{([^}]*)\}')
_TILED = re.compile(r'\{([\d,]+):T\(([\d,]+)\)')
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array of an instruction's result."""

  dtype: str
  dims: tuple[int, ...]
  layout: str

  @property
  def bytes(self) -> int:
    """Size without tile padding."""
    return self._size(self.dims)

  @property
  def stored_bytes(self) -> int:
    """Size in memory: a TPU stores tiles, e.g. of 8 x 128 numbers, and pads the axes that they do
    not divide.
    """
    match = _TILED.match(self.layout)
    if not match or not self.dims:
      return self.bytes
    dims, tile = list(self.dims), [int(n) for n in match[2].split(',')]
    # starts with the minor axis, whose numbers are contiguous
    for axis, size in zip((int(n) for n in match[1].split(',')), reversed(tile)):
      dims[axis] = -(-dims[axis] // size) * size
    return self._size(dims)

  def _size(self, dims: Sequence[int]) -> int:
    return _BITS.get(self.dtype, 8 if self.dtype.startswith('f8') else 0) * math.prod(dims) // 8

  @property
  def in_hbm(self) -> bool:
    """False for arrays in a TPU's on-chip memory (a memory space other than 0)."""
    return 'S(' not in self.layout or 'S(0)' in self.layout


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: name of the instruction.
    operation: `dot`, `fusion`...
    shapes: shapes of its result; several for a tuple.
    operands: names of its operands.
    rest: the text after the operation: operands and attributes.
    is_root: whether it is the result of its computation.
  """

  name: str
  operation: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  rest: str
  is_root: bool

  @property
  def op_name(self) -> str:
    """The operation in the model's code that it belongs to, '' if unknown."""
    match = _NAME.search(self.rest)
    return match[1] if match else ''

  def called(self) -> list[str]:
    """Returns the names of the computations that it calls."""
    branches = [
      b.strip().lstrip('%') for group in _BRANCHES.findall(self.rest) for b in group.split(',')
    ]
    return _CALLED.findall(self.rest) + branches


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled module.

  Attributes:
    computations: name -> instructions by name.
    entry: name of the entry computation.
    times: how often each computation runs in one execution.
    inner: computations inside fusions and reductions, whose values are not in memory.
    by_budget: bodies of loops whose trip count is an upper bound.
    unknown: bodies of loops with unknown trip count, counted once.
  """

  computations: Mapping[str, Computation]
  entry: str
  times: Mapping[str, int]
  inner: frozenset[str]
  by_budget: frozenset[str]
  unknown: frozenset[str]

  def run(self) -> Iterator[tuple[str, Instruction, int]]:
    """Yields (computation, instruction, how often it runs) for every instruction that runs."""
    for name, instructions in self.computations.items():
      if self.times[name]:
        for instruction in instructions.values():
          yield name, instruction, self.times[name]


def read(text: str) -> Program:
  """Parses the text of a compiled module."""
  computations, entry = _computations(text)
  times, inner, by_budget, unknown = dict.fromkeys(computations, 0), set(), set(), set()

  def visit(name: str, factor: int, is_inner: bool) -> None:
    times[name] += factor
    if is_inner:
      inner.add(name)
    for instruction in computations[name].values():
      turns, called = 1, [other for other in instruction.called() if other in computations]
      if instruction.operation == 'conditional':
        called = [max(called, key=lambda other: _written(computations, other))] if called else []
      # these continue an operation that async-start has counted
      if instruction.operation in ('async-update', 'async-done'):
        continue
      if instruction.operation == 'while':
        turns, exact = _turns(computations, computations[name], instruction)
        body = re.search(r'body=%?([^\s,}]+)', instruction.rest)[1]
        if turns is None:
          unknown.add(body)
        elif not exact:
          by_budget.add(body)
      within = is_inner or instruction.operation not in (
        'while',
        'conditional',
        'call',
        'async-start',
      )
      for other in called:
        visit(other, factor * (1 if turns is None else turns), within)

  visit(entry, 1, False)
  return Program(
    computations, entry, times, frozenset(inner), frozenset(by_budget), frozenset(unknown)
  )


def _computations(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
  """Returns {computation: {name: instruction}} and the name of the entry computation."""
  computations, entry, current, last = {}, '', None, ()
  # the text of a kernel spans several lines with any indentation
  for line in text.splitlines():
    if line == '}':
      current = None
    elif not line.startswith(' ') and (match := _COMPUTATION.match(line)):
      current = computations.setdefault(match[2], {})
      entry = match[2] if match[1] else entry
    elif (
      current is not None and line.startswith(' ') and (match := _INSTRUCTION.match(line.strip()))
    ):
      last = match.groups()
      current[last[1]] = _instruction(*last)
    elif current and line.strip():  # continues the attributes of the previous instruction
      last = (*last[:4], f'{last[4]} {line}')
      current[last[1]] = _instruction(*last)
  return computations, entry


def _instruction(
  root: str | None, name: str, result: str, operation: str, rest: str
) -> Instruction:
  return Instruction(name, operation, _shapes(result), _operands(rest), rest, root is not None)


def _written(computations: Mapping[str, Computation], name: str) -> float:
  """Returns the bytes of all results of a computation, including loop repeats; used to compare
  branches.
  """
  total = 0.0
  for instruction in computations[name].values():
    total += sum(shape.bytes for shape in instruction.shapes)
    called = [
      _written(computations, other) for other in instruction.called() if other in computations
    ]
    if instruction.operation == 'conditional':
      total += max(called, default=0.0)
    elif instruction.operation in ('while', 'call', 'async-start'):
      total += sum(called) * (
        (_turns(computations, computations[name], instruction)[0] or 1)
        if instruction.operation == 'while'
        else 1
      )
  return total


def _shapes(text: str) -> tuple[Shape, ...]:
  return tuple(
    Shape(dtype, tuple(int(d) for d in dims.split(',') if d), layout or '')
    for dtype, dims, layout in _SHAPE.findall(text)
  )


def _operands(rest: str) -> tuple[str, ...]:
  """Returns the names before the closing bracket; each may follow its type."""
  depth, end = 1, len(rest)
  for i, letter in enumerate(rest):
    depth += (letter in '([{') - (letter in ')]}')
    if not depth:
      end = i
      break
  return tuple(re.findall(r'%([^\s,()]+)', rest[:end])) or tuple(
    part.strip() for part in rest[:end].split(',') if re.fullmatch(r'\s*[A-Za-z_][\w.\-]*\s*', part)
  )


def _turns(
  computations: Mapping[str, Computation], inside: Computation, loop: Instruction
) -> tuple[int | None, bool]:
  """Returns (trip count of a loop in `inside`, or None; whether the count is exact)."""
  noted = re.search(r'known_trip_count[^\d]*(\d+)', loop.rest)
  if noted:
    return int(noted[1]), True
  condition = computations.get(re.search(r'condition=%?([^\s,}]+)', loop.rest)[1], {})
  limits, roots = [], [i for i in condition.values() if i.is_root]
  _find_limits(computations, condition, {}, limits)
  if not limits:
    return None, False
  exact = bool(roots) and roots[0].operation == 'compare' and len(limits) == 1
  start, step = _counter(computations, condition, inside, loop)
  return max(0, -(-(max(limits) - start) // step)), exact


def _counter(
  computations: Mapping[str, Computation],
  condition: Computation,
  inside: Computation,
  loop: Instruction,
) -> tuple[int, int]:
  """Returns the start and step of the loop counter in the condition (the step is more than 1 if the
  loop was unrolled); (0, 1) if the text does not show them.
  """
  body = computations.get(re.search(r'body=%?([^\s,}]+)', loop.rest)[1], {})
  result = next((i for i in body.values() if i.is_root and i.operation == 'tuple'), None)
  begun = inside.get(loop.operands[0]) if loop.operands else None
  for compared in condition.values():
    if compared.operation not in ('compare', 'fusion'):
      continue
    counters = [
      condition[name]
      for name in compared.operands
      if name in condition and condition[name].operation == 'get-tuple-element'
    ]
    for index in (int(re.search(r'index=(\d+)', counter.rest)[1]) for counter in counters):
      step = (
        _added(body, result.operands[index])
        if result is not None and index < len(result.operands)
        else None
      )
      if step:
        start = (
          _constant(inside, begun.operands[index])
          if begun is not None and begun.operation == 'tuple'
          else None
        )
        return start or 0, step
  return 0, 1


def _added(body: Computation, name: str) -> int | None:
  """Returns the constant that is added to another value to make this one."""
  added = body.get(name)
  while added is not None and added.operation in ('copy', 'bitcast') and added.operands:
    added = body.get(added.operands[0])
  if added is None or added.operation != 'add':
    return None
  return next((n for n in (_constant(body, name) for name in added.operands) if n), None)


def _constant(inside: Computation, name: str) -> int | None:
  """Returns the integer constant behind a name; None for anything else."""
  found = inside.get(name)
  while found is not None and found.operation in ('copy', 'bitcast', 'convert') and found.operands:
    found = inside.get(found.operands[0])
  match = (
    re.match(r'(\d+)\)', found.rest)
    if found is not None and found.operation == 'constant'
    else None
  )
  return int(match[1]) if match and found.shapes[0].dtype[0] in 'su' else None


def _find_limits(
  computations: Mapping[str, Computation],
  instructions: Computation,
  given: Mapping[str, int],
  limits: list[int],
) -> None:
  """Collects the constants on the right of `<` comparisons; `given`: parameters that are constants
  of the caller.
  """
  known = {
    name: given[name] if name in given else _constant(instructions, name) for name in instructions
  }
  constants = {name: value for name, value in known.items() if value is not None}
  for instruction in instructions.values():
    if (
      instruction.operation == 'compare'
      and 'direction=LT' in instruction.rest
      and len(instruction.operands) == 2
    ):
      limits.extend(constants[name] for name in instruction.operands[1:] if name in constants)
    if (
      instruction.operation == 'compare'
      and 'direction=GT' in instruction.rest
      and len(instruction.operands) == 2
    ):
      limits.extend(constants[name] for name in instruction.operands[:1] if name in constants)
    if instruction.operation in ('fusion', 'call'):
      for name in instruction.called():
        inside = computations.get(name, {})
        passed = {
          i.name: constants[instruction.operands[number]]
          for i in inside.values()
          if i.operation == 'parameter'
          for number in [int(i.rest.split(')')[0])]
          if number < len(instruction.operands) and instruction.operands[number] in constants
        }
        _find_limits(computations, inside, passed, limits)
