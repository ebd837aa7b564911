"""Memory traffic of a compiled program: bytes that it reads from and writes to a chip's memory.

Only instructions outside fusions touch memory. They read their operands and write their results,
but only the parts that they use. A slice reads only the slice; an in-place update writes only the
new values. A fusion reads the parts of an operand that its instructions read, nested fusions
included. Aliases (tuples, bitcasts, loop carries), arrays in on-chip memory and forwarded buffers
cost nothing. Arrays count with their size in memory, including tile padding.
"""

from collections.abc import Mapping, Sequence
import math
import re

from echox_jax.compiled import hlo

# Operations that move nothing: aliases, control, and ends of transfers that a start has counted.
_FREE = frozenset(
  (
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'while',
    'conditional',
    'call',
    'after-all',
    'partition-id',
    'replica-id',
    'opt-barrier',
    'add-dependency',
    'domain',
    'async-start',
    'async-update',
    'async-done',
    'copy-done',
    'slice-done',
    'dynamic-slice-done',
    'all-gather-done',
    'all-reduce-done',
    'collective-permute-done',
    'send-done',
    'recv',
  )
)
_FREE_CALLS = tuple(
  f'custom_call_target="{name}"'
  for name in (
    'AllocateBuffer',
    'ConcatBitcast',
    'AssumeGatherIndicesInBound',
    'SliceId',
    'Sharding',
  )
)
_SLICES = ('dynamic-slice', 'slice', 'gather')
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}  # index of the new values; updates operand 0
_NAMES = ('bitcast', 'reshape')
# The TPU compiler splits a collective that overlaps other work into a start, links inside other
# fusions, and an end.
_LINKS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'custom-call',
)

Computations = Mapping[str, hlo.Computation]


def of(instruction: hlo.Instruction, inside: hlo.Computation, computations: Computations) -> float:
  """Returns the bytes of one run of an instruction that is in `inside`, outside fusions."""
  if instruction.operation in _FREE or any(call in instruction.rest for call in _FREE_CALLS):
    return 0.0
  starts = instruction.operation.endswith('-start')
  operation = instruction.operation.removesuffix('-start')
  operands = [inside[name] for name in dict.fromkeys(instruction.operands) if name in inside]
  if operation == 'fusion':
    return _fusion(instruction, inside, computations)
  if operation in _SLICES and operands:  # a start's result has the operand, the slice and a flag
    cut = instruction.shapes[-2 if starts and len(instruction.shapes) > 1 else 0]
    return _in_hbm([cut]) + (cut.stored_bytes if _in_hbm(operands[0].shapes) else 0)
  if operation in _UPDATES and len(instruction.operands) > _UPDATES[operation]:
    new = inside[instruction.operands[_UPDATES[operation]]].shapes
    return _in_hbm(new) + (_stored(new) if _in_hbm(instruction.shapes) else 0)
  if operation == 'send':
    return _in_hbm(operands[0].shapes) if operands else 0.0
  if starts and operation != 'all-reduce':  # the result tuple contains the operands too
    return _in_hbm(instruction.shapes)
  return _in_hbm(instruction.shapes) + sum(_in_hbm(operand.shapes) for operand in operands)


def _fusion(
  instruction: hlo.Instruction, inside: hlo.Computation, computations: Computations
) -> float:
  operands = [inside[name].shapes if name in inside else () for name in instruction.operands]
  inner = computations.get(next(iter(instruction.called()), ''))
  if inner is None:
    return _in_hbm(instruction.shapes) + sum(_in_hbm(shapes) for shapes in operands)
  parameters, total = _parameters(inner), 0.0
  for number, shapes in enumerate(operands):
    whole = _in_hbm(shapes)
    if whole and number in parameters:
      whole = min(whole, _read(parameters[number], inner, computations))
    total += whole
  root = next(i for i in inner.values() if i.is_root)
  results = [root] * len(instruction.shapes)
  if root.operation == 'tuple':
    results = [inner[name] for name in root.operands]
  handed_on = _handed_on(instruction.rest)
  for number, (shape, result) in enumerate(zip(instruction.shapes, results)):
    written = _written(result, inner, computations, number in handed_on)
    total += min(_in_hbm([shape]), written)
  return total


def _read(name: str, inner: hlo.Computation, computations: Computations) -> float:
  """Returns the bytes that a fusion reads of the value `name`; infinity = all of it."""
  total = 0.0
  for use in (i for i in inner.values() if name in i.operands):
    first = use.operands[0] == name
    in_place = use.operation in _UPDATES and first and _is_result(use.name, inner)
    if use.operation in _NAMES:
      total += _read(use.name, inner, computations)
    elif use.operation in _SLICES and first:
      total += _stored(use.shapes)
    elif use.operation == 'scatter' and in_place:  # adds to the existing values
      total += _new(use, inner)
    elif use.operation == 'fusion' and use.called()[0] in computations:
      nested = computations[use.called()[0]]
      places = (i for i, operand in enumerate(use.operands) if operand == name)
      parameters = _parameters(nested)
      total += sum(_read(parameters[i], nested, computations) for i in places if i in parameters)
    elif not (in_place or use.operation == 'tuple' or use.operation in _LINKS):
      return math.inf
  return total


def _written(
  result: hlo.Instruction, inner: hlo.Computation, computations: Computations, handed_on: bool
) -> float:
  """Returns the bytes that a fusion writes for one of its results; infinity = all of it."""
  while result.operation in _NAMES and result.operands[0] in inner:
    result = inner[result.operands[0]]
  if result.operation == 'parameter' or (handed_on and result.operation in _LINKS):
    return 0.0
  if result.operation in _UPDATES and _is_parameter(result.operands[0], inner):
    return _new(result, inner)
  if result.operation == 'fusion' and len(result.shapes) == 1:
    nested = computations.get(result.called()[0], {})
    root = next((i for i in nested.values() if i.is_root), None)
    if root is not None and root.operation in _UPDATES:
      return _written(root, nested, computations, False)
  return math.inf


def _new(update: hlo.Instruction, inner: hlo.Computation) -> float:
  """Returns the bytes of an update's new values."""
  number = _UPDATES[update.operation]
  if number >= len(update.operands):
    return math.inf
  return _stored(inner[update.operands[number]].shapes)


def _parameters(computation: hlo.Computation) -> dict[int, str]:
  """Returns the parameter names by number."""
  found = (i for i in computation.values() if i.operation == 'parameter')
  return {int(i.rest.split(')')[0]): i.name for i in found}


def _is_parameter(name: str, inner: hlo.Computation) -> bool:
  while inner[name].operation in _NAMES:
    name = inner[name].operands[0]
  return inner[name].operation == 'parameter'


def _is_result(name: str, inner: hlo.Computation) -> bool:
  """Returns whether a value is used only as a result of the computation."""
  uses = [i for i in inner.values() if name in i.operands]
  return all(
    use.operation == 'tuple' or (use.operation in _NAMES and _is_result(use.name, inner))
    for use in uses
  )


def _handed_on(rest: str) -> set[int]:
  """Returns the results of a fusion that alias an operand."""
  pair = r'\{[\d, ]*\}: \(\d+, \{[\d, ]*\}\)'
  match = re.search(rf'output_to_operand_aliasing=\{{((?:{pair}(?:, )?)+)\}}', rest)
  return {int(n) if n else 0 for n in re.findall(r'\{(\d*)\}: \(', match[1])} if match else set()


def _in_hbm(shapes: Sequence[hlo.Shape]) -> float:
  return float(sum(shape.stored_bytes for shape in shapes if shape.in_hbm))


def _stored(shapes: Sequence[hlo.Shape]) -> float:
  return float(sum(shape.stored_bytes for shape in shapes))
