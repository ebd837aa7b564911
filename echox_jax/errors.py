"""Errors that a user can cause.

Each error carries one sentence that names the problem and the remedy. Any other exception is a bug
in this library and keeps its traceback.
"""

import importlib.util


class EchoXError(Exception):
  """An error that the user can fix; its text is one sentence with the remedy."""


class ConfigError(EchoXError):
  """A configuration that cannot work."""


class AudioError(EchoXError):
  """Audio that is missing, damaged, empty, silent or too long."""


class DataError(EchoXError):
  """A data set or manifest that is missing or damaged."""


class CheckpointError(EchoXError):
  """A checkpoint that is missing, damaged or made with another config."""


class StorageError(EchoXError):
  """A place that cannot be reached, read or written."""


class MissingExtraError(EchoXError):
  """An optional package is not installed."""

  def __init__(self, package: str, extra: str, purpose: str, installation: str = ''):
    how = installation or f"pip install 'echox-jax[{extra}]'"
    super().__init__(
      f'{purpose} needs the package {package!r}, which is not installed: install it with `{how}`.'
    )


def require(package: str, extra: str, purpose: str) -> None:
  """Raises MissingExtraError if `package` cannot be imported; call it before long work starts."""
  if importlib.util.find_spec(package) is None:
    raise MissingExtraError(package, extra, purpose)
