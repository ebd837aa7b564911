"""Frozen parameters of a run, written once next to its checkpoints, which refer to them.

  STAGE/frozen/ID/params           written by Orbax in the stored dtype and sharding
  STAGE/frozen/ID/checksums.json   shape, dtype and sum of every array; written last, so it marks a
                                   complete folder

ID is a digest of checksums.json. An array's sum is an integer sum that depends on every bit and its
position, but not on the mesh or the number of processes. Devices compute it on the shards in place,
hosts on numpy arrays.
"""

from collections.abc import Callable, Collection, Mapping
import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors, storage
from echox_jax.models.trees import Tree, flatten
from echox_jax.parallel import distributed
from echox_jax.storage import Path
from echox_jax.training import arrays

FOLDER, PARAMS, SUMS = 'frozen', 'params', 'checksums.json'
_ELEMENTS = 1 << 18  # elements that a host sums at a time
_FACTOR = 0x9E3779B1  # odd, so that positions get distinct weights

# the reference in a checkpoint: `folder`, relative to the stage's, and `checksum`
Reference = Mapping[str, str]
Entries = Mapping[str, Any]  # content of checksums.json


def write(stage: Path, frozen: Tree) -> dict[str, str] | None:
  """Writes the frozen parameters unless they exist already. All processes of a job call it
  together.

  Args:
    stage: the stage's folder.
    frozen: arrays on their shardings.

  Returns:
    The reference for checkpoints: `folder`, relative to the stage's, and `checksum`. None if
    nothing is frozen.

  Raises:
    CheckpointError: the parameters cannot be written.
  """
  leaves = flatten(frozen)
  if not leaves:
    return None
  sums = jax.device_get({path: device_sum(leaf) for path, leaf in leaves.items()})
  entries = {path: _entry(leaf, sums[path]) for path, leaf in leaves.items()}
  identity = _digest(entries)
  folder = storage.absolute(stage) / FOLDER / identity
  if not storage.is_file(folder / SUMS):
    if distributed.is_first():
      # left by a run that stopped before its first checkpoint
      storage.remove_tree(folder.parent)
    distributed.barrier('frozen')
    arrays.write(folder / PARAMS, frozen)
    if distributed.is_first():
      storage.atomic_write_json(folder / SUMS, entries)
    distributed.barrier('frozen written')
  return {'folder': f'{FOLDER}/{identity}', 'checksum': identity}


def shapes(stage: Path, reference: Reference | None) -> dict[str, tuple[int, ...]]:
  """Returns {`group/path`: shape}, {} without a reference; raises like `read`."""
  return (
    {path: tuple(entry['shape']) for path, entry in _entries(stage, reference).items()}
    if reference
    else {}
  )


def read(
  stage: Path, reference: Reference | None, specs: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Reads the arrays of `specs` (`group/path`) with their shardings and dtypes; checks each sum.

  Args:
    stage: the stage's folder.
    reference: the checkpoint's reference; may be None if there are no specs.
    specs: specs of any subset of the stored arrays.

  Raises:
    CheckpointError: the folder was moved, is damaged, or is not the one that the checkpoint refers
      to.
  """

  def load(file: Path, entries: Entries) -> dict[str, jax.Array]:
    return arrays.read(
      file, {path: spec.update(dtype=entries[path]['dtype']) for path, spec in specs.items()}
    )

  found = _checked(stage, reference, load, device_sum) if specs else {}
  return {path: leaf.astype(specs[path].dtype) for path, leaf in found.items()}


def read_on_host(
  stage: Path, reference: Reference | None, paths: Collection[str]
) -> dict[str, np.ndarray]:
  """Like `read`, but returns `paths` as numpy arrays in their stored dtypes."""
  return (
    _checked(stage, reference, lambda file, _: arrays.read_on_host(file, paths), host_sum)
    if paths
    else {}
  )


def host_sum(array: np.ndarray) -> int:
  """Returns the sum of a numpy array's bits modulo 2^32; each element is weighted by position."""
  flat, total = np.ascontiguousarray(array).reshape(-1), 0
  bits = flat.view(f'u{array.dtype.itemsize}')
  for start in range(0, len(bits), _ELEMENTS):
    part = bits[start : start + _ELEMENTS].astype(np.uint32)
    place = np.arange(start, start + len(part), dtype=np.uint64).astype(np.uint32)
    total += int(np.sum(part * (place * np.uint32(_FACTOR) | np.uint32(1)), dtype=np.uint32))
  return total % 2**32


@jax.jit
def device_sum(array: jax.Array) -> jax.Array:
  """Computes `host_sum` on the devices that hold the array."""
  bits = jax.lax.bitcast_convert_type(array, f'uint{8 * array.dtype.itemsize}').astype(jnp.uint32)
  place = jnp.zeros(array.shape, jnp.uint32)
  for axis in range(array.ndim):
    stride = math.prod(array.shape[axis + 1 :]) % 2**32
    place += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride)
  return jnp.sum(bits * (place * jnp.uint32(_FACTOR) | jnp.uint32(1)), dtype=jnp.uint32)


def _entry(leaf: jax.Array, total: Any) -> dict[str, Any]:
  return {'shape': list(leaf.shape), 'dtype': str(leaf.dtype), 'sum': int(total)}


def _digest(entries: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:32]


def _folder(stage: Path, reference: Reference) -> Path:
  return storage.absolute(stage) / reference['folder']


def _entries(stage: Path, reference: Reference) -> Entries:
  """Reads checksums.json and checks it against the checkpoint's reference."""
  file = _folder(stage, reference) / SUMS
  try:
    entries = json.loads(file.read_text('utf-8'))
  except FileNotFoundError:
    raise errors.CheckpointError(
      f'the checkpoints in {stage} refer to frozen parameters in {file.parent}, which are '
      'missing: move that folder back '
      'to its place next to the checkpoints.'
    ) from None
  except ValueError:
    entries = None
  if entries is None or _digest(entries) != reference['checksum']:
    raise _mismatch(stage, file)
  return entries


def _checked(
  stage: Path,
  reference: Reference,
  load: Callable[[Path, Entries], dict[str, Any]],
  sum_of: Callable[[Any], Any],
) -> dict[str, Any]:
  """Calls `load` and checks the sum of every array."""
  entries, file = _entries(stage, reference), _folder(stage, reference) / PARAMS
  try:
    found = load(file, entries)
  except errors.CheckpointError as error:
    raise _mismatch(stage, file) from error
  sums = jax.device_get({path: sum_of(leaf) for path, leaf in found.items()})
  wrong = next((path for path, total in sums.items() if int(total) != entries[path]['sum']), None)
  if wrong is not None:
    raise _mismatch(stage, file, f' (at {wrong})')
  return found


def _mismatch(stage: Path, where: Path, detail: str = '') -> errors.CheckpointError:
  return errors.CheckpointError(
    f'the frozen parameters in {where}{detail} do not match the checksum in the checkpoints of '
    f'{stage}: they are damaged or from '
    'another run, so copy that folder again from where the stage was trained, or train the stage '
    'again.'
  )
