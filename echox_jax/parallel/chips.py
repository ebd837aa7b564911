"""Chip specifications: published peaks of dense bfloat16 matmuls, memory, and links.

Sources for TPUs: the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Google Cloud
documentation (peak compute, HBM capacity and bandwidth, interchip interconnect bandwidth of a chip
and its ports, network cards of a host). A v4 or v5p host has 4 chips, a v5e or v6e host has 8.
Network between slices: v5e 2 x 100 Gbit/s per host, v5p 50 Gbit/s per chip, v6e 4 x 200 Gbit/s per
host (same pages); v4 25 GB/s per host ("How to Scale Your Model", part 2, the JAX scaling book).
Link bandwidth = the chip's bandwidth in both directions / ports / 2: v5e 400 GB/s, 4 ports, 50 GB/s
one way. The scaling book has the same value, and 45 GB/s for v4. It also says which axes are rings:
for v5e and v6e, axes of 16 chips; for v4 and v5p, all axes in slices of whole 4x4x4 cubes.
Source for GPUs: NVIDIA's data sheets.
"""

from collections.abc import Sequence
import dataclasses

_TERA, _GIGA, _GIB = 1e12, 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of chip.

  Attributes:
    name: as in TPU topology names, or the product name.
    kinds: prefixes of JAX's `device_kind`, in lower case.
    peak_flops: dense bfloat16 FLOP/s.
    hbm_bytes: memory size.
    hbm_bytes_per_s: memory bandwidth.
    link_bytes_per_s: one-way bandwidth of one link to a neighbour; for a GPU, of all its NVLinks
      (PCIe if it has none).
    ring: an axis of the torus is a ring if its extent is a multiple of this (with three axes: if
      all extents are); 0 = no torus.
    dcn_bytes_per_s: a chip's share of its host's network; 0 = unknown (it depends on the cluster).
  """

  name: str
  kinds: tuple[str, ...]
  peak_flops: float
  hbm_bytes: int
  hbm_bytes_per_s: float
  link_bytes_per_s: float
  ring: int = 0
  dcn_bytes_per_s: float = 0.0


# The first match counts, so longer names come before their prefixes.
CHIPS = (
  Chip('v4', ('tpu v4',), 275 * _TERA, 32 * _GIB, 1200 * _GIGA, 45 * _GIGA, 4, 6.25 * _GIGA),
  Chip(
    'v5e',
    ('tpu v5 lite', 'tpu v5e'),
    197 * _TERA,
    16 * _GIB,
    819 * _GIGA,
    50 * _GIGA,
    16,
    3.125 * _GIGA,
  ),
  Chip(
    'v5p', ('tpu v5p', 'tpu v5'), 459 * _TERA, 95 * _GIB, 2765 * _GIGA, 100 * _GIGA, 4, 6.25 * _GIGA
  ),
  Chip(
    'v6e',
    ('tpu v6 lite', 'tpu v6e'),
    918 * _TERA,
    32 * _GIB,
    1600 * _GIGA,
    100 * _GIGA,
    16,
    12.5 * _GIGA,
  ),
  Chip(
    'A100 80 GB',
    ('nvidia a100-sxm4-80gb', 'nvidia a100 80gb'),
    312 * _TERA,
    80 * _GIB,
    2039 * _GIGA,
    300 * _GIGA,
  ),
  Chip('A100 40 GB', ('nvidia a100',), 312 * _TERA, 40 * _GIB, 1555 * _GIGA, 300 * _GIGA),
  Chip('L4', ('nvidia l4',), 121 * _TERA, 24 * _GIB, 300 * _GIGA, 32 * _GIGA),
  Chip('H200', ('nvidia h200',), 989 * _TERA, 141 * 10**9, 4800 * _GIGA, 450 * _GIGA),
  Chip('H100 PCIe', ('nvidia h100 pcie',), 756 * _TERA, 80 * _GIB, 2000 * _GIGA, 64 * _GIGA),
  Chip('H100', ('nvidia h100',), 989 * _TERA, 80 * _GIB, 3350 * _GIGA, 450 * _GIGA),
  Chip('B200', ('nvidia b200',), 2250 * _TERA, 180 * 10**9, 8000 * _GIGA, 900 * _GIGA),
)


def find(device_kind: str) -> Chip | None:
  """Returns the chip of a `jax.Device.device_kind`; None if it is not in the table (a CPU)."""
  kind = device_kind.lower()
  return next((chip for chip in CHIPS if kind.startswith(chip.kinds)), None)


def peak_flops(devices: Sequence) -> float | None:
  """Returns the FLOP/s of all `devices` together; None if one is unknown."""
  found = [find(device.device_kind) for device in devices]
  return sum(chip.peak_flops for chip in found) if all(found) else None
