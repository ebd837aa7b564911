"""Communication between devices in a compiled program, and a lower bound of its time."""

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
    bytes: size of its result on one device; for a reduce-scatter, of its input.
    times: how often it runs in a step.
    groups: int[groups,size] numbers of devices that take part together, or pairs (from, to); None =
      all devices.
    name: the operation in the model's code that it belongs to, '' if unknown.
  """

  kind: str
  bytes: int
  times: int
  groups: np.ndarray | None
  name: str

  def crosses(self, slices: Sequence[int]) -> bool:
    """Returns whether devices of different slices take part, given each device's slice."""
    slices = np.asarray(slices)
    return (
      bool(np.ptp(slices))
      if self.groups is None
      else bool(np.any(np.ptp(slices[self.groups], axis=1)))
    )


def read(program: hlo.Program) -> list[Collective]:
  """Reads the collectives of a program.

  A TPU may start a collective in one fusion, continue it in fusions of other work and end it in
  another. These are links of one chain, which counts once per start.
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
  """Returns `count` and `bytes` of a whole step by kind."""
  return {
    kind: {
      'count': sum(c.times for c in found if c.kind == kind),
      'bytes': sum(c.times * c.bytes for c in found if c.kind == kind),
    }
    for kind in KINDS
    if any(c.kind == kind for c in found)
  }


def received(collective: Collective, devices: Sequence) -> tuple[float, float]:
  """Returns the bytes that a chip receives in one run: (over links inside a slice, over the network
  between slices).

  It assumes ring algorithms, which are the cheapest for large arrays. A gather of n parts, or a
  reduce-scatter, receives (n - 1) / n of the whole; an all-reduce receives twice that. Between s
  slices each chip exchanges only its share: the data of a slice crosses the network once, in m
  parts for its m chips. A `send` of the TPU compiler between slices already is such a share.
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
  scattered = 'all-to-all' in collective.kind  # each part goes to another chip; none is shared
  across = twice * (several - 1) / several * collective.bytes / (1 if scattered else chips)
  inside = twice * (chips - 1) / chips * collective.bytes / (several if scattered else 1)
  return inside, across


def seconds(collective: Collective, devices: Sequence, chip: Chip) -> tuple[float, float]:
  """Returns lower bounds of one run: (seconds on links inside a slice, seconds on the network
  between slices).

  The time is the received bytes (see `received`) divided by the receive bandwidth. A group of chips
  of one slice has an extent along each axis of the torus. Along an axis a chip receives over one
  link, or over two if the group fills an axis that is a ring; axes work in parallel. Interleaved
  groups, such as every second chip of a row, share the links. In an all-to-all each part travels a
  quarter of the ring on average (half of an open line), along the longest axis. A
  collective-permute goes axis by axis, the shorter way, and the busiest link counts. Between slices
  each chip has its share of its host's network cards. Chips without a torus (GPUs) receive over all
  their links at once.

  Args:
    collective: one operation.
    devices: in the order of the program's device numbers, with `coords` and optionally
      `slice_index`.
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
  """Returns the chips along each axis of a slice, and whether they form a ring (see `Chip.ring`).

  Args:
    coords: int[chips,axes], coordinates of all its chips.
    ring: `Chip.ring` of the chips.
  """
  sizes = [len(set(axis)) for axis in coords.T]
  closed = [size % ring == 0 for size in sizes]
  if sum(size > 1 for size in sizes) > 2:  # either all three axes are rings or none
    closed = [all(closed)] * len(sizes)
  return sizes, closed


def _axes(
  group: np.ndarray, sizes: Sequence[int], closed: Sequence[bool]
) -> list[tuple[int, float]]:
  """Returns (extent, links that a chip receives over) of each torus axis that a group spans;
  `group`: coordinates int[chips,axes].
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
  """Returns the number of messages on the busiest link in one direction; `pairs`: int[2,axes] each,
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
  """Returns `Collective.bytes` of an instruction."""
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
  # the result tuple contains operands, results and small states
  return made - given if kind == 'all-gather' else given


def _groups(rest: str) -> np.ndarray | None:
  """Parses device groups in any of the text's formats."""
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
