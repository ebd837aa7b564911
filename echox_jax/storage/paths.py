"""Paths that a user can name: local ones, or `gs://bucket/name` in Google Cloud Storage.

A local path is a `pathlib.Path`. A path in a bucket is an `etils.epath.Path`, which has the same
methods. Four of these methods do something else in a bucket: `absolute` loses the bucket, `mkdir`
may create it, `stat` has other fields, and `is_file` and `exists` return False for any error. The
functions here do the right thing for both kinds. Local paths are no `epath.Path`, because its
listings leave out names that end in `~` and its `stat` needs an entry in /etc/passwd.
"""

from collections.abc import Iterator
import fnmatch
import functools
import importlib.util
import logging
import os
import pathlib
import re
import shutil

from etils import epath
import fsspec

from echox_jax import errors

Path = pathlib.Path | epath.Path
SCHEME = 'gs://'
_ANY_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://')
_OTHER_BUCKETS = ('s3', 'az', 'abfs', 'abfss', 'hdfs', 'http', 'https', 'hf', 'gcs')


def path(name: str | os.PathLike[str]) -> Path:
  """Returns the path that a user named.

  Raises:
    ConfigError: a scheme other than gs://, or no bucket.
    MissingExtraError: a path in a bucket, and gcsfs is not installed.
  """
  text = os.fspath(name)
  if not text.startswith(SCHEME):
    _check_local(text)
    return name if isinstance(name, pathlib.Path) else pathlib.Path(text)
  if not text.removeprefix(SCHEME).strip('/').split('/')[0] or text[len(SCHEME)] == '/':
    raise errors.ConfigError(f'{text!r} names no bucket: write gs://BUCKET/FOLDER.')
  _prepare()
  return epath.Path(text)


def local_only(name: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path of a command that works on local disk alone.

  Raises:
    ConfigError: a path in a bucket, or one that `path` refuses.
  """
  if is_remote(name):
    raise errors.ConfigError(
      f'{os.fspath(name)!r} is in a bucket, and this command works on local disk alone: give a '
      'local path, and copy the results afterwards.'
    )
  return pathlib.Path(path(name))


def _check_local(text: str) -> None:
  scheme = _ANY_SCHEME.match(text)
  if scheme and scheme[1] in _OTHER_BUCKETS:
    raise errors.ConfigError(
      f'{text!r} cannot be used, because checkpoints and records cannot be stored by '
      f'{scheme[1]}://: give a local path or gs://BUCKET/FOLDER.'
    )
  if scheme:
    raise errors.ConfigError(
      f'{text!r} begins with the unknown scheme {scheme[0]}: give a local path or '
      'gs://BUCKET/FOLDER.'
    )
  if text.startswith('gs:/'):
    raise errors.ConfigError(f'{text!r} lacks a slash: write gs://{text[4:]}.')


@functools.cache
def _prepare() -> None:
  """Sets what the clients of Google Cloud Storage read when they start."""
  errors.require('gcsfs', 'gcs', 'Reading and writing gs:// paths')
  os.environ.setdefault('EPATH_USE_TF', '0')  # else an installed TensorFlow takes over
  # Hierarchical and zonal buckets cost a gRPC call per bucket, which may wait for minutes.
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  # What another process wrote must be seen.
  for name in ('gs', 'gcs'):
    fsspec.config.conf.setdefault(name, {}).setdefault('use_listings_cache', False)
  if 'GCSFS_DEBUG' not in os.environ:  # it logs a traceback for every error that it also raises
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)


def is_remote(name: str | os.PathLike[str]) -> bool:
  """Returns whether a path is in a bucket."""
  return os.fspath(name).startswith(SCHEME)


def bucket_files() -> fsspec.AbstractFileSystem:
  """Returns the client that reads and writes objects."""
  _prepare()
  return fsspec.filesystem('gs')


def absolute(name: str | os.PathLike[str]) -> Path:
  """Returns the path with the working folder of this process before it, unless it has a root."""
  found = path(name)
  return found if is_remote(found) else found.absolute()


def is_file(name: str | os.PathLike[str]) -> bool:
  """Returns whether there is such a file. An error of the network is raised, not taken as False."""
  return _kind(path(name)) == 'file'


def exists(name: str | os.PathLike[str]) -> bool:
  """Returns whether there is such a file or folder; raises as `is_file`."""
  return _kind(path(name)) is not None


def _kind(where: Path) -> str | None:
  """Returns `file`, `directory`, or None if there is nothing."""
  if not is_remote(where):
    return 'file' if where.is_file() else 'directory' if where.exists() else None
  try:
    return bucket_files().info(str(where))['type']
  except FileNotFoundError:
    return None


def size(name: str | os.PathLike[str]) -> int:
  """Returns the bytes of a file.

  Raises:
    FileNotFoundError: there is no such file.
  """
  found = path(name)
  return bucket_files().info(str(found))['size'] if is_remote(found) else found.stat().st_size


def stamp(name: str | os.PathLike[str]) -> tuple[int, int]:
  """Returns the bytes of a file and a number that is another one once it is written again.

  Raises:
    FileNotFoundError: there is no such file.
  """
  found = path(name)
  if is_remote(found):
    info = bucket_files().info(str(found))
    return info['size'], int(info['generation'])
  status = found.stat()
  return status.st_size, status.st_mtime_ns


def children(folder: str | os.PathLike[str]) -> list[Path]:
  """Returns the files and folders in a folder, sorted; none if there is no such folder."""
  folder = path(folder)
  try:
    # The object `FOLDER/`, which the web console makes for a new folder, is not a child.
    return sorted(child for child in _listed(folder) if child != folder)
  except (FileNotFoundError, NotADirectoryError):
    return []


def _listed(folder: Path) -> Iterator[Path]:
  if not is_remote(folder):
    return folder.iterdir()
  return (path(SCHEME + name) for name in bucket_files().ls(str(folder), detail=False))


def entries(folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
  """Returns the names of the folders and of the files in a folder, by one listing.

  Raises:
    OSError: there is no such folder; a bucket may say so by an empty listing.
  """
  folder = path(folder)
  folders, names = [], []
  if is_remote(folder):
    for entry in bucket_files().ls(str(folder), detail=True):
      name = entry['name'].rstrip('/').rsplit('/', 1)[-1]
      (folders if entry['type'] == 'directory' else names).append(name)
    return folders, names
  with os.scandir(folder) as found:
    for entry in found:
      if entry.is_dir(follow_symlinks=False):
        folders.append(entry.name)
      elif entry.is_file():
        names.append(entry.name)
  return folders, names


def tree(folder: str | os.PathLike[str], pattern: str = '*') -> list[Path]:
  """Returns the files in a folder and in all folders below it whose name fits a pattern, sorted;
  none if there is none.
  """
  folder = path(folder)
  if not is_remote(folder):
    return sorted(file for file in folder.rglob(pattern) if file.is_file())
  found = (path(SCHEME + name) for name in bucket_files().find(str(folder)) if name[-1] != '/')
  return sorted(file for file in found if fnmatch.fnmatchcase(file.name, pattern))


def make_folder(name: str | os.PathLike[str]) -> Path:
  """Makes a folder and those above it where needed. A bucket has no folders to make."""
  found = path(name)
  if not is_remote(found):
    found.mkdir(parents=True, exist_ok=True)
  return found


def remove_tree(folder: str | os.PathLike[str]) -> None:
  """Removes a folder and all that is in it, if it exists."""
  folder = path(folder)
  if not is_remote(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return
  files = bucket_files()
  names = files.find(str(folder))
  if names:
    files.rm(names)


def package_folder(module: str) -> pathlib.Path | None:
  """The folder of an installed package that carries files; None if it is not installed. It is not
  imported, for it may want what is not installed.
  """
  spec = importlib.util.find_spec(module)
  places = spec.submodule_search_locations if spec else None
  return pathlib.Path(next(iter(places))) if places else None
