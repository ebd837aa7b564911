"""Errors that a user can cause, and how a command line reports them.

Every such error carries one sentence that names the thing and the remedy. Anything else that is raised is a defect of ours
and keeps its traceback.
"""

from collections.abc import Callable
import importlib.util
import sys


class EchoXError(Exception):
  """Something the user can put right; its text is one sentence with the remedy."""


class ConfigError(EchoXError):
  """A configuration that cannot work."""


class AudioError(EchoXError):
  """Audio that is missing, damaged, empty, silent or too long."""


class DataError(EchoXError):
  """A data set or manifest that is missing or damaged."""


class CheckpointError(EchoXError):
  """A checkpoint that is missing, damaged or made with another config."""


class MissingExtraError(EchoXError):
  """An optional package is not installed."""

  def __init__(self, package: str, extra: str, purpose: str):
    super().__init__(
        f'{purpose} needs the package {package!r}, which is not installed: '
        f"install it with `pip install 'echox-jax[{extra}]'`."
    )


def require(package: str, extra: str, purpose: str) -> None:
  """Raises MissingExtraError where `package` cannot be imported: to be asked before long work."""
  if importlib.util.find_spec(package) is None:
    raise MissingExtraError(package, extra, purpose)


def run_cli(main: Callable[[], int | None], leave: Callable[[int], None] = sys.exit) -> None:
  """Runs `main` and exits through `leave`: 0 (or its result) when done, 2 with one sentence on an error that the user can put right.

  A JAX that is known to compute wrongly is such an error.
  """
  try:
    from echox_jax import jax_versions  # it raises errors of this module
    jax_versions.check()
    code = main()
  except EchoXError as error:
    print(f'error: {error}', file=sys.stderr)
    code = 2
  except OSError as error:
    where = f' ({error.filename})' if error.filename else ''
    print(f'error: {error.strerror or error}{where}: check that the path exists, is writable and has room.', file=sys.stderr)
    code = 2
  except KeyboardInterrupt:
    print('interrupted: finished parts are kept; run the same command again to go on.', file=sys.stderr)
    code = 130
  leave(code or 0)
