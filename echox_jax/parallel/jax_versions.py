"""A table of JAX releases that are known to compute wrong results, and a check before work starts.

The reproducers of the public issues below were run on a CPU with AVX-512 with every release from
0.10.1 to 0.12.0.1: 0.10.1, 0.11.1, 0.11.2, 0.12.0 and 0.12.0.1 give correct results.
"""

import functools
import importlib.metadata

from echox_jax import errors

# Release of jax and jaxlib -> its problem; `setup.cfg` excludes the same releases.
BAD = {
  '0.10.2': 'it returns wrong sums on CPUs and crashes in some reductions there '
  '(jax issues 39103, 39257 and 40412)',
  '0.11.0': 'it crashes in some reductions on CPUs (jax issue 39257)',
}


@functools.cache
def check() -> None:
  """Checks the installed versions without importing JAX.

  The bugs are on CPUs, but a job on a TPU or a GPU also computes on its host, so the releases are
  refused there too.

  Raises:
    ConfigError: an installed release is bad.
  """
  for package in ('jaxlib', 'jax'):
    try:
      installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # built from source: the release is unknown
      continue
    reason = BAD.get(installed.partition('+')[0])
    if reason is not None:
      others = ','.join(f'!={release}' for release in BAD)
      raise errors.ConfigError(
        f'{package} {installed} cannot be used, since {reason}: '
        f'install another release with `pip install -U "jax{others}"`.'
      )
