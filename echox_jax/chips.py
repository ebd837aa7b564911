"""What chips can do: published peaks of dense bfloat16 products, and memory."""

from collections.abc import Sequence
import dataclasses

_TERA, _GIB = 1e12, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of chip.

  Attributes:
    name: as in the name of a TPU topology, or of the product.
    kinds: how JAX's `device_kind` begins, in lower case.
    peak_flops: dense bfloat16 FLOP/s.
    hbm_bytes: memory.
  """
  name: str
  kinds: tuple[str, ...]
  peak_flops: float
  hbm_bytes: int


# The first that fits counts, so that longer names stand before their beginnings.
CHIPS = (
    Chip('v4', ('tpu v4',), 275 * _TERA, 32 * _GIB),
    Chip('v5e', ('tpu v5 lite', 'tpu v5e'), 197 * _TERA, 16 * _GIB),
    Chip('v5p', ('tpu v5p', 'tpu v5'), 459 * _TERA, 95 * _GIB),
    Chip('v6e', ('tpu v6 lite', 'tpu v6e'), 918 * _TERA, 32 * _GIB),
    Chip('A100 80 GB', ('nvidia a100-sxm4-80gb', 'nvidia a100 80gb'), 312 * _TERA, 80 * _GIB),
    Chip('A100 40 GB', ('nvidia a100',), 312 * _TERA, 40 * _GIB),
    Chip('L4', ('nvidia l4',), 121 * _TERA, 24 * _GIB),
    Chip('H200', ('nvidia h200',), 989 * _TERA, 141 * 10**9),
    Chip('H100 PCIe', ('nvidia h100 pcie',), 756 * _TERA, 80 * _GIB),
    Chip('H100', ('nvidia h100',), 989 * _TERA, 80 * _GIB),
    Chip('B200', ('nvidia b200',), 2250 * _TERA, 180 * 10**9),
)


def find(device_kind: str) -> Chip | None:
  """The chip that `jax.Device.device_kind` names; None where it is not in the table (a CPU)."""
  kind = device_kind.lower()
  return next((chip for chip in CHIPS if kind.startswith(chip.kinds)), None)


def peak_flops(devices: Sequence) -> float | None:
  """FLOP/s of all `devices` together; None where one is unknown."""
  found = [find(device.device_kind) for device in devices]
  return sum(chip.peak_flops for chip in found) if all(found) else None
