"""Files and folders that a user names, on local disk or in a bucket (`gs://`)."""

from echox_jax.storage.access import check_readable, check_writable, explained, refusal
from echox_jax.storage.cache import Cache, cache_folder, kept_copy
from echox_jax.storage.folders import atomic_dir, is_incomplete, remove_leftovers, upload_folder
from echox_jax.storage.local_copies import local, read_range
from echox_jax.storage.locks import owned
from echox_jax.storage.paths import (
  Path,
  absolute,
  children,
  entries,
  exists,
  is_file,
  is_remote,
  local_only,
  make_folder,
  package_folder,
  path,
  remove_tree,
  size,
  stamp,
  tree,
)
from echox_jax.storage.writes import (
  Lines,
  Rewritten,
  atomic_write_bytes,
  atomic_write_json,
  atomic_write_text,
  put_in_place,
  staged,
  temporary_name,
)

__all__ = [
  'Cache',
  'Lines',
  'Path',
  'Rewritten',
  'absolute',
  'atomic_dir',
  'atomic_write_bytes',
  'atomic_write_json',
  'atomic_write_text',
  'cache_folder',
  'check_readable',
  'check_writable',
  'children',
  'entries',
  'exists',
  'explained',
  'is_file',
  'is_incomplete',
  'is_remote',
  'kept_copy',
  'local',
  'local_only',
  'make_folder',
  'owned',
  'package_folder',
  'path',
  'put_in_place',
  'read_range',
  'refusal',
  'remove_leftovers',
  'remove_tree',
  'size',
  'staged',
  'stamp',
  'temporary_name',
  'tree',
  'upload_folder',
]
