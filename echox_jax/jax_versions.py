"""Versions of JAX that are known to compute wrongly: one place that names them, and a check before work starts."""

import functools
import importlib.metadata

from echox_jax import errors

# Release of jaxlib -> what is wrong with it. `setup.cfg` excludes the same ones.
_BAD = {
    '0.10.2': 'it returns wrong sums on CPUs (jax issue 39103)',
    '0.11.0': 'it crashes in some reductions on CPUs (jax issue 39257)',
}


@functools.cache
def check() -> None:
  """Reads the installed version; JAX itself is not imported.

  Raises:
    ConfigError: it is one of the bad ones.
  """
  for package in ('jaxlib', 'jax'):
    installed = importlib.metadata.version(package)
    reason = _BAD.get('.'.join(installed.split('.')[:3]))
    if reason is not None:
      raise errors.ConfigError(
          f'{package} {installed} cannot be used, since {reason}: '
          "install another one with `pip install -U 'jax!=0.10.2,!=0.11.0'`.")
