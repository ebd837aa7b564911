"""Ends a command: its exit code, and one sentence for an error that the user can correct."""

from collections.abc import Callable
import os
import sys

from echox_jax import errors, storage
from echox_jax.parallel import jax_versions


def run(main: Callable[[], int | None], leave: Callable[[int], None] = sys.exit) -> None:
  """Runs `main` and exits through `leave`: 0 (or its result) when done, or 2 after printing one
  sentence about an error that the user can correct.

  A JAX version that is known to compute wrong results is such an error.
  """
  try:
    jax_versions.check()
    code = main()
  except errors.EchoXError as error:
    print(f'error: {error}', file=sys.stderr)
    code = 2
  except Exception as error:
    refused = storage.refusal(error)
    if refused is None and not isinstance(error, OSError):
      raise
    print(f'error: {refused or _in_words(error)}', file=sys.stderr)
    code = 2
  except KeyboardInterrupt:
    print(
      'interrupted: finished parts are kept; run the same command again to continue.',
      file=sys.stderr,
    )
    code = 130
  leave(code or 0)


def _in_words(error: OSError) -> str:
  where = f' ({error.filename})' if error.filename else ''
  return f'{error.strerror or error}{where}: check that the path exists, is writable and has room.'


def keep_compiled_programs() -> None:
  """Keeps compiled programs between runs, so that a second start is ready at once.

  They lie in `programs` in the cache folder; an empty `JAX_COMPILATION_CACHE_DIR` keeps none, any
  other is taken instead.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  import jax  # imported late: commands that compute nothing start without it

  jax.config.update('jax_compilation_cache_dir', str(storage.cache_folder() / 'programs'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
