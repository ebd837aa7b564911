"""Writing files whole or not at all: write beside, then rename."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import shutil
from typing import Any


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
  """Writes `data` to `path`; readers see the old file or the new one, never a part."""
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
  """Writes UTF-8 text whole or not at all."""
  return atomic_write_bytes(path, text.encode('utf-8'))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> Path:
  """Writes `value` as indented JSON, whole or not at all."""
  return atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
  """Yields an empty folder beside `path`; it takes the place of `path` when the block ends well, else it is removed."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  shutil.rmtree(beside, ignore_errors=True)
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
