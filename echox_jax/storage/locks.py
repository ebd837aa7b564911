"""Files and folders on local disk that belong to one process at a time."""

from collections.abc import Iterator
import contextlib
import fcntl

from echox_jax import errors
from echox_jax.storage import paths


@contextlib.contextmanager
def claimed(file: paths.Path) -> Iterator[bool]:
  """Yields whether this process alone holds a file on local disk during the block."""
  with open(file, 'w', encoding='utf-8') as held:
    try:
      fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    yield True


@contextlib.contextmanager
def owned(folder: paths.Path, number: int) -> Iterator[None]:
  """Holds a folder during the block; the system lets go of it when the process dies.

  A bucket knows no locks: there nothing is held.

  Args:
    folder: is made, if it is not there.
    number: of this process among those that share the folder.

  Raises:
    StorageError: another process with that number holds it.
  """
  if paths.is_remote(folder):
    yield
    return
  paths.make_folder(folder)
  with claimed(folder / f'.owner-{number}') as mine:
    if not mine:
      raise errors.StorageError(
        f'another process is at work in {folder}: wait until it ends, stop it, or name another '
        '--workdir.'
      )
    yield
