"""Atomic file writes: write a temporary file next to the target, then rename it."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import re
import shutil
from typing import Any


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
  """Writes `data` to `path`; readers see the old file or the new one, never a partial file."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    with open(beside, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)
  return path


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
  """Writes UTF-8 text atomically."""
  return atomic_write_bytes(path, text.encode('utf-8'))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> Path:
  """Writes `value` atomically as indented JSON."""
  return atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
  """Yields an empty folder next to `path`. It replaces `path` if the block succeeds; otherwise it
  is removed.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  remove_leftovers(path.parent, path.name)
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  beside.mkdir()
  try:
    yield beside
    old = path.with_name(f'.{path.name}.{os.getpid()}.old')
    if path.exists():
      os.replace(path, old)
    os.replace(beside, path)
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(beside, ignore_errors=True)


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None) -> None:
  """Removes temporary files that killed writers left in `folder`, for the target `name` or for all
  targets.

  If a writer was killed between its two renames, the old folder is restored. Temporary files of a
  live process on this machine stay.
  """
  if not Path(folder).is_dir():
    return
  for path in Path(folder).iterdir():
    written = re.fullmatch(r'\.(.+)\.(\d+)\.(tmp|old)', path.name)
    if not written or name not in (None, written[1]) or _lives(int(written[2])):
      continue
    target = path.with_name(written[1])
    if written[3] == 'old' and not target.exists():
      os.replace(path, target)
    elif path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


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
