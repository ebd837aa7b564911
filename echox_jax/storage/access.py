"""Checks whether a bucket can be used, before compute is spent, and says what to do if not."""

from collections.abc import Iterator
import contextlib
import os
import sys
import uuid

from echox_jax import errors
from echox_jax.storage import paths, writes
from echox_jax.storage.paths import Path


def check_readable(path: str | os.PathLike[str]) -> Path:
  """Returns the path that a user named, after a look into its bucket. A local path is not looked
  at.

  Raises:
    StorageError: there is no such bucket, it cannot be reached, or these credentials may not list
      it.
    ConfigError, MissingExtraError: as `paths.path`.
  """
  path = paths.path(path)
  if paths.is_remote(path):
    with explained(path):
      try:
        paths.bucket_files().call('GET', 'b/{}/o', _bucket(path), maxResults=1, json_out=True)
      except FileNotFoundError as error:
        raise _no_bucket(path) from error
  return path


def check_writable(folder: str | os.PathLike[str]) -> Path:
  """Like `check_readable`, but also writes and deletes an object in `folder`.

  Raises:
    StorageError: as `check_readable`, or the bucket is read-only.
  """
  folder = check_readable(folder)
  if paths.is_remote(folder):
    probe = folder / f'.writable-{uuid.uuid4().hex}'
    with explained(folder, 'write to'):
      writes.atomic_write_bytes(probe, b'')
      paths.bucket_files().rm_file(str(probe))
  return folder


@contextlib.contextmanager
def explained(path: str | os.PathLike[str], what: str = 'read') -> Iterator[None]:
  """Turns what the client of a bucket raises in the block into a StorageError. A missing file stays
  a FileNotFoundError.

  Args:
    path: the path that the block uses.
    what: what it does there, for the message: `read` or `write to`.
  """
  try:
    yield
  except (errors.EchoXError, FileNotFoundError, FileExistsError):
    raise
  except Exception as error:
    problem = refusal(error, os.fspath(path), what) if paths.is_remote(path) else None
    if problem is None:
      raise
    raise problem from error


def refusal(
  error: BaseException, where: str = 'the bucket', what: str = 'use'
) -> errors.StorageError | None:
  """Returns what an error of the client of a bucket means; None if it is another error."""
  if 'gcsfs' not in sys.modules:
    return None
  import aiohttp
  import gcsfs.retry
  from google.auth import exceptions
  import requests

  reason = ' '.join(str(error).split())[:200]
  code = getattr(error, 'code', None) if isinstance(error, gcsfs.retry.HttpError) else None
  if isinstance(error, exceptions.TransportError):
    code = None
  elif isinstance(error, exceptions.GoogleAuthError):
    code = '401'
  if str(code) == '401':
    return errors.StorageError(
      f'there are no valid credentials to {what} {where} ({reason}): run `gcloud auth '
      'application-default login`, or give this machine a service account.'
    )
  if str(code) == '403' or (isinstance(error, OSError) and str(error).startswith('Forbidden')):
    return errors.StorageError(
      f'these credentials may not {what} {where} ({reason}): grant them the role Storage Object '
      'User on that bucket, or give another path.'
    )
  if isinstance(
    error,
    (
      aiohttp.ClientError,
      requests.RequestException,
      exceptions.TransportError,
      gcsfs.retry.HttpError,
      TimeoutError,
    ),
  ):
    return errors.StorageError(
      f'{where} cannot be reached ({type(error).__name__}: {reason}): check the network and run '
      'the same command again.'
    )
  return None


def _no_bucket(path: Path) -> errors.StorageError:
  bucket = _bucket(path)
  return errors.StorageError(
    f'there is no bucket gs://{bucket}: correct the path, or make the bucket with '
    f'`gcloud storage buckets create gs://{bucket}`.'
  )


def _bucket(path: Path) -> str:
  return os.fspath(path).removeprefix(paths.SCHEME).split('/')[0]
