"""Small results that take long to compute, kept between runs beside JAX's compiled programs.

JAX has a folder for these (`jax_compilation_cache_dir`). A result lies there under a fingerprint of
all that it was made from, the source of this package and the versions of JAX included, so it is
never out of date. Without such a folder, nothing is kept.
"""

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import jaxlib

from echox_jax import storage

_log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parent
_CHECKSUM = hashlib.sha256().digest_size  # bytes in front of a kept result


def place(kind: str, *made_from: Any) -> Path | None:
  """Returns the file, or the folder, of what is of a kind and was made from these values, which
  `repr` tells apart; None = JAX has no cache folder.
  """
  cache = jax.config.jax_compilation_cache_dir
  if not cache:
    return None
  described = (_source(), jax.__version__, jaxlib.__version__, made_from)
  return Path(cache) / kind / hashlib.sha256(repr(described).encode()).hexdigest()[:32]


def read(path: Path) -> bytes | None:
  """Reads a result; None = there is none, or it is damaged."""
  try:
    data = path.read_bytes()
  except OSError:
    return None
  checksum, result = data[:_CHECKSUM], data[_CHECKSUM:]
  return result if hashlib.sha256(result).digest() == checksum else None


def write(path: Path, result: bytes) -> None:
  """Keeps a result; a folder that cannot be written to keeps none, and the log says so."""
  try:
    storage.atomic_write_bytes(path, hashlib.sha256(result).digest() + result)
  except OSError as error:
    _log.warning('%s is not kept: %s', path.name, error)


@functools.cache
def _source() -> str:
  """A fingerprint of the Python files of this package."""
  found = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob('*.py')):
    found.update(path.read_bytes())
  return found.hexdigest()
