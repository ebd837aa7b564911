"""Local copies of files in a bucket, kept on a limited part of the disk for as many runs as want
them.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import threading
from typing import BinaryIO

from echox_jax import errors
from echox_jax.storage import folders, local_copies, paths, writes
from echox_jax.storage.paths import Path


def cache_folder() -> pathlib.Path:
  """Returns the local folder of what can be made again: `~/.cache/echox-jax`, below
  `$XDG_CACHE_HOME` where that is set.
  """
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'echox-jax'


def kept_copy(path: str | os.PathLike[str], folder: pathlib.Path) -> pathlib.Path:
  """Returns a local folder with the content of the folder `path`: `path` itself, or a copy in
  `folder` that later runs find there. If a file in the bucket has changed there is a new copy, and
  the old one goes.

  Raises:
    FileNotFoundError: there is nothing at that path in the bucket.
  """
  path = paths.path(path)
  if not paths.is_remote(path):
    return path
  stamps = [(str(file), *paths.stamp(file)) for file in paths.tree(path)]
  place = f'{path.name}-{_short_hash(str(path))}'
  copy = folder / f'{place}-{_short_hash(str(stamps))}'
  with _locked(folder / f'{place}.lock'):  # one process fetches it, the others wait
    if not copy.is_dir():
      for old in folder.iterdir():
        if old.name.startswith(f'{place}-'):
          shutil.rmtree(old)
      with folders.atomic_dir(copy) as beside:
        local_copies.copy_folder(path, beside)
  return copy


class Cache:
  """Copies that all processes of this machine share.

  A copy is named by its place in the bucket and by the generation of the object, so an object that
  is written again gets another copy. A copy that no process holds makes room for another one; those
  that nobody has opened for the longest time go first. Where no room is left, there is no copy, and
  the file is read from the bucket.

  Args:
    folder: a local folder; made if missing.
    max_bytes: what all copies together may take.

  Raises:
    ConfigError: the folder is not local.
  """

  def __init__(self, folder: str | os.PathLike[str], max_bytes: int):
    if paths.is_remote(paths.path(folder)):
      raise errors.ConfigError(f'the cache {folder} is in a bucket: give a local folder.')
    self._folder, self._max_bytes = pathlib.Path(folder), max_bytes
    self._held: dict[str, BinaryIO] = {}
    self._thread = threading.Lock()

  def __getstate__(self) -> tuple[pathlib.Path, int]:
    return self._folder, self._max_bytes

  def __setstate__(self, state: tuple[pathlib.Path, int]) -> None:
    self.__init__(*state)

  def get(self, path: str | os.PathLike[str]) -> Path:
    """Returns a local copy of a file, which stays until this process ends; or `path` itself, if it
    is local or there is no room.

    Raises:
      FileNotFoundError: there is no such file.
    """
    path = paths.path(path)
    if not paths.is_remote(path):
      return path
    size, generation = paths.stamp(path)
    name = hashlib.sha256(f'{path} {generation}'.encode()).hexdigest()[:32]
    copy = self._folder / name
    with self._thread:
      if name in self._held:
        return copy
      with _locked(self._folder / f'{name}.lock'):  # one process fetches it, the others wait
        with _locked(self._folder / 'lock'):
          if copy.is_file():
            return self._hold(copy)
          if not self._makes_room(size):
            return path
          beside = self._folder / writes.temporary_name(name)
          with open(beside, 'wb') as f:
            f.truncate(size)  # counted from now on
        try:
          paths.bucket_files().get_file(str(path), str(beside))
          with _locked(self._folder / 'lock'):
            os.replace(beside, copy)
            return self._hold(copy)
        finally:
          beside.unlink(missing_ok=True)

  def _hold(self, copy: pathlib.Path) -> pathlib.Path:
    """Keeps a copy from being removed, by a lock that ends with this process."""
    held = open(copy, 'rb')  # noqa: SIM115
    fcntl.flock(held, fcntl.LOCK_SH)
    os.utime(copy)
    self._held[copy.name] = held
    return copy

  def _makes_room(self, size: int) -> bool:
    """Removes copies that nobody holds until `size` more bytes fit; returns whether they do."""
    folders.remove_leftovers(self._folder)
    found = {file: file.stat() for file in self._folder.iterdir()}
    free = self._max_bytes - sum(status.st_size for status in found.values())
    for file in sorted(found, key=lambda file: found[file].st_mtime):
      if free >= size:
        break
      if found[file].st_size and not file.name.startswith('.') and _nobody_holds(file):
        file.unlink()
        free += found[file].st_size
    return free >= size


@contextlib.contextmanager
def _locked(file: pathlib.Path) -> Iterator[None]:
  """Only one process of this machine is in such a block at a time."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with open(file, 'ab') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    yield


def _short_hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def _nobody_holds(file: pathlib.Path) -> bool:
  with open(file, 'rb') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return False
    return True
