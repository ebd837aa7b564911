"""Memory traffic of a compiled program: the bytes that an instruction reads from a chip's memory and writes to it.

Only what stands outside of fusions touches memory: it reads its operands and writes its result. Not the whole of them where less
is touched: a slice reads what it cuts out; an update in place writes what is new; a fusion reads of an operand what its
instructions read of it, fusions inside of it included; and names for what is there (tuples, bitcasts, carries of loops), arrays in
on-chip memory and buffers that are only handed on cost nothing. Arrays take their size in memory, tiles filled up.
"""

from collections.abc import Mapping, Sequence
import math
import re

from echox_jax import hlo

# They move nothing: names for what is there, control, and ends of what a start has moved.
_FREE = frozenset((
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all', 'partition-id',
    'replica-id', 'opt-barrier', 'add-dependency', 'domain', 'async-start', 'async-update', 'async-done', 'copy-done', 'slice-done',
    'dynamic-slice-done', 'all-gather-done', 'all-reduce-done', 'collective-permute-done', 'send-done', 'recv'))
_FREE_CALLS = ('AllocateBuffer', 'ConcatBitcast', 'AssumeGatherIndicesInBound', 'SliceId', 'Sharding')
_SLICES = ('dynamic-slice', 'slice', 'gather')
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}  # which operand is new; the first is updated
_NAMES = ('bitcast', 'reshape')
# What the TPU compiler makes of a collective that goes on beside other work: a start, links inside of other fusions, an end.
_LINKS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute', 'custom-call')

Computations = Mapping[str, hlo.Computation]


def of(instruction: hlo.Instruction, inside: hlo.Computation, computations: Computations) -> float:
  """Bytes of one run of an instruction that stands outside of fusions, in the computation `inside`."""
  if instruction.operation in _FREE or (
      instruction.operation == 'custom-call' and any(f'custom_call_target="{name}"' in instruction.rest for name in _FREE_CALLS)):
    return 0.0
  operation = instruction.operation.removesuffix('-start')
  operands = [inside[name] for name in instruction.operands if name in inside]
  if operation == 'fusion':
    return _fusion(instruction, operands, computations)
  if operation in _SLICES and operands:  # a start names its operand, the slice and a flag
    cut = instruction.shapes[-2] if instruction.operation.endswith('-start') and len(instruction.shapes) > 1 else instruction.shapes[0]
    return _in_hbm([cut]) + (cut.stored_bytes if _in_hbm(operands[0].shapes) else 0)
  if operation in _UPDATES and len(operands) > _UPDATES[operation]:
    new = operands[_UPDATES[operation]].shapes
    return _in_hbm(new) + (_stored(new) if _in_hbm(instruction.shapes) else 0)
  if operation == 'send':
    return _in_hbm(operands[0].shapes) if operands else 0.0
  if instruction.operation.endswith('-start') and operation != 'all-reduce':  # the result names the operands too
    return _in_hbm(instruction.shapes)
  return _in_hbm(instruction.shapes) + sum(_in_hbm(operand.shapes) for operand in {o.name: o for o in operands}.values())


def _fusion(instruction: hlo.Instruction, operands: Sequence[hlo.Instruction], computations: Computations) -> float:
  inner = computations.get(next(iter(instruction.called()), ''))
  if inner is None:
    return _in_hbm(instruction.shapes) + sum(_in_hbm(operand.shapes) for operand in operands)
  parameters, total = _parameters(inner), 0.0
  for number, operand in enumerate(operands):
    whole = _in_hbm(operand.shapes)
    total += min(whole, _read(parameters[number], inner, computations)) if whole and number in parameters else whole
  root = next(i for i in inner.values() if i.is_root)
  results = [inner[name] for name in root.operands] if root.operation == 'tuple' else [root] * len(instruction.shapes)
  handed_on = _handed_on(instruction.rest)
  for number, (shape, result) in enumerate(zip(instruction.shapes, results)):
    total += min(_in_hbm([shape]), _written(result, inner, computations, number in handed_on))
  return total


def _read(name: str, inner: hlo.Computation, computations: Computations) -> float:
  """Bytes that a fusion reads of the value `name`; infinite for all of it."""
  total = 0.0
  for use in (i for i in inner.values() if name in i.operands):
    first = use.operands[0] == name
    if use.operation in _NAMES:
      total += _read(use.name, inner, computations)
    elif use.operation in _SLICES and first:
      total += _stored(use.shapes)
    elif use.operation == 'scatter' and first and _is_result(use.name, inner):  # adds to what is there
      total += _new(use, inner)
    elif use.operation == 'fusion' and use.called()[0] in computations:
      nested = computations[use.called()[0]]
      parameters = _parameters(nested)
      total += sum(_read(parameters[i], nested, computations) for i, operand in enumerate(use.operands) if operand == name and i in parameters)
    elif not (use.operation == 'tuple' or use.operation in _LINKS or (
        use.operation == 'dynamic-update-slice' and first and _is_result(use.name, inner))):
      return math.inf
  return total


def _written(result: hlo.Instruction, inner: hlo.Computation, computations: Computations, handed_on: bool) -> float:
  """Bytes that a fusion writes for one of its results; infinite for all of it."""
  while result.operation in _NAMES and result.operands[0] in inner:
    result = inner[result.operands[0]]
  if result.operation == 'parameter' or (handed_on and result.operation in _LINKS):
    return 0.0
  if result.operation in _UPDATES and _is_parameter(result.operands[0], inner):
    return _new(result, inner)
  if result.operation == 'fusion' and result.called()[0] in computations and len(result.shapes) == 1:
    nested = computations[result.called()[0]]
    root = next(i for i in nested.values() if i.is_root)
    return _written(root, nested, computations, False) if root.operation in _UPDATES else math.inf
  return math.inf


def _new(update: hlo.Instruction, inner: hlo.Computation) -> float:
  """Bytes of what an update puts in."""
  number = _UPDATES[update.operation]
  return _stored(inner[update.operands[number]].shapes) if number < len(update.operands) else math.inf


def _parameters(computation: hlo.Computation) -> dict[int, str]:
  return {int(i.rest.split(')')[0]): i.name for i in computation.values() if i.operation == 'parameter'}


def _is_parameter(name: str, inner: hlo.Computation) -> bool:
  while inner[name].operation in _NAMES:
    name = inner[name].operands[0]
  return inner[name].operation == 'parameter'


def _is_result(name: str, inner: hlo.Computation) -> bool:
  """Whether a value is only what the computation gives back."""
  uses = [i for i in inner.values() if name in i.operands]
  return all(use.operation == 'tuple' or (use.operation in _NAMES and _is_result(use.name, inner)) for use in uses)


def _handed_on(rest: str) -> set[int]:
  """Which results of a fusion stand in the place of an operand."""
  match = re.search(r'output_to_operand_aliasing=\{((?:\{[\d, ]*\}: \(\d+, \{[\d, ]*\}\)(?:, )?)+)\}', rest)
  return {int(n) if n else 0 for n in re.findall(r'\{(\d*)\}: \(', match[1])} if match else set()


def _in_hbm(shapes: Sequence[hlo.Shape]) -> float:
  return float(sum(shape.stored_bytes for shape in shapes if shape.in_hbm))


def _stored(shapes: Sequence[hlo.Shape]) -> float:
  return float(sum(shape.stored_bytes for shape in shapes))
