"""What devices send to one another in a compiled program, and how long that takes at the least."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import math
import re

import numpy as np

from echox_jax.compiled import hlo
from echox_jax.parallel.chips import Chip

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
  'send',
)
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_CHAIN = re.compile(r'channel_id=(\d+).*chain_id="(\d+)"')
_MESH = re.compile(r'replica_groups=(?:@\S+|mesh\[([^\]]*)\])\s*\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of the program.

  Attributes:
    kind: one of `KINDS`.
    bytes: of its result on one device (what is gathered, reduced or passed on); of a
      reduce-scatter, what goes in.
    times: how often a step does it.
    groups: int[groups,size] device numbers that take part together, or pairs (from, to); None = all
      devices.
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
    return (
      bool(np.ptp(slices))
      if self.groups is None
      else bool(np.any(np.ptp(slices[self.groups], axis=1)))
    )


def read(program: hlo.Program) -> list[Collective]:
  """The collectives of a program.

  A TPU may begin one in a fusion, go on with it in fusions of other work and end it in another:
  links of one chain, which count once, as often as the chain begins.
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


def summary(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
  """By kind: `count` and `bytes` of a whole step."""
  return {
    kind: {
      'count': sum(c.times for c in found if c.kind == kind),
      'bytes': sum(c.times * c.bytes for c in found if c.kind == kind),
    }
    for kind in KINDS
    if any(c.kind == kind for c in found)
  }


def received(collective: Collective, devices: Sequence) -> tuple[float, float]:
  """Bytes that a chip receives in one run: (over the links inside of a slice, over the network
  between slices).

  By rings, the cheapest way for large arrays: of a gather of n parts, or a reduction that scatters,
  (n - 1) / n of the whole; of an all-reduce twice that. Between s slices each chip exchanges its
  share alone: what a slice gathers or reduces goes over the network once, in m parts for its m
  chips. What the TPU compiler sends between slices is such a share already (`send`).
  """
  slices = _slices(devices)
  every = np.arange(len(devices))[None] if collective.groups is None else collective.groups
  group = next((group for group in every if len(set(slices[group])) > 1), every[0])  # the slowest
  several = len(set(slices[group]))
  chips, twice = len(group) // several, 2 if collective.kind in ('all-reduce', 'send') else 1
  if collective.kind == 'send':
    return 0.0, twice * (several - 1) / several * collective.bytes
  if collective.kind in ('collective-permute', 'collective-broadcast'):
    return (collective.bytes, 0.0) if several == 1 else (0.0, collective.bytes)
  scattered = 'all-to-all' in collective.kind  # every part goes to another chip, none can be shared
  across = twice * (several - 1) / several * collective.bytes / (1 if scattered else chips)
  inside = twice * (chips - 1) / chips * collective.bytes / (several if scattered else 1)
  return inside, across


def seconds(collective: Collective, devices: Sequence, chip: Chip) -> tuple[float, float]:
  """(seconds on the links inside a slice, seconds on the network between slices) of one run, at the
  least.

  What a chip receives (see `received`) over what it can receive at once. A group of chips of one
  slice spans an extent along each axis of the torus. Along an axis a chip receives over one link,
  or over two where the group fills an axis that is closed to a ring; axes work side by side. Groups
  that lie between one another, such as every second chip of a row, share the links. In an
  all-to-all each part travels a quarter of the ring on average (half of an open line), along the
  longest axis. What is passed on from chip to chip goes axis by axis, the shorter way, and the
  busiest link counts. Between slices each chip has its share of its host's network cards. Chips
  without a torus (GPUs) receive over all their links at once.

  Args:
    collective: one operation.
    devices: in the order of the program's device numbers, with `coords` and perhaps `slice_index`.
    chip: their speeds.
  """
  inside, across = received(collective, devices)
  network = (
    0.0 if not across else across / chip.dcn_bytes_per_s if chip.dcn_bytes_per_s else math.inf
  )
  if not inside:
    return 0.0, network
  if not chip.ring:
    return inside / chip.link_bytes_per_s, network
  slices = _slices(devices)
  first = np.arange(len(devices)) if collective.groups is None else collective.groups[0]
  group = first[slices[first] == slices[first[0]]]
  sizes, closed = _torus(_coords(devices, np.flatnonzero(slices == slices[first[0]])), chip.ring)
  if collective.kind == 'collective-permute' and collective.groups is not None:
    return inside * _busiest(
      [_coords(devices, pair) for pair in collective.groups], sizes, closed
    ) / chip.link_bytes_per_s, network
  axes = _axes(_coords(devices, group), sizes, closed)
  if not axes:
    return 0.0, network
  if 'all-to-all' in collective.kind:
    extent, links = max(axes, key=lambda axis: axis[0] / axis[1])
    return inside * len(group) / max(1, len(group) - 1) * extent / (
      4 * links * chip.link_bytes_per_s
    ), network
  return inside / (sum(links for _, links in axes) * chip.link_bytes_per_s), network


def _torus(coords: np.ndarray, ring: int) -> tuple[list[int], list[bool]]:
  """Chips along each axis of a slice, and whether they form a ring (see `Chip.ring`).

  Args:
    coords: int[chips,axes], of all its chips.
    ring: of the kind of chip.
  """
  sizes = [len(set(axis)) for axis in coords.T]
  closed = [size % ring == 0 for size in sizes]
  if sum(size > 1 for size in sizes) > 2:  # three axes are closed together or not at all
    closed = [all(closed)] * len(sizes)
  return sizes, closed


def _axes(
  group: np.ndarray, sizes: Sequence[int], closed: Sequence[bool]
) -> list[tuple[int, float]]:
  """(extent, links by which a chip receives) of each axis of the torus that a group spans; `group`:
  int[chips,axes], coordinates.
  """
  found = []
  for axis, size, is_closed in zip(group.T, sizes, closed):
    places = np.unique(axis)
    if len(places) > 1:
      found.append(
        (len(places), (2 if is_closed and len(places) == size else 1) / int(np.diff(places).min()))
      )
  return found


def _busiest(pairs: Sequence[np.ndarray], sizes: Sequence[int], closed: Sequence[bool]) -> int:
  """How many of the messages the busiest link carries in one direction; `pairs`: int[2,axes] each,
  from and to.
  """
  carried = collections.Counter()
  for start, end in pairs:
    at = [int(place) for place in start]
    for axis, size in enumerate(sizes):
      ahead = (int(end[axis]) - at[axis]) % size if closed[axis] else int(end[axis]) - at[axis]
      way = 1 if 0 < ahead <= size // 2 or (not closed[axis] and ahead > 0) else -1
      while at[axis] != end[axis]:
        carried[(*at, axis, way)] += 1
        at[axis] = (at[axis] + way) % size if closed[axis] else at[axis] + way
  return max(carried.values(), default=0)


def _slices(devices: Sequence) -> np.ndarray:
  return np.asarray([getattr(device, 'slice_index', None) or 0 for device in devices])


def _coords(devices: Sequence, numbers: np.ndarray) -> np.ndarray:
  return np.asarray([getattr(devices[i], 'coords', (i,)) for i in numbers])


def _bytes(
  kind: str, instruction: hlo.Instruction, instructions: Mapping[str, hlo.Instruction]
) -> int:
  """Bytes of what is passed on (see `Collective.bytes`)."""
  made = sum(shape.bytes for shape in instruction.shapes)
  given = sum(
    shape.bytes
    for name in instruction.operands
    if name in instructions
    for shape in instructions[name].shapes
  )
  if kind in ('reduce-scatter', 'send'):
    return given
  if not instruction.operation.endswith('-start') or kind == 'all-reduce':
    return made
  # the result names operands, results and small states
  return made - given if kind == 'all-gather' else given


def _groups(rest: str) -> np.ndarray | None:
  """Device groups in any of the forms that the text has."""
  if match := _LISTED.search(rest):
    return np.asarray(
      [[int(d) for d in group.split(',')] for group in re.findall(r'\{([\d,]+)\}', match[1])]
    )
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
      return numbers.transpose(rest_axes + [order.index(name) for name in axes]).reshape(
        -1, math.prod(sizes[a] for a in axes)
      )
  return None
