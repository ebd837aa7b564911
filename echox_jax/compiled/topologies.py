"""Devices to compile for without having them: TPU slices by name, through libtpu, and virtual
CPUs.
"""

from collections.abc import Sequence
import contextlib
import os
import re

import jax

from echox_jax import errors

# By default libtpu queries the cloud about its machine and locks the chips; here there are none.
_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5p-16',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
_FORM = re.compile(r'[a-z0-9]+:\d+(x\d+){1,2}')


def devices(name: str, slices: int = 1) -> Sequence[jax.Device]:
  """Returns the devices of a topology; programs can be compiled for them but not run.

  Args:
    name: a TPU slice by its cloud name, `v5e:4x4` or `v5p:2x2x2`; or `cpu:8`, virtual CPUs of this
      process (these can also run programs).
    slices: number of slices, joined by the network between slices.

  Raises:
    ConfigError: the topology is unknown.
    MissingExtraError: libtpu is not installed.
  """
  if name.startswith('cpu:'):
    return _cpus(name)
  if slices < 1 or not _FORM.fullmatch(name):
    raise errors.ConfigError(
      f'{slices} slices of {name!r} are not a topology: use a chip and its '
      'grid, such as v5e:4x4 or v5p:2x2x2, and 1 slice or more.'
    )
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  errors.require('libtpu', 'compile', 'compiling for a TPU')
  from jax.experimental import topologies  # libtpu reads the environment when it is loaded

  try:
    several = {'num_slices': slices} if slices > 1 else {}
    return topologies.get_topology_desc(platform='tpu', topology_name=name, **several).devices
  except jax.errors.JaxRuntimeError as error:
    reason = ' '.join(str(error).split()).rstrip('.')
    raise errors.ConfigError(
      f'libtpu does not know the topology {name!r} ({reason}): use one such '
      'as v5e:4x4 or v5p:2x2x2.'
    ) from error


def _cpus(name: str) -> Sequence[jax.Device]:
  number = name.removeprefix('cpu:')
  if not number.isdigit() or not int(number):
    raise errors.ConfigError(f'{name!r} is not a number of virtual CPUs: use cpu:8.')
  with contextlib.suppress(RuntimeError):  # JAX is already initialised
    jax.config.update('jax_num_cpu_devices', int(number))
  found = jax.devices('cpu')
  if len(found) < int(number):
    raise errors.ConfigError(
      f'JAX has started with {len(found)} CPU devices, so {name!r} '
      'is not available: ask for it in a new process.'
    )
  return found[: int(number)]
