"""Lists folders and reads small files, many at the same time.

Storage that is far away takes tens of milliseconds for a request, however little is asked for. So
folders are listed at the same time, and no file is asked whether it is there: the listing of its
folder says so.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import os
from typing import TypeVar

from echox_jax import storage
from echox_jax.errors import ConfigError
from echox_jax.storage import Path

AT_ONCE = 128  # requests that wait at the same time
_AHEAD = 4 * AT_ONCE  # results kept until they are asked for

Item = TypeVar('Item')
Result = TypeVar('Result')


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
  """`function(item)` of each item, in their order; `AT_ONCE` threads call it."""
  waiting: collections.deque[futures.Future] = collections.deque()
  with futures.ThreadPoolExecutor(AT_ONCE) as pool:
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= _AHEAD:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()


def files_below(folder: Path) -> list[Path]:
  """Every file in `folder` and in the folders below it, sorted by path."""
  found, level = [], [folder]
  while level:
    level_below = []
    for parent, (folders, names) in zip(level, each(storage.entries, level)):
      level_below += [parent / name for name in folders]
      found += [parent / name for name in names]
    level = level_below
  return sorted(found)


def listed(paths: Iterable[str]) -> set[str]:
  """Those of `paths` that the listings of their folders name; each folder is listed once."""
  paths = set(paths)
  folders = {os.path.dirname(path) for path in paths}
  names = dict(zip(folders, each(_file_names, folders)))
  return {path for path in paths if os.path.basename(path) in names[os.path.dirname(path)]}


def existing(paths: Iterable[str]) -> set[str]:
  """Those of `paths` that are files; each is asked for by itself."""
  paths = list(paths)
  return {path for path, there in zip(paths, each(is_file, paths)) if there}


def is_file(path: str | os.PathLike[str]) -> bool:
  """Whether the file exists; any text is accepted as a path."""
  try:
    return storage.is_file(path)
  except (OSError, ValueError, ConfigError):  # a name too long, a zero byte, an unknown scheme
    return False


def _file_names(folder: str) -> frozenset[str]:
  """Names of the files in a folder; none if there is no such folder."""
  try:
    return frozenset(storage.entries(folder or '.')[1])
  except (OSError, ValueError, ConfigError):  # an unknown scheme, too
    return frozenset()
