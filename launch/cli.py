"""Ends a command: its exit code, and one sentence for an error that the user can correct."""

from collections.abc import Callable
import sys

from echox_jax import errors
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
  except OSError as error:
    where = f' ({error.filename})' if error.filename else ''
    print(
      f'error: {error.strerror or error}{where}: check that the path exists, is writable and '
      'has room.',
      file=sys.stderr,
    )
    code = 2
  except KeyboardInterrupt:
    print(
      'interrupted: finished parts are kept; run the same command again to continue.',
      file=sys.stderr,
    )
    code = 130
  leave(code or 0)
