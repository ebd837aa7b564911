"""Checkpoints of a stage, through Orbax: the only file that knows it.

A stage's folder holds `checkpoints/STEP/{params,opt_state,meta}`: separate items, so that the next stage or another mesh
reads parameters alone. All processes of a job save and restore together, each its part; another number of them, on another
mesh, restores what they saved. `finished.json` appears when the last step is saved; until then the stage can only be resumed.
"""

from collections.abc import Iterable
import json
from pathlib import Path
from typing import Any
import uuid

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from echox_jax import errors, files
from echox_jax.trees import Tree, flatten, unflatten

FOLDER = 'checkpoints'
FINISHED = 'finished.json'


class Checkpoints:
  """Saves and restores the runs of one stage.

  Args:
    folder: of the stage.
    keep: number of checkpoints to keep; an old one goes only when a newer one is whole.
  """

  def __init__(self, folder: Path, keep: int):
    self._folder = Path(folder).absolute() / FOLDER
    self._manager = _manager(
        self._folder, max_to_keep=max(keep, 1), cleanup_tmp_directories=True,  # what a killed run left
        # On CPU host copies may share memory with buffers that the next step overwrites, so saving waits there.
        enable_async_checkpointing=jax.default_backend() != 'cpu')

  def latest_step(self) -> int | None:
    """The newest step that is saved whole."""
    return self._manager.latest_step()

  def save(self, step: int, params: Tree, opt_state: Any, iterator: Any, meta: dict[str, Any]) -> None:
    """Saves everything that a resumed run needs; does nothing if the step is saved already.

    Args:
      step: number of steps done.
      params, opt_state: trees of arrays.
      iterator: its `get_state()` is JSON, and the same in all processes.
      meta: JSON that is kept beside them.

    Raises:
      CheckpointError: it cannot be written; earlier checkpoints stay.
    """
    if step in self._manager.all_steps():
      return
    try:
      self._manager.save(step, args=ocp.args.Composite(
          params=ocp.args.PyTreeSave(params), opt_state=ocp.args.PyTreeSave(opt_state),
          meta=ocp.args.JsonSave(meta | {'data': iterator.get_state()})))
    except Exception as error:  # the storage layer reports a full disk in several ways
      raise self._unwritable(step, error) from error

  def restore(self, step: int, params: Tree, opt_state: Any, iterator: Any) -> tuple[Tree, Any, dict[str, Any]]:
    """(params, opt_state, meta) of `step` on the given shardings; the iterator is set to where it was.

    Args:
      step: a saved step.
      params, opt_state: trees of jax.ShapeDtypeStruct with shardings.
      iterator: over the same data.

    Raises:
      CheckpointError: the checkpoint is damaged or of another config.
    """
    shapes = {path: leaf.shape for path, leaf in flatten(params).items()}
    check_shapes(str(self._folder / str(step)), _shapes(self._folder, step), shapes)
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(
          params=_restore_args(params), opt_state=_restore_args(opt_state), meta=ocp.args.JsonRestore()))
      iterator.set_state(restored['meta']['data'])
    except Exception as error:
      raise _damaged(self._folder / str(step), error) from error
    return restored['params'], restored['opt_state'], restored['meta']

  def close(self) -> None:
    """Waits until what was saved is on disk.

    Raises:
      CheckpointError: it could not be written.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._unwritable(self.latest_step(), error) from error
    finally:
      self._manager.close()

  def _unwritable(self, step: int | None, error: Exception) -> errors.CheckpointError:
    return errors.CheckpointError(
        f'the checkpoint of step {step} could not be written to {self._folder} ({_reason(error)}): '
        'make room there or make it writable, and run the same command again; earlier checkpoints are kept.')


def save_params(folder: Path, params: Tree) -> None:
  """Writes parameters alone as step 0 of `folder`, for stages to start from.

  Raises:
    CheckpointError: they cannot be written.
  """
  path = Path(folder).absolute() / FOLDER / '0' / 'params'
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      checkpointer.save(epath.Path(path), args=ocp.args.PyTreeSave(params))
  except Exception as error:  # the storage layer reports a full disk in several ways
    raise errors.CheckpointError(f'{path} cannot be written ({_reason(error)}): make room there or make it writable.') from error


def mark_finished(folder: Path, summary: dict[str, Any]) -> None:
  """Marks the stage in `folder` as finished, under a new `id`: what starts from it can tell whether it was trained again."""
  files.atomic_write_json(Path(folder) / FINISHED, summary | {'id': uuid.uuid4().hex})


def unmark_finished(folder: Path) -> None:
  """Takes the mark away: the stage is trained further."""
  (Path(folder) / FINISHED).unlink(missing_ok=True)


def read_finished(folder: Path) -> dict[str, Any] | None:
  """The summary of a finished stage; None if the stage is not finished."""
  try:
    return json.loads((Path(folder) / FINISHED).read_text('utf-8'))
  except (FileNotFoundError, NotADirectoryError):
    return None
  except ValueError as error:
    raise _damaged(Path(folder) / FINISHED, error) from error


def param_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
  """`group/path` -> shape of the parameters in the newest checkpoint of the stage in `folder`."""
  folder = Path(folder).absolute() / FOLDER
  return _shapes(folder, _latest(folder))


def load_params(folder: Path, specs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """The named parameters (`group/path`) of the newest checkpoint in `folder`, on the shardings of their specs."""
  folder = Path(folder).absolute() / FOLDER
  return flatten(_load(folder, unflatten(specs)))


def load_groups(folder: Path, groups: Iterable[str]) -> Tree:
  """Whole parameter groups of the newest checkpoint of the stage in `folder`, as numpy arrays.

  Raises:
    CheckpointError: there is no checkpoint, it is damaged, or it lacks a group.
  """
  folder, groups = Path(folder).absolute() / FOLDER, tuple(groups)
  shapes = _shapes(folder, _latest(folder))
  missing = [group for group in groups if not any(path.startswith(group + '/') for path in shapes)]
  if missing:
    raise errors.CheckpointError(f'{folder} has no parameters of {", ".join(missing)}: give the folder of a stage that holds them.')
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  specs = {path: jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
           for path, shape in shapes.items() if path.split('/')[0] in groups}
  return jax.tree.map(np.asarray, _load(folder, unflatten(specs)))


def check_shapes(name: str, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
  """Raises CheckpointError naming the first of the `wanted` parameters that `found` lacks or has in another shape."""
  for path, shape in wanted.items():
    if found.get(path) != tuple(shape):
      has = f'as {found[path]}' if path in found else 'not at all'
      raise errors.CheckpointError(
          f'{name} is of another config: it has {path} {has}, the config asks for {tuple(shape)}; '
          'use the config that it was made with, or another --workdir.')


def _manager(folder: Path, **options) -> ocp.CheckpointManager:
  try:
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options))
  except OSError as error:
    raise errors.CheckpointError(f'{folder} cannot be used for checkpoints ({_reason(error)}): make it writable or give another --workdir.') from error


def _latest(folder: Path) -> int:
  steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
  if not steps:
    raise errors.CheckpointError(f'{folder} has no checkpoint: train the stage first.')
  return max(steps)


def _shapes(folder: Path, step: int) -> dict[str, tuple[int, ...]]:
  try:
    metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder / str(step) / 'params')).tree
    return {path: tuple(leaf.shape) for path, leaf in flatten(metadata).items()}
  except Exception as error:
    raise _damaged(folder / str(step), error) from error


def _load(folder: Path, tree: Tree) -> Tree:
  path = folder / str(_latest(folder))
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(epath.Path(path / 'params'), args=_restore_args(tree, partial=True))
  except Exception as error:
    raise _damaged(path, error) from error


def _restore_args(tree: Any, partial: bool = False) -> ocp.args.PyTreeRestore:
  return ocp.args.PyTreeRestore(
      tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=partial)


def _reason(error: Exception) -> str:
  return (getattr(error, 'strerror', None) or f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0])[:200]


def _damaged(path: Path, error: Exception) -> errors.CheckpointError:
  return errors.CheckpointError(
      f'the checkpoint {path} cannot be read ({_reason(error)}): remove this folder and run the same command again, '
      'which goes on from the checkpoint before it or starts anew.')
