"""Files that appear whole: a reader sees the old file or the new one, never a partial one.

On local disk a file is written under a temporary name next to its place, then renamed. In a bucket
an object is uploaded whole, which replaces the old one in one moment.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import json
import os
import pathlib
import socket
import tempfile
import time
from typing import Any
import uuid

from echox_jax.storage import paths
from echox_jax.storage.paths import Path

_REWRITE_SECONDS = 10.0  # a bucket takes one write of an object a second


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
  """Writes `data` to `path`; readers see the old file or the new one, never a partial file."""
  path = paths.path(path)
  if paths.is_remote(path):
    paths.bucket_files().pipe_file(str(path), bytes(data))
    return path
  with staged(path) as beside:
    beside.write_bytes(data)
  return path


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
  """Writes UTF-8 text atomically."""
  return atomic_write_bytes(path, text.encode('utf-8'))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> Path:
  """Writes `value` atomically as indented JSON."""
  return atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


@contextlib.contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields the name of a local file to write. It replaces `path` if the block succeeds; otherwise
  it is removed.
  """
  path = paths.path(path)
  if paths.is_remote(path):
    with tempfile.TemporaryDirectory(prefix='echox-jax-') as folder:
      beside = pathlib.Path(folder) / path.name
      yield beside
      upload(beside, path)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(temporary_name(path.name))
  try:
    yield beside
    put_in_place(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def put_in_place(file: pathlib.Path, path: Path) -> None:
  """Moves a finished local file to `path`, in a bucket or on the same disk, in one moment."""
  if paths.is_remote(path):
    upload(file, path)
    file.unlink()
    return
  with open(file, 'rb+') as f:
    os.fsync(f.fileno())
  os.replace(file, path)


def upload(file: pathlib.Path, path: Path) -> None:
  """Copies a local file to `path` in a bucket as one object."""
  paths.bucket_files().put_file(str(file), str(path))


def temporary_name(name: str, ending: str = 'tmp') -> str:
  """Returns a hidden name for a file that is not finished; `folders.remove_leftovers` knows whose
  it is.
  """
  return f'.{name}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:12]}.{ending}'


def host() -> str:
  """Returns the name of this machine, without dots."""
  return socket.gethostname().replace('.', '-') or 'localhost'


class Rewritten:
  """An object whose content grows. It is written again as a whole, in the background and at most
  every `seconds`, because nothing can be appended to an object.

  Args:
    path: path in a bucket.
    content: returns everything that the object should hold now.
  """

  def __init__(self, path: Path, content: Callable[[], bytes], seconds: float = _REWRITE_SECONDS):
    self._path, self._content, self._seconds = path, content, seconds
    self._worker = futures.ThreadPoolExecutor(1)
    self._pending: futures.Future | None = None
    self._written = time.monotonic()

  def changed(self) -> None:
    """Writes the object soon, unless that was done a moment ago. The next time makes up for a
    failure.
    """
    busy = self._pending is not None and not self._pending.done()
    if busy or time.monotonic() - self._written < self._seconds:
      return
    self._written = time.monotonic()
    self._pending = self._worker.submit(atomic_write_bytes, self._path, self._content())

  def flush(self) -> None:
    """Returns when the object holds everything.

    Raises:
      OSError: it could not be written.
    """
    if self._pending is not None:
      futures.wait([self._pending])
    atomic_write_bytes(self._path, self._content())

  def close(self) -> None:
    """Like `flush`, for the last time."""
    try:
      self.flush()
    finally:
      self._worker.shutdown()


class Lines:
  """A text file that grows by whole lines: appended on local disk, `Rewritten` in a bucket.

  Args:
    path: the file.
    text: its content so far; it is written at once.
  """

  def __init__(self, path: str | os.PathLike[str], text: str = ''):
    self._path = atomic_write_text(path, text)
    self._bytes = bytearray(text.encode('utf-8'))
    self._object = (
      Rewritten(self._path, lambda: bytes(self._bytes)) if paths.is_remote(self._path) else None
    )

  def add(self, line: str) -> None:
    """Adds a line with its end."""
    if self._object is None:
      with open(self._path, 'a', encoding='utf-8') as f:
        f.write(line)
      return
    self._bytes += line.encode('utf-8')
    self._object.changed()

  def flush(self) -> None:
    """Returns when all lines are in the file."""
    if self._object is not None:
      self._object.flush()

  def close(self) -> None:
    """Flushes, for the last time."""
    if self._object is not None:
      self._object.close()
