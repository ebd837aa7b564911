"""Checkpoints of a stage, through Orbax: the only file that knows it.

A stage's folder holds `checkpoints/STEP/{params,opt_state,meta}`: separate items, so that the next
stage or another mesh reads parameters alone. Parameters that the stage never changes are written
once, to the folder `frozen` beside `checkpoints`; `meta` then names that folder and the checksum of
each of them, and `params` holds the trained ones. Without such a reference `params` holds all of
them, as in checkpoints of earlier versions and in imported ones.

All processes of a job save and restore together, each its part; another number of them, on another
mesh, restores what they saved. `finished.json` appears when the last step is saved; until then the
stage can only be resumed.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any
import uuid

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from echox_jax import errors, files
from echox_jax.training import checksum
from echox_jax.trees import Tree, flatten, unflatten

FOLDER, FROZEN = 'checkpoints', 'frozen'
FINISHED = 'finished.json'
_PARAMS = 'params'
_REFERENCE = 'frozen'  # in meta: `folder`, relative to the stage's, and `checksums`, by parameter


@dataclasses.dataclass(frozen=True)
class _Leaf:
  """Where a parameter of a checkpoint lies; `checksum`: of a frozen one, else None."""
  folder: Path
  shape: tuple[int, ...]
  dtype: np.dtype
  checksum: str | None = None


class Checkpoints:
  """Saves and restores the runs of one stage.

  Args:
    folder: of the stage.
    keep: number of checkpoints to keep; an old one goes only when a newer one is whole.
  """

  def __init__(self, folder: Path, keep: int):
    self._folder = Path(folder).absolute() / FOLDER
    self._frozen: dict[str, str] = {}  # parameter -> checksum, of those that checkpoints refer to
    self._manager = _manager(
        self._folder, max_to_keep=max(keep, 1), cleanup_tmp_directories=True,  # what a killed run left
        # On CPU host copies may share memory with buffers that the next step overwrites, so saving waits there.
        enable_async_checkpointing=jax.default_backend() != 'cpu')

  def latest_step(self) -> int | None:
    """The newest step that is saved whole."""
    return self._manager.latest_step()

  def write_frozen(self, frozen: Tree) -> None:
    """Writes the parameters that this run never changes; the checkpoints that follow refer to them.

    Does nothing where there are none, or where the restored checkpoint refers to them already.
    Otherwise no checkpoint does, so what a run left that ended before its first one is replaced.

    Raises:
      CheckpointError: they cannot be written.
    """
    if not self._frozen and flatten(frozen):
      _write(self._folder.parent / FROZEN, frozen)
      self._frozen = checksum.of_devices(flatten(frozen))

  def save(self, step: int, params: Tree, opt_state: Any, iterator: Any, meta: dict[str, Any]) -> None:
    """Saves everything that a resumed run needs; does nothing if the step is saved already.

    Args:
      step: number of steps done.
      params, opt_state: trees of arrays; what `write_frozen` wrote of the parameters is left out.
      iterator: its `get_state()` is JSON, and the same in all processes.
      meta: JSON that is kept beside them.

    Raises:
      CheckpointError: it cannot be written; earlier checkpoints stay.
    """
    if step in self._manager.all_steps():
      return
    meta = meta | {'data': iterator.get_state()}
    if self._frozen:
      meta[_REFERENCE] = {'folder': FROZEN, 'checksums': self._frozen}
    own = {path: leaf for path, leaf in flatten(params).items() if path not in self._frozen}
    try:
      self._manager.save(step, args=ocp.args.Composite(
          params=ocp.args.PyTreeSave(unflatten(own)), opt_state=ocp.args.PyTreeSave(opt_state),
          meta=ocp.args.JsonSave(meta)))
    except Exception as error:  # the storage layer reports a full disk in several ways
      raise self._unwritable(step, error) from error

  def restore(self, step: int, params: Tree, opt_state: Any, iterator: Any) -> tuple[Tree, Any, dict[str, Any]]:
    """(params, opt_state, meta) of `step` on the given shardings; the iterator is set to where it was.

    Args:
      step: a saved step.
      params, opt_state: trees of jax.ShapeDtypeStruct with shardings.
      iterator: over the same data.

    Raises:
      CheckpointError: the checkpoint is damaged or of another config, or its frozen parameters are
        missing, damaged or of another run.
    """
    path, wanted = self._folder / str(step), flatten(params)
    stored = _stored(path)
    check_shapes(str(path), _shapes(stored), {name: leaf.shape for name, leaf in wanted.items()})
    own, frozen = _split(stored, wanted)
    with _reading(path, path / _PARAMS):
      restored = self._manager.restore(step, args=ocp.args.Composite(
          params=_restore_args(unflatten(own)), opt_state=_restore_args(opt_state),
          meta=ocp.args.JsonRestore()))
      iterator.set_state(restored['meta']['data'])
    frozen = _load_frozen(path, stored, frozen)
    self._frozen = {name: leaf.checksum for name, leaf in stored.items() if leaf.checksum}
    return unflatten(flatten(restored['params']) | frozen), restored['opt_state'], restored['meta']

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
  _write(Path(folder).absolute() / FOLDER / '0' / _PARAMS, params)


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
  return _shapes(_stored(_latest(folder)))


def load_params(folder: Path, specs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """The named parameters (`group/path`) of the newest checkpoint of the stage in `folder`.

  They come on the shardings of their specs.

  Raises:
    CheckpointError: there is no checkpoint, it is damaged, or its frozen parameters are missing,
      damaged or of another run.
  """
  step = _latest(folder)
  stored = _stored(step)
  own, frozen = _split(stored, specs)
  return _load(step, step / _PARAMS, own) | _load_frozen(step, stored, frozen)


class HostParams(Mapping[str, np.ndarray]):
  """Parameters of a checkpoint by `group/path`: each access reads one into host memory, as stored.

  Attributes:
    shapes: `group/path` -> shape.
    dtypes: `group/path` -> numpy dtype.
  """

  def __init__(self, step: Path, stored: Mapping[str, _Leaf]):
    self._step, self._leaves = step, dict(stored)
    self.shapes = _shapes(stored)
    self.dtypes = {name: leaf.dtype for name, leaf in stored.items()}

  def __getitem__(self, name: str) -> np.ndarray:
    """Raises CheckpointError: it is damaged, or frozen and not what the checkpoint refers to."""
    value = _load_host(self._step, self._leaves[name].folder, name)
    if self._leaves[name].checksum:
      _verify(self._step, self._leaves, {name: checksum.of_host(value)})
    return value

  def __iter__(self) -> Iterator[str]:
    return iter(self._leaves)

  def __len__(self) -> int:
    return len(self._leaves)


def open_groups(folder: Path, groups: Iterable[str]) -> HostParams:
  """Whole parameter groups of the newest checkpoint of the stage in `folder`.

  They are read one by one, when they are asked for; no device is used.

  Raises:
    CheckpointError: there is no checkpoint, it is damaged, its frozen parameters are missing, or it
      lacks a group.
  """
  step, groups = _latest(folder), tuple(groups)
  stored = {path: leaf for path, leaf in _stored(step).items() if path.split('/')[0] in groups}
  missing = [group for group in groups if not any(path.startswith(group + '/') for path in stored)]
  if missing:
    raise errors.CheckpointError(
        f'{step} has no parameters of {", ".join(missing)}: '
        'give the folder of a stage that holds them.')
  return HostParams(step, stored)


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


def _latest(folder: Path) -> Path:
  """The newest checkpoint of the stage in `folder`."""
  folder = Path(folder).absolute() / FOLDER
  steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
  if not steps:
    raise errors.CheckpointError(f'{folder} has no checkpoint: train the stage first.')
  return folder / str(max(steps))


def _stored(step: Path) -> dict[str, _Leaf]:
  """All parameters of the checkpoint in the folder `step`, wherever they lie."""
  own, reference = _leaves(step, step / _PARAMS), _reference(step)
  if not reference:
    return own
  folder = step.parent.parent / reference['folder']
  if not folder.is_dir():
    raise _unusable(step, folder, 'are missing')
  frozen = _leaves(step, folder)
  for name in reference['checksums']:
    if name not in frozen:
      raise _unusable(step, folder, f'are of another run ({name} is not among them)')
  return own | {name: dataclasses.replace(frozen[name], checksum=value)
                for name, value in reference['checksums'].items()}


def _leaves(step: Path, folder: Path) -> dict[str, _Leaf]:
  """What one folder of arrays holds."""
  with _reading(step, folder):
    metadata = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    return {name: _Leaf(folder, tuple(leaf.shape), np.dtype(leaf.dtype))
            for name, leaf in flatten(metadata).items()}


def _reference(step: Path) -> dict[str, Any]:
  """The folder and checksums of the frozen parameters; empty where `params` holds all."""
  if not (step / 'meta').is_dir():  # imported: parameters alone
    return {}
  with _reading(step, step / 'meta'):
    handler = ocp.JsonCheckpointHandler()
    meta = handler.restore(epath.Path(step / 'meta'), args=ocp.args.JsonRestore())
    return meta.get(_REFERENCE, {})


def _split(stored: Mapping[str, _Leaf],
           specs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """(trained, frozen) of `specs`: what lies in the checkpoint itself, what lies in `frozen`."""
  frozen = {name: spec for name, spec in specs.items() if stored[name].checksum}
  return {name: spec for name, spec in specs.items() if name not in frozen}, frozen


def _shapes(stored: Mapping[str, _Leaf]) -> dict[str, tuple[int, ...]]:
  return {name: leaf.shape for name, leaf in stored.items()}


def _load_frozen(step: Path, stored: Mapping[str, _Leaf],
                 specs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Frozen parameters on the shardings of their specs.

  They are verified in the dtype that they are stored in, and then converted to that of their specs.
  """
  if not specs:
    return {}
  folder = stored[next(iter(specs))].folder
  as_stored = {name: spec.update(dtype=stored[name].dtype) for name, spec in specs.items()}
  arrays = _load(step, folder, as_stored)
  _verify(step, stored, checksum.of_devices(arrays))
  return {name: array.astype(specs[name].dtype) for name, array in arrays.items()}


def _verify(step: Path, stored: Mapping[str, _Leaf], found: Mapping[str, str]) -> None:
  """Compares the checksums of frozen parameters with those that the checkpoint refers to."""
  for name, value in found.items():
    if value != stored[name].checksum:
      problem = f'are damaged or of another run (the checksum of {name} differs)'
      raise _unusable(step, stored[name].folder, problem)


def _load(step: Path, folder: Path, specs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Some of the arrays in a folder, on the shardings of their specs."""
  if not specs:
    return {}
  with _reading(step, folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    arguments = _restore_args(unflatten(specs), partial=True)
    return flatten(checkpointer.restore(epath.Path(folder), args=arguments))


def _load_host(step: Path, folder: Path, name: str) -> np.ndarray:
  """One of the arrays in a folder, as stored; it never is on a device."""
  to_numpy = unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray)})
  arguments = ocp.args.PyTreeRestore(
      unflatten({name: 0}), restore_args=to_numpy, partial_restore=True)
  with _reading(step, folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    return flatten(checkpointer.restore(epath.Path(folder), args=arguments))[name]


@contextlib.contextmanager
def _reading(step: Path, folder: Path) -> Iterator[None]:
  """Turns what goes wrong in reading a folder of the checkpoint `step` into our error."""
  try:
    yield
  except Exception as error:
    if folder.parent == step:
      raise _damaged(step, error) from error
    raise _unusable(step, folder, f'cannot be read ({_reason(error)})') from error


def _write(folder: Path, tree: Tree) -> None:
  """Writes a tree of arrays to `folder`, whole or not at all, in place of what is there."""
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      checkpointer.save(epath.Path(folder), args=ocp.args.PyTreeSave(tree), force=True)
  except Exception as error:  # the storage layer reports a full disk in several ways
    raise errors.CheckpointError(
        f'{folder} cannot be written ({_reason(error)}): '
        'make room there or make it writable.') from error


def _restore_args(tree: Any, partial: bool = False) -> ocp.args.PyTreeRestore:
  return ocp.args.PyTreeRestore(
      tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=partial)


def _reason(error: Exception) -> str:
  return (getattr(error, 'strerror', None) or f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0])[:200]


def _unusable(step: Path, folder: Path, problem: str) -> errors.CheckpointError:
  return errors.CheckpointError(
      f'the frozen parameters in {folder}, which the checkpoint {step} refers to, {problem}: '
      'put the folder back from where the stage was trained or from a copy, or remove '
      f'{step.parent.parent} and train the stage again.')


def _damaged(path: Path, error: Exception) -> errors.CheckpointError:
  return errors.CheckpointError(
      f'the checkpoint {path} cannot be read ({_reason(error)}): remove this folder and run the same command again, '
      'which goes on from the checkpoint before it or starts anew.')
