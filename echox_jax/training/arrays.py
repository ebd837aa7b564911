"""Trees of arrays on disk, through Orbax: what checkpoints and frozen parameters are made of."""

from collections.abc import Iterable, Mapping
import math
from pathlib import Path
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from echox_jax import errors
from echox_jax.models.trees import Tree, flatten, unflatten


def write(path: Path, tree: Tree) -> None:
  """Writes a tree of arrays as the folder `path`, whole or not at all; all processes of a job
  together.

  Raises:
    CheckpointError: it cannot be written.
  """
  path = Path(path).absolute()
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      checkpointer.save(epath.Path(path), args=ocp.args.PyTreeSave(tree))
  except Exception as error:  # the storage layer reports a full disk in several ways
    raise errors.CheckpointError(
      f'{path} cannot be written ({reason(error)}): make room there or make it writable.'
    ) from error


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
  """`a/b/c` -> shape of the arrays in the folder `path`; errors as `read`."""
  return {name: tuple(leaf.shape) for name, leaf in _metadata(path).items()}


def read(path: Path, specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """The named arrays on the shardings and in the dtypes of their specs.

  Raises:
    CheckpointError: the folder is missing or damaged.
  """
  return (
    flatten(_restore(path, restore_args(unflatten(dict(specs)), partial=True))) if specs else {}
  )


def read_on_host(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
  """The named arrays as numpy arrays in the dtype that they are stored in; no device holds any of
  them.

  Reading an array takes its size twice for a moment. They are read one after the other, the largest
  first, so that all of them together take little more than their own size.

  Raises:
    CheckpointError: as `read`.
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
  """What Orbax is asked for to restore `tree`, of jax.ShapeDtypeStruct with shardings; `partial`:
  the folder may hold more.
  """
  return ocp.args.PyTreeRestore(
    tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=partial
  )


def reason(error: Exception) -> str:
  """What an error of the storage layer says, on one line."""
  return (
    getattr(error, 'strerror', None)
    or f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0]
  )[:200]


def damaged(path: Path, error: Exception) -> errors.CheckpointError:
  """The error for what cannot be read."""
  return errors.CheckpointError(
    f'the checkpoint {path} cannot be read ({reason(error)}): remove this folder and run the '
    'same command again, '
    'which goes on from the checkpoint before it or starts anew.'
  )


def _metadata(path: Path) -> dict[str, Any]:
  path = Path(path).absolute()
  try:
    return flatten(ocp.PyTreeCheckpointHandler().metadata(epath.Path(path)).tree)
  except Exception as error:
    raise damaged(path.parent, error) from error


def _restore(path: Path, args: ocp.args.PyTreeRestore) -> Tree:
  path = Path(path).absolute()
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(epath.Path(path), args=args)
  except Exception as error:
    raise damaged(path.parent, error) from error
