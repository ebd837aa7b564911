"""Releases of JAX that are known to compute wrongly: one table of them, and a check before work
starts.

The reproducers of the public issues below were run on a CPU with AVX-512 under every release from
0.10.1 to 0.12.0.1: 0.10.1, 0.11.1, 0.11.2, 0.12.0 and 0.12.0.1 compute them rightly.
"""

import functools
import importlib.metadata

from echox_jax import errors

# Release of jax and jaxlib -> what is wrong with it; `setup.cfg` excludes the same ones.
BAD = {
  '0.10.2': 'it returns wrong sums on CPUs and crashes in some reductions there '
  '(jax issues 39103, 39257 and 40412)',
  '0.11.0': 'it crashes in some reductions on CPUs (jax issue 39257)',
}


@functools.cache
def check() -> None:
  """Reads the installed versions; JAX itself is not imported.

  The faults are those of CPUs, but a job on a TPU or a GPU computes on its host as well, so the
  releases are refused there too.

  Raises:
    ConfigError: one of them is bad.
  """
  for package in ('jaxlib', 'jax'):
    try:
      installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # built from source: nothing tells its release
      continue
    reason = BAD.get(installed.partition('+')[0])
    if reason is not None:
      others = ','.join(f'!={release}' for release in BAD)
      raise errors.ConfigError(
        f'{package} {installed} cannot be used, since {reason}: '
        f'install another release with `pip install -U "jax{others}"`.'
      )
