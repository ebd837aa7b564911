"""Fingerprints: a short hash of the inputs of a derived file."""

import hashlib
import json
from typing import Any

from echox_jax import storage
from echox_jax.errors import DataError
from echox_jax.storage import Path


def fingerprint(*inputs: Any) -> str:
  """A short hash of JSON-ready `inputs`."""
  return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
  """A short hash of the content of a file, or of all files in a folder.

  Raises:
    DataError: the file does not exist.
  """
  path = storage.path(path)
  try:
    if path.is_dir():
      return fingerprint(
        [
          (file.name, file_fingerprint(file))
          for file in storage.children(path)
          if storage.is_file(file)
        ]
      )
    return checksum(path)[:16]
  except FileNotFoundError as error:
    raise DataError(f'there is no file {path}: correct its path in the config.') from error


def checksum(path: str | Path) -> str:
  """The sha256 of a file."""
  with storage.path(path).open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
