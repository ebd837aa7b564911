"""Errors that a user can cause.

Every such error carries one sentence that names the thing and the remedy. Anything else that is
raised is a defect of ours and keeps its traceback.
"""

import importlib.util


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
