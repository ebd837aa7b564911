"""Reading files of a bucket: whole, in part, or as a local copy for libraries that need a file."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import tempfile

from echox_jax.storage import paths


def read_range(path: str | os.PathLike[str], offset: int, count: int) -> bytes:
  """Returns up to `count` bytes from `offset` on; fewer if the file ends before.

  Raises:
    FileNotFoundError: there is no such file.
  """
  path = paths.path(path)
  if not paths.is_remote(path):
    with open(path, 'rb') as f:
      f.seek(offset)
      return f.read(count)
  if not count:
    return b''
  try:
    return paths.bucket_files().cat_file(str(path), start=offset, end=offset + count)
  except Exception as error:
    if str(getattr(error, 'code', '')) == '416':  # the file ends before `offset`
      return b''
    raise


@contextlib.contextmanager
def local(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a local path with the content of the file or folder `path`: `path` itself, or a copy
  that is removed at the end.

  Raises:
    FileNotFoundError: there is nothing at that path in the bucket.
  """
  path = paths.path(path)
  if not paths.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix='echox-jax-') as folder:
    copy = pathlib.Path(folder) / path.name
    if paths.is_file(path):
      paths.bucket_files().get_file(str(path), str(copy))
    else:
      copy_folder(path, copy)
    yield copy


def copy_folder(path: paths.Path, copy: pathlib.Path) -> None:
  """Copies a folder of a bucket to local disk.

  Raises:
    FileNotFoundError: there is nothing at that path in the bucket.
  """
  names = [file.relative_to(path).as_posix() for file in paths.tree(path)]
  if not names:
    raise FileNotFoundError(f'there is no {path}')
  for name in names:
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
  paths.bucket_files().get([str(path / name) for name in names], [str(copy / n) for n in names])
