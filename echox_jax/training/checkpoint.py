"""Checkpoints of a stage. Its training resumes from them, and other stages and exports read its
parameters from them.

A stage's folder holds `checkpoints/STEP/{params,opt_state,meta}`. These are separate items, so the
next stage can read only the parameters. `params` has the parameters that the stage trains. The
frozen ones are written once (see `frozen`), and `meta` refers to them. Older checkpoints have no
reference and hold all parameters in `params`; they can still be read. All processes of a job save
and restore together, each its own shards. Another number of processes, on another mesh, can restore
the checkpoint. `finished.json` appears after the last step is saved; until then the stage can only
be resumed.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import json
import time
from typing import Any, NamedTuple, TypeVar
import uuid

from etils import epath
import jax
import orbax.checkpoint as ocp

from echox_jax import errors, storage
from echox_jax.models.trees import Tree, flatten, unflatten
from echox_jax.storage import Path
from echox_jax.training import arrays, layout
from echox_jax.training import frozen as frozen_lib

FOLDER, FINISHED = layout.CHECKPOINTS, layout.FINISHED
T = TypeVar('T')


@dataclasses.dataclass
class Saved:
  """What saving one checkpoint took.

  Attributes:
    step: number of steps done.
    wait_seconds: time that training waited for it: for the copy to host memory, and until it was
      complete if the next save or the end of the run came earlier.
    write_seconds: time from the start of the save until the checkpoint was complete.
  """

  step: int
  wait_seconds: float = 0.0
  write_seconds: float = 0.0


class Checkpoints:
  """Saves and restores the runs of one stage.

  A save copies the arrays to host memory and returns; threads write the copy while training goes
  on. (A CPU does not copy: JAX overwrites no buffer that numpy still sees.) At most one checkpoint
  is being written: the next save waits for it.

  Args:
    folder: the stage's folder.
    keep: number of checkpoints to keep; an old one is deleted only when a newer one is complete.
  """

  def __init__(self, folder: Path, keep: int):
    self._folder = storage.absolute(folder) / FOLDER
    self._manager = _manager(
      # remove temporary files of killed runs
      self._folder,
      max_to_keep=max(keep, 1),
      cleanup_tmp_directories=True,
      enable_async_checkpointing=True,
    )
    self._writing: Saved | None = None
    self._started = 0.0
    self._complete: list[Saved] = []

  def latest_step(self) -> int | None:
    """Returns the newest completely saved step."""
    return self._manager.latest_step()

  def save(
    self, step: int, params: Tree, opt_state: Any, iterator: Any, meta: dict[str, Any]
  ) -> None:
    """Starts to save everything that a resumed run needs, unless the step is saved already.

    Args:
      step: number of steps done.
      params: the parameters that the stage trains, a tree of arrays.
      opt_state: a tree of arrays.
      iterator: its `get_state()` is JSON, and the same in all processes.
      meta: JSON metadata; its `frozen` is the result of `frozen.write`.

    Raises:
      CheckpointError: this checkpoint or the one before cannot be written; earlier ones stay.
    """
    if step in self._manager.all_steps():
      return
    self._settle()
    started = time.perf_counter()
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.PyTreeSave(params),
          opt_state=ocp.args.PyTreeSave(opt_state),
          meta=ocp.args.JsonSave(meta | {'data': iterator.get_state()}),
        ),
      )
    except Exception as error:  # the storage layer reports a full disk in several ways
      raise self._unwritable(step, error) from error
    self._writing, self._started = Saved(step, time.perf_counter() - started), started

  def complete(self, wait: bool = False) -> list[Saved]:
    """Returns the checkpoints that have become complete since the last call.

    Args:
      wait: whether to wait for the one that is being written.

    Raises:
      CheckpointError: it could not be written; earlier checkpoints stay.
    """
    if wait or (self._writing and not self._manager.is_saving_in_progress()):
      self._settle()
    complete, self._complete = self._complete, []
    return complete

  def restore(
    self, step: int, trainable: Tree, frozen: Tree, opt_state: Any, iterator: Any
  ) -> tuple[Tree, Tree, Any, dict[str, Any]]:
    """Returns (trainable, frozen, opt_state, meta) of `step` on the given shardings; sets the
    iterator to its saved position.

    Args:
      step: a saved step.
      trainable, frozen, opt_state: trees of jax.ShapeDtypeStruct with shardings.
      iterator: over the same data.

    Raises:
      CheckpointError: the checkpoint or its frozen parameters are missing, damaged or do not match
        the config.
    """
    saved = _open(self._folder.parent, self._folder / str(step))
    wanted = flatten(trainable) | flatten(frozen)
    check_shapes(
      str(saved.folder), saved.shapes, {path: leaf.shape for path, leaf in wanted.items()}
    )
    own, kept = saved.parted(wanted)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          params=arrays.restore_args(unflatten(own)),
          opt_state=arrays.restore_args(opt_state),
          meta=ocp.args.JsonRestore(),
        ),
      )
      iterator.set_state(restored['meta']['data'])
    except Exception as error:
      raise arrays.damaged(saved.folder, error) from error
    found = flatten(restored['params']) | frozen_lib.read(saved.stage, saved.reference, kept)

    def part(tree):
      return unflatten({path: found[path] for path in flatten(tree)})

    return part(trainable), part(frozen), restored['opt_state'], restored['meta']

  def close(self) -> None:
    """Waits until all saved checkpoints are complete.

    Raises:
      CheckpointError: a checkpoint could not be written.
    """
    try:
      self._settle()
    finally:
      self._manager.close()

  def _settle(self) -> None:
    """Waits until the checkpoint that is being written is complete."""
    if self._writing is None:
      return
    written, self._writing, before = self._writing, None, time.perf_counter()
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._unwritable(written.step, error) from error
    now = time.perf_counter()
    written.wait_seconds += now - before
    written.write_seconds = now - self._started
    self._complete.append(written)

  def _unwritable(self, step: int, error: Exception) -> errors.CheckpointError:
    return errors.CheckpointError(
      f'the checkpoint of step {step} could not be written to {self._folder} '
      f'({arrays.reason(error)}): '
      'free some space there or make it writable, and run the same command again; earlier '
      'checkpoints are kept.'
    )


def save_params(folder: Path, params: Tree) -> None:
  """Writes only parameters, as step 0 of `folder`, for stages to start from.

  Raises:
    CheckpointError: the parameters cannot be written.
  """
  arrays.write(storage.path(folder) / FOLDER / '0' / 'params', params)


def mark_finished(folder: Path, summary: dict[str, Any]) -> None:
  """Marks the stage in `folder` as finished with a new `id`, so that later stages can tell whether
  it was retrained.
  """
  storage.atomic_write_json(storage.path(folder) / FINISHED, summary | {'id': uuid.uuid4().hex})


def unmark_finished(folder: Path) -> None:
  """Removes the mark, because the stage is trained further."""
  (storage.path(folder) / FINISHED).unlink(missing_ok=True)


def read_finished(folder: Path) -> dict[str, Any] | None:
  """Returns the summary of a finished stage; None if the stage is not finished."""
  try:
    return json.loads((storage.path(folder) / FINISHED).read_text('utf-8'))
  except (FileNotFoundError, NotADirectoryError):
    return None
  except ValueError as error:
    raise arrays.damaged(storage.path(folder) / FINISHED, error) from error


def param_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
  """Returns {`group/path`: shape} of all parameters, frozen ones included, in the newest checkpoint
  of the stage in `folder`.
  """
  return _open(folder, _latest(folder)).shapes


def load_params(folder: Path, specs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Loads the named parameters (`group/path`) from the newest checkpoint in `folder`, on the
  shardings of their specs.
  """
  saved = _open(folder, _latest(folder))
  own, kept = saved.parted(specs)
  return arrays.read(saved.params, own) | frozen_lib.read(folder, saved.reference, kept)


def load_groups(folder: Path, groups: Iterable[str]) -> Tree:
  """Loads whole parameter groups from the newest checkpoint of the stage in `folder`, as numpy
  arrays in their stored dtypes.

  Raises:
    CheckpointError: there is no checkpoint, it is damaged, or it lacks a group.
  """
  saved, groups = _open(folder, _latest(folder)), tuple(groups)
  wanted = {path: shape for path, shape in saved.shapes.items() if path.split('/')[0] in groups}
  missing = set(groups) - {path.split('/')[0] for path in wanted}
  if missing:
    raise errors.CheckpointError(
      f'{saved.folder.parent} has no parameters of {", ".join(sorted(missing))}: give the folder '
      'of a stage that holds them.'
    )
  own, kept = saved.parted(wanted)
  return unflatten(
    arrays.read_on_host(saved.params, own) | frozen_lib.read_on_host(folder, saved.reference, kept)
  )


def check_shapes(
  name: str, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
  """Raises CheckpointError for the first of the `wanted` parameters that `found` lacks or has in
  another shape.
  """
  for path, shape in wanted.items():
    if found.get(path) != tuple(shape):
      has = f'as {found[path]}' if path in found else 'not at all'
      raise errors.CheckpointError(
        f'{name} has another config: it has {path} {has}, the config asks for {tuple(shape)}; '
        'use the config that it was made with, or another --workdir.'
      )


class _Saved(NamedTuple):
  """Location of one checkpoint's parameters.

  Attributes:
    stage, folder: folders of the stage and of the checkpoint.
    reference: reference to the frozen parameters; None if `params` holds all parameters.
    own, kept: `group/path` -> shape of the parameters in `params` and of the frozen ones.
  """

  stage: Path
  folder: Path
  reference: dict[str, str] | None
  own: dict[str, tuple[int, ...]]
  kept: dict[str, tuple[int, ...]]

  @property
  def params(self) -> Path:
    return self.folder / 'params'

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters."""
    return self.own | self.kept

  def parted(self, wanted: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """Splits entries by `group/path` into (the checkpoint's own parameters, frozen
    parameters).
    """
    return (
      {path: value for path, value in wanted.items() if path not in self.kept},
      {path: value for path, value in wanted.items() if path in self.kept},
    )


def _open(stage: Path, folder: Path) -> _Saved:
  """Opens the checkpoint in `folder` without reading its arrays."""
  reference = _reference(folder)
  return _Saved(
    storage.path(stage),
    folder,
    reference,
    arrays.shapes(folder / 'params'),
    frozen_lib.shapes(stage, reference),
  )


def _manager(folder: Path, **options) -> ocp.CheckpointManager:
  try:
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options))
  except OSError as error:
    raise errors.CheckpointError(
      f'{folder} cannot be used for checkpoints ({arrays.reason(error)}): make it writable or '
      'give another --workdir.'
    ) from error


def _latest(folder: Path) -> Path:
  """Returns the folder of the newest step of the stage in `folder`."""
  folder = storage.absolute(folder) / FOLDER
  steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
  if not steps:
    raise errors.CheckpointError(f'{folder} has no checkpoint: train the stage first.')
  return folder / str(max(steps))


def _reference(step: Path) -> dict[str, str] | None:
  """Returns the frozen parameters' reference in the checkpoint folder `step`; None if the
  checkpoint holds all parameters.
  """
  if not storage.exists(step / 'meta'):
    return None
  try:
    return (
      ocp.JsonCheckpointHandler()
      .restore(epath.Path(step / 'meta'), args=ocp.args.JsonRestore())
      .get('frozen')
    )
  except Exception as error:
    raise arrays.damaged(step, error) from error
