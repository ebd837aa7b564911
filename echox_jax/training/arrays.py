"""Trees of arrays on disk, written by Orbax; checkpoints and frozen parameters use them."""

from collections.abc import Iterable, Mapping
import math
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from echox_jax import errors, storage
from echox_jax.models.trees import Tree, flatten, unflatten
from echox_jax.storage import Path


def write(path: Path, tree: Tree) -> None:
  """Atomically writes a tree of arrays as the folder `path`. All processes of a job call it
  together.

  Raises:
    CheckpointError: the folder cannot be written.
  """
  path = storage.absolute(path)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      checkpointer.save(epath.Path(path), args=ocp.args.PyTreeSave(tree))
  except Exception as error:  # the storage layer reports a full disk in several ways
    raise errors.CheckpointError(
      f'{path} cannot be written ({reason(error)}): free some space there or make it writable.'
    ) from error


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
  """Returns {`a/b/c`: shape} of the arrays in the folder `path`; raises like `read`."""
  return {name: tuple(leaf.shape) for name, leaf in _metadata(path).items()}


def read(path: Path, specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Reads the named arrays with the shardings and dtypes of their specs.

  Raises:
    CheckpointError: the folder is missing or damaged.
  """
  return (
    flatten(_restore(path, restore_args(unflatten(dict(specs)), partial=True))) if specs else {}
  )


def read_on_host(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
  """Reads the named arrays as numpy arrays in their stored dtypes, without using device memory.

  Reading an array briefly needs twice its size. Arrays are read one by one, largest first, so the
  peak is little more than their total size.

  Raises:
    CheckpointError: see `read`.
  """
  stored, found = _metadata(path), {}
  for name in sorted(names, key=lambda name: -math.prod(stored[name].shape)):
    tree = unflatten({name: jax.ShapeDtypeStruct(tuple(stored[name].shape), stored[name].dtype)})
    as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    found |= flatten(
      _restore(path, ocp.args.PyTreeRestore(tree, restore_args=as_numpy, partial_restore=True))
    )
  return found


def restore_args(tree: Any, partial: bool = False) -> ocp.args.PyTreeRestore:
  """Returns the Orbax arguments that restore `tree` (jax.ShapeDtypeStruct with shardings);
  `partial`: the folder may hold more arrays.
  """
  return ocp.args.PyTreeRestore(
    tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=partial
  )


def reason(error: Exception) -> str:
  """Returns the message of a storage error on one line."""
  return (
    getattr(error, 'strerror', None)
    or f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0]
  )[:200]


def damaged(path: Path, error: Exception) -> errors.CheckpointError:
  """Returns the error for an unreadable checkpoint."""
  return errors.CheckpointError(
    f'the checkpoint {path} cannot be read ({reason(error)}): remove this folder and run the '
    'same command again, '
    'which resumes from the previous checkpoint or starts from scratch.'
  )


def _metadata(path: Path) -> dict[str, Any]:
  path = storage.absolute(path)
  try:
    return flatten(ocp.PyTreeCheckpointHandler().metadata(epath.Path(path)).tree)
  except Exception as error:
    raise damaged(path.parent, error) from error


def _restore(path: Path, args: ocp.args.PyTreeRestore) -> Tree:
  path = storage.absolute(path)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(epath.Path(path), args=args)
  except Exception as error:
    raise damaged(path.parent, error) from error
