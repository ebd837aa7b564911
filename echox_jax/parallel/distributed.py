"""Multi-process jobs: how processes find each other, which rows of a batch each one feeds, and how
they exit.

This module is independent of training: every multi-host program starts with `initialise`.
"""

from collections.abc import Mapping
import dataclasses
import glob
import importlib.util
import os
import re
import socket
import sys
import threading
import time
import urllib.request
import zlib

import jax
from jax.experimental import multihost_utils

from echox_jax import errors

MODES = ('auto', 'none', 'slurm', 'mpi')
# exit code of a run that saved and stopped on request, as for a process ended by SIGTERM
STOPPED = 143
_METADATA = 'http://metadata.google.internal/computeMetadata/v1/instance/attributes/'


@dataclasses.dataclass(frozen=True)
class Join:
  """How this process joins the others. All None: a TPU pod, whose hosts JAX finds by itself.

  Attributes:
    coordinator: HOST:PORT where process 0 listens.
    num_processes: number of processes in the job.
    process_id: id of this process, from 0.
    local_device: the single GPU of this process; None = all visible GPUs.
  """

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  local_device: int | None = None


def initialise(
  mode: str = 'auto',
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout_seconds: float = 300.0,
) -> None:
  """Joins the processes of the job; call it before any other use of JAX. It does nothing for a
  single process.

  Args:
    mode: `auto` (TPU pod, Slurm or Open MPI, detected from the environment), `none`, `slurm` or
      `mpi`.
    coordinator, num_processes, process_id: give all three without a scheduler; with `slurm` or
      `mpi`, only `coordinator` is allowed.
    timeout_seconds: time to wait for the other processes.

  Raises:
    ConfigError: flags conflict, or the environment lacks variables that `mode` needs.
    EchoXError: the other processes do not join in time.
  """
  plan = make_plan(mode, coordinator, num_processes, process_id, os.environ)
  if plan is None:
    return
  deadline = time.monotonic() + timeout_seconds
  if plan.process_id:
    _await_coordinator(plan, deadline, timeout_seconds)
  arguments = {}
  if plan.coordinator:
    arguments = dict(
      coordinator_address=plan.coordinator,
      num_processes=plan.num_processes,
      process_id=plan.process_id,
      local_device_ids=None if plan.local_device is None else [plan.local_device],
      cluster_detection_method='deactivate',
    )
  failure = []

  def join():
    try:
      # JAX's own timeout kills the process with a stack trace, so ours is shorter.
      jax.distributed.initialize(
        **arguments, initialization_timeout=round(timeout_seconds) + 60, shutdown_timeout_seconds=60
      )
    except Exception as error:
      failure.append(error)

  thread = threading.Thread(target=join, daemon=True)
  thread.start()
  thread.join(max(deadline - time.monotonic(), 1.0))
  if thread.is_alive():
    raise errors.EchoXError(
      f'not all of the {plan.num_processes or "hosts"} processes joined within '
      f'{timeout_seconds:.0f} s: start the same command on every '
      'host, each with its own process id.'
    )
  if failure:
    reason = (str(failure[0]).strip() or type(failure[0]).__name__).splitlines()[0]
    raise errors.EchoXError(
      f'the processes of the job could not be joined ({reason}): check --coordinator, or use '
      '--distributed=none for a single process.'
    ) from failure[0]


def make_plan(
  mode: str,
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  environ: Mapping[str, str],
) -> Join | None:
  """Determines how to join from the flags and the environment; None = a single process.

  Raises:
    ConfigError: see `initialise`.
  """
  if mode not in MODES:
    raise errors.ConfigError(f'--distributed is {mode!r}: use one of {", ".join(MODES)}.')
  flags = {
    '--coordinator': coordinator,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  given = [name for name, value in flags.items() if value is not None]
  if coordinator is not None and not re.fullmatch(r'.+:\d+', coordinator):
    raise errors.ConfigError(f'--coordinator is {coordinator!r}: write it as HOST:PORT.')
  if mode in ('slurm', 'mpi'):
    if set(given) - {'--coordinator'}:
      raise errors.ConfigError(
        f'{given[-1]} is given with --distributed={mode}, which sets it itself: leave it out.'
      )
    plan = (_slurm if mode == 'slurm' else _open_mpi)(environ, coordinator)
  elif given and mode == 'none':
    raise errors.ConfigError(f'{given[0]} is given with --distributed=none: leave one of them out.')
  elif given:
    if len(given) < len(flags):
      raise errors.ConfigError(
        f'{given[0]} is given without '
        f'{", ".join(sorted(flags.keys() - set(given)))}: give all three of '
        'them.'
      )
    plan = Join(coordinator, num_processes, process_id)
  elif mode == 'auto' and _tpu_hosts(environ) > 1:
    return Join()
  elif mode == 'auto' and 'SLURM_STEP_NODELIST' in environ and _slurm_tasks(environ) > 1:
    plan = _slurm(environ, None)
  elif mode == 'auto' and int(environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1:
    plan = _open_mpi(environ, None)
  else:
    return None
  if plan.num_processes < 1 or not 0 <= plan.process_id < plan.num_processes:
    raise errors.ConfigError(
      f'process id {plan.process_id} is out of range for {plan.num_processes} processes: number '
      f'them from 0 to {max(plan.num_processes - 1, 0)}.'
    )
  return plan if plan.num_processes > 1 else None


def barrier(name: str) -> None:
  """Waits until all processes reach this point."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def is_first() -> bool:
  """Returns True in the process that writes the shared output: metrics, configs, messages."""
  return jax.process_index() == 0


def is_first_host(environ: Mapping[str, str]) -> bool:
  """Returns True on the host of process 0, told by the environment alone: the processes need not
  have joined.
  """
  plan = make_plan('auto', None, None, None, environ)
  if plan is None or plan.process_id is not None:
    return plan is None or plan.process_id == 0
  worker = environ.get('TPU_WORKER_ID') or _metadata('agent-worker-number')
  number = environ.get('MEGASCALE_SLICE_ID') or _megascale('SLICE_ID')
  return int(worker or 0) == 0 and int(number or 0) == 0


def rows_of_process(where: jax.sharding.Sharding, batch_size: int) -> tuple[int, ...]:
  """Returns the rows of a global batch, sharded like `where`, on this process's devices, in order.

  Processes share rows if a mesh axis other than the batch axes spans them.
  """
  held = where.addressable_devices_indices_map((batch_size,)).values()
  return tuple(sorted({row for (rows,) in held for row in range(batch_size)[rows]}))


def leave(code: int) -> None:
  """Exits. In a multi-process job, a failed process exits at once: the others wait for it, so it
  must not wait for them.
  """
  if code not in (0, STOPPED) and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    # JAX ends the others when process 0 exits; this lets them print the same error first
    time.sleep(2)
    os._exit(code)
  sys.exit(code)


def _await_coordinator(plan: Join, deadline: float, timeout_seconds: float) -> None:
  """Waits until a process listens at the coordinator's address."""
  host, port = plan.coordinator.rsplit(':', 1)
  reason = ''
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((host.strip('[]'), int(port)), timeout=5):
        return
    except OSError as error:
      reason = error.strerror or str(error)
      time.sleep(0.2)
  raise errors.EchoXError(
    f'the coordinator {plan.coordinator} could not be reached within {timeout_seconds:.0f} s '
    f'({reason}): check the address, that process 0 '
    'runs there, and that no firewall blocks it.'
  )


def _slurm_tasks(environ: Mapping[str, str]) -> int:
  return int(environ.get('SLURM_STEP_NUM_TASKS') or environ.get('SLURM_NTASKS') or 1)


def _slurm(environ: Mapping[str, str], coordinator: str | None) -> Join:
  """Joins the tasks of a Slurm step; process 0 is on the first node."""
  need = ('SLURM_JOB_ID', 'SLURM_PROCID', 'SLURM_STEP_NODELIST')
  _require(environ, need, '--distributed=slurm', 'start the processes with srun')
  nodes = environ['SLURM_STEP_NODELIST']  # node7 or node7,other or node[007-015,20],other
  first = re.sub(
    r'\[([^-,\]]+)[^\]]*\]', r'\1', re.match(r'[^,\[]+(\[[^\]]*\])?[^,\[]*', nodes).group()
  )
  here = []  # tasks on each node, written as 2(x3),1
  for part in environ.get('SLURM_STEP_TASKS_PER_NODE', '1').split(','):
    count, times = re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', part).groups()
    here += [int(count)] * int(times or 1)
  node = int(environ.get('SLURM_NODEID', 0))
  alone = here[min(node, len(here) - 1)] == 1
  return Join(
    coordinator or f'{first}:{_port(environ["SLURM_JOB_ID"])}',
    _slurm_tasks(environ),
    int(environ['SLURM_PROCID']),
    _local_device(environ, alone, environ.get('SLURM_LOCALID')),
  )


def _open_mpi(environ: Mapping[str, str], coordinator: str | None) -> Join:
  """Joins the ranks of mpirun; rank 0 runs where mpirun was started, unless `coordinator` says
  otherwise.
  """
  need = ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK')
  _require(environ, need, '--distributed=mpi', 'start the processes with mpirun')
  count, rank = (int(environ[name]) for name in need)
  local = int(environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', 1))
  # Open MPI up to 4: 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
  uri = environ.get('OMPI_MCA_orte_hnp_uri', '')
  found = re.search(r'tcp://([^,:]+)|tcp6://\[([^,\]]+)', uri)
  if coordinator is None and local == count:
    coordinator = f'localhost:{_port(uri or environ.get("PMIX_NAMESPACE", ""))}'
  elif coordinator is None and found:
    coordinator = f'{found[1] or f"[{found[2]}]"}:{_port(uri)}'
  elif coordinator is None:
    raise errors.ConfigError(
      'this Open MPI does not say where rank 0 runs: give '
      '--distributed=mpi --coordinator=HOST:PORT of that host.'
    )
  return Join(
    coordinator,
    count,
    rank,
    _local_device(environ, local == 1, environ.get('OMPI_COMM_WORLD_LOCAL_RANK')),
  )


def _local_device(environ: Mapping[str, str], alone: bool, local_rank: str | None) -> int | None:
  """Assigns one GPU per process if processes share a host, unless the scheduler shows each process
  only its own GPU.
  """
  visible = environ.get('CUDA_VISIBLE_DEVICES')
  bound = visible is not None and ',' not in visible
  return None if alone or bound or local_rank is None else int(local_rank)


def _port(job: str) -> int:
  """Derives a port that is the same for all processes of a job and most likely unique to it."""
  return 61440 + zlib.crc32(job.encode()) % 4096


def _require(environ: Mapping[str, str], names: tuple[str, ...], flag: str, remedy: str) -> None:
  missing = [name for name in names if name not in environ]
  if missing:
    raise errors.ConfigError(
      f'{flag} needs the environment variable {missing[0]}, which is not set: {remedy}.'
    )


def _tpu_hosts(environ: Mapping[str, str]) -> int:
  """Returns the number of hosts of this TPU job from GKE (environment) or Compute Engine
  (metadata); 1 elsewhere.
  """
  platforms = environ.get('JAX_PLATFORMS', '')
  if (platforms and 'tpu' not in platforms) or importlib.util.find_spec('libtpu') is None:
    return 1
  slices = int(environ.get('MEGASCALE_NUM_SLICES') or 1)
  names = environ.get('TPU_PROCESS_ADDRESSES') or environ.get('TPU_WORKER_HOSTNAMES')
  if (
    not names
    and not environ.get('TPU_SKIP_MDS_QUERY')
    and (glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))
  ):
    names = _metadata('worker-network-endpoints')
    slices = max(slices, int(_megascale('NUM_SLICES') or 1))
  return slices * len((names or '').split(','))


def _megascale(name: str) -> str:
  """Reads a number that Compute Engine gives the hosts of several slices; empty elsewhere."""
  told = re.search(rf"MEGASCALE_{name}: *'?(\d+)", _metadata('tpu-env'))
  return told[1] if told else ''


def _metadata(key: str) -> str:
  """Reads an attribute from Compute Engine's metadata server; empty elsewhere."""
  try:
    with urllib.request.urlopen(
      urllib.request.Request(_METADATA + key, headers={'Metadata-Flavor': 'Google'}), timeout=5
    ) as answer:
      return answer.read().decode()
  except OSError:
    return ''
