"""Folders that are replaced as a whole.

On local disk a folder is written next to its place, then renamed. A bucket cannot rename folders: a
folder is written to local disk, then uploaded, and one file of it, the marker, is removed first and
uploaded last. A folder in a bucket is complete if it has its marker, and its readers open the
marker first.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import time

from echox_jax.storage import paths, writes
from echox_jax.storage.paths import Path

_INCOMPLETE = '.incomplete'  # in a folder of a bucket while it is uploaded
_AT_ONCE = 8  # files uploaded at the same time
_FORGOTTEN = 24 * 3600.0  # seconds until the temporary file of another machine counts as left over


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str], marker: str | None = None) -> Iterator[pathlib.Path]:
  """Yields an empty local folder. It replaces `path` if the block succeeds; otherwise it is
  removed.

  Args:
    path: the folder to write.
    marker: name of the file in it that a reader opens first. In a bucket the folder is complete
      exactly if it has this file. None: nobody reads it before the block ends.
  """
  path = paths.path(path)
  if paths.is_remote(path):
    with tempfile.TemporaryDirectory(prefix='echox-jax-') as folder:
      yield pathlib.Path(folder)
      upload_folder(pathlib.Path(folder), path, marker)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  remove_leftovers(path.parent, path.name)
  beside = path.with_name(writes.temporary_name(path.name))
  beside.mkdir()
  try:
    yield beside
    old = path.with_name(writes.temporary_name(path.name, 'old'))
    if path.exists():
      os.replace(path, old)
    os.replace(beside, path)
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(beside, ignore_errors=True)


def upload_folder(folder: pathlib.Path, path: Path, marker: str | None = None) -> None:
  """Replaces the folder `path` in a bucket by a local one: removes the marker, uploads the other
  files, removes files that the new folder does not have, and uploads the marker.

  Raises:
    FileNotFoundError: the local folder has no marker.
  """
  names = [file.relative_to(folder).as_posix() for file in paths.tree(folder)]
  if marker not in (None, *names):
    raise FileNotFoundError(f'{folder} has no {marker}')
  files, old = (
    paths.bucket_files(),
    [file.relative_to(path).as_posix() for file in paths.tree(path)],
  )
  writes.atomic_write_bytes(path / _INCOMPLETE, b'')
  if marker in old:
    files.rm_file(str(path / marker))
  first = [name for name in names if name != marker]
  if first:
    local, remote = ([str(place / name) for name in first] for place in (folder, path))
    files.put(local, remote, batch_size=_AT_ONCE)
  stale = sorted({*old} - {*names, marker, _INCOMPLETE})
  if stale:
    files.rm([str(path / name) for name in stale])
  if marker is not None:
    writes.upload(folder / marker, path / marker)
  files.rm_file(str(path / _INCOMPLETE))


def is_incomplete(path: str | os.PathLike[str]) -> bool:
  """Returns whether `path` is a folder in a bucket whose upload did not come to its end."""
  return paths.is_remote(path) and paths.is_file(paths.path(path) / _INCOMPLETE)


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None) -> None:
  """Removes temporary files that killed writers left in a local `folder`, for the target `name` or
  for all targets. In a bucket there are none.

  If a writer was killed between its two renames, the old folder is restored. Temporary files of a
  live process stay, and so do those that another machine changed within a day.
  """
  folder = paths.path(folder)
  if paths.is_remote(folder) or not folder.is_dir():
    return
  for path in folder.iterdir():
    written = re.fullmatch(r'\.(.+)\.([^.]+)\.(\d+)\.[0-9a-f]{12}\.(tmp|old)', path.name)
    if not written or name not in (None, written[1]) or _is_used(path, written[2], int(written[3])):
      continue
    target = path.with_name(written[1])
    if written[4] == 'old' and not target.exists():
      os.replace(path, target)
    elif path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def _is_used(path: pathlib.Path, host: str, pid: int) -> bool:
  """Returns whether the process that made a temporary file may still write it."""
  if host != writes.host():
    try:
      return time.time() - path.stat().st_mtime < _FORGOTTEN
    except FileNotFoundError:
      return True  # its writer has just finished
  return _lives(pid)


def _lives(pid: int) -> bool:
  """Returns whether another process with this pid runs on this machine."""
  if pid == os.getpid():
    return False  # this process starts to write only after this call
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True
