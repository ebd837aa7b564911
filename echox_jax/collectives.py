"""What devices send to one another in a compiled program, and how long that takes at the least."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re

import numpy as np

from echox_jax import hlo
from echox_jax.chips import Chip

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute', 'collective-broadcast',
         'send')
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_CHAIN = re.compile(r'channel_id=(\d+).*chain_id="(\d+)"')
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


def read(program: hlo.Program) -> list[Collective]:
  """The collectives of a program.

  A TPU may begin one in a fusion, go on with it in fusions of other work and end it in another: links of one chain, which count
  once, as often as the chain begins.
  """
  found, chains = [], {}
  for computation, instruction, times in program.run():
    kind = instruction.operation.removesuffix('-start')
    if kind not in KINDS:
      continue
    size = _bytes(kind, instruction, program.computations[computation])
    one = Collective(kind, size, times, _groups(instruction.rest), instruction.op_name)
    link = _CHAIN.search(instruction.rest)
    if link is None:
      found.append(one)
    elif link.groups() not in chains or times < chains[link.groups()].times:
      chains[link.groups()] = one
  return found + list(chains.values())


def loops(program: hlo.Program, bodies: frozenset[str]) -> int:
  """How many of these loop bodies hold collectives."""
  return sum(any(i.operation.removesuffix('-start') in KINDS for i in program.computations[body].values()) for body in bodies)


def summary(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
  """By kind: `count` and `bytes` of a whole step."""
  return {kind: {'count': sum(c.times for c in found if c.kind == kind), 'bytes': sum(c.times * c.bytes for c in found if c.kind == kind)}
          for kind in KINDS if any(c.kind == kind for c in found)}


def received(collective: Collective, devices: int) -> float:
  """Bytes that one device receives, once: of a ring, the cheapest way for large arrays."""
  size = devices if collective.groups is None else collective.groups.shape[1]
  others = (size - 1) / size if size else 0.0
  if collective.kind in ('collective-permute', 'send', 'collective-broadcast'):
    return float(collective.bytes)
  return collective.bytes * others * (2 if collective.kind == 'all-reduce' else 1)


def seconds(collective: Collective, devices: Sequence, chip: Chip) -> tuple[float, float]:
  """(seconds on the links inside a slice, seconds on the network between slices) of one run, at the least.

  A group of chips of one slice spans an extent along each axis of the torus. Along an axis a chip receives over one link, or
  over two where the axis is closed to a ring; axes work side by side. So a gather of n parts takes (n - 1) / n of its bytes over
  that bandwidth; a reduction as long as the gather of what it scatters, an all-reduce twice that. In an all-to-all each part
  travels a quarter of the ring on average (half of an open line), along the longest axis. What is passed on to one other chip takes one link.
  Between slices each chip has its share of its host's network cards, and sends what the other slices need of its part.
  Chips without a torus (GPUs) receive over all their links at once.

  Args:
    collective: one operation.
    devices: in the order of the program's device numbers, with `coords` and perhaps `slice_index`.
    chip: their speeds.
  """
  groups = np.arange(len(devices))[None] if collective.groups is None else collective.groups
  members = [devices[i] for i in groups[0]]
  slices = len({getattr(device, 'slice_index', 0) or 0 for device in members})
  size = received(collective, len(devices))
  if slices > 1:
    return 0.0, size / chip.dcn_bytes_per_s if chip.dcn_bytes_per_s else math.inf
  coords = np.asarray([getattr(device, 'coords', (i,)) for i, device in enumerate(members)])
  extents = [len(set(axis)) for axis in coords.T if len(set(axis)) > 1]
  if not extents:
    return 0.0, 0.0
  if not chip.ring:
    return size / chip.link_bytes_per_s, 0.0
  directions = [2 if extent % chip.ring == 0 else 1 for extent in extents]
  if collective.kind in ('all-to-all', 'ragged-all-to-all'):
    extent, ways = max(zip(extents, directions))
    return collective.bytes * extent / (4 * ways * chip.link_bytes_per_s), 0.0
  links = 1 if collective.kind in ('collective-permute', 'send') else sum(directions)
  return size / (links * chip.link_bytes_per_s), 0.0


def _bytes(kind: str, instruction: hlo.Instruction, instructions: Mapping[str, hlo.Instruction]) -> int:
  """Bytes of what is passed on (see `Collective.bytes`)."""
  sizes = [shape.bytes for shape in instruction.shapes]
  if kind == 'reduce-scatter':
    return sum(shape.bytes for name in instruction.operands if name in instructions for shape in instructions[name].shapes)
  if instruction.operation.endswith('-start') or kind == 'send':  # the result names operands, results and small states
    return max(sizes, default=0)
  return sum(sizes)


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
