"""Several processes do what one does: how they start, what each reads and writes, how they stop,
who goes on.
"""

import functools
import json
import operator
from pathlib import Path
import shutil
import socket

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from echox_jax import errors, storage
from echox_jax.parallel import distributed
from echox_jax.parallel.distributed import Join
from echox_jax.storage import writes
from echox_jax.training import checkpoint, profiling, records
from tests.helpers.processes import start_job

STEPS, STOP_AFTER = 12, 2
FSDP = {'data': 2, 'fsdp': 4}


def _plan(mode='auto', environ=(), **flags):
  return distributed.make_plan(
    mode,
    *(flags.get(name) for name in ('coordinator', 'num_processes', 'process_id')),
    dict(environ),
  )


# --- Starting.

SLURM = {
  'SLURM_JOB_ID': '4097',
  'SLURM_NTASKS': '4',
  'SLURM_PROCID': '3',
  'SLURM_STEP_NODELIST': 'gpu[007-008,11],big1',
  'SLURM_STEP_TASKS_PER_NODE': '2(x2)',
  'SLURM_NODEID': '1',
  'SLURM_LOCALID': '1',
}
OPEN_MPI = {
  'OMPI_COMM_WORLD_SIZE': '2',
  'OMPI_COMM_WORLD_RANK': '1',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
}


def test_nothing_said_is_one_process():
  assert _plan() is None
  assert _plan('none', SLURM) is None
  assert _plan(coordinator='a:1', num_processes=1, process_id=0) is None
  # An allocation, but not started by srun; a step of one task.
  assert _plan(environ={'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '4'}) is None
  assert _plan(environ=SLURM | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'}) is None


def test_flags():
  assert _plan(coordinator='host:1234', num_processes=3, process_id=2) == Join('host:1234', 3, 2)
  assert _plan(environ=SLURM, coordinator='host:1234', num_processes=3, process_id=2) == Join(
    'host:1234', 3, 2
  )


@pytest.mark.parametrize(
  'nodes, first',
  [
    ('node7', 'node7'),
    ('node7,other2', 'node7'),
    ('node[007-015,20],other', 'node007'),
    ('n[3,5-6]', 'n3'),
    ('a[1-2]b,c', 'a1b'),
  ],
)
def test_slurm(nodes, first):
  plan = _plan(environ=SLURM | {'SLURM_STEP_NODELIST': nodes})
  host, port = plan.coordinator.split(':')
  assert host == first and 61440 <= int(port) < 65536
  assert (plan.num_processes, plan.process_id, plan.local_device) == (4, 3, 1)
  assert _plan('slurm', SLURM, coordinator='x:5').coordinator == 'x:5'


def test_a_process_takes_one_gpu_only_where_it_shares_the_host():
  assert _plan(environ=SLURM | {'SLURM_STEP_TASKS_PER_NODE': '1(x4)'}).local_device is None
  # Slurm has bound it already
  assert _plan(environ=SLURM | {'CUDA_VISIBLE_DEVICES': '0'}).local_device is None
  assert _plan(environ=SLURM | {'CUDA_VISIBLE_DEVICES': '0,1'}).local_device == 1


def test_open_mpi():
  plan = _plan(environ=OPEN_MPI)
  assert plan.coordinator.startswith('10.96.0.1:') and (
    plan.num_processes,
    plan.process_id,
    plan.local_device,
  ) == (2, 1, None)
  assert (
    _plan(
      environ=OPEN_MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '2', 'OMPI_COMM_WORLD_LOCAL_RANK': '1'}
    ).local_device
    == 1
  )
  newer = {name: value for name, value in OPEN_MPI.items() if 'uri' not in name}
  assert _plan('mpi', newer, coordinator='x:5') == Join('x:5', 2, 1)
  with pytest.raises(
    errors.ConfigError, match='does not say where rank 0 runs: give --distributed=mpi --coordinator'
  ):
    _plan(environ=newer)


def test_tpu_pods_find_themselves(monkeypatch):
  monkeypatch.setattr(distributed.importlib.util, 'find_spec', lambda name: object())
  assert _plan(environ={'TPU_WORKER_HOSTNAMES': 'localhost'}) is None
  assert _plan(environ={'TPU_WORKER_HOSTNAMES': 'a,b'}) == Join()
  assert _plan(environ={'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '2'}) == Join()
  assert _plan(environ={'TPU_WORKER_HOSTNAMES': 'a,b', 'JAX_PLATFORMS': 'cpu'}) is None
  monkeypatch.setattr(distributed.glob, 'glob', lambda pattern: ['/dev/accel0'])
  told = {'worker-network-endpoints': 'w0:8470:10.0.0.1,w1:8470:10.0.0.2', 'tpu-env': ''}
  monkeypatch.setattr(distributed, '_metadata', told.get)
  assert _plan() == Join()
  told.update({'worker-network-endpoints': 'one', 'tpu-env': "A: 'b'\nMEGASCALE_NUM_SLICES: '2'\n"})
  assert _plan() == Join()
  told['tpu-env'] = ''
  assert _plan() is None


@pytest.mark.parametrize(
  'mode, environ, flags, message',
  [
    ('pod', {}, {}, "--distributed is 'pod': use one of auto, none, slurm, mpi"),
    (
      'auto',
      {},
      dict(coordinator='a:1'),
      '--coordinator is given without --num_processes, --process_id',
    ),
    (
      'auto',
      {},
      dict(num_processes=2, process_id=0),
      '--num_processes is given without --coordinator',
    ),
    (
      'auto',
      {},
      dict(coordinator='a', num_processes=2, process_id=0),
      "--coordinator is 'a': write it as HOST:PORT",
    ),
    (
      'auto',
      {},
      dict(coordinator='a:1', num_processes=2, process_id=2),
      'process id 2 is out of range for 2 processes: number them from 0 to 1',
    ),
    (
      'auto',
      {},
      dict(coordinator='a:1', num_processes=2, process_id=-1),
      'process id -1 is out of range',
    ),
    (
      'auto',
      {},
      dict(coordinator='a:1', num_processes=0, process_id=0),
      'out of range for 0 processes',
    ),
    ('none', {}, dict(process_id=0), '--process_id is given with --distributed=none'),
    (
      'slurm',
      SLURM,
      dict(num_processes=2),
      '--num_processes is given with --distributed=slurm, which sets it itself',
    ),
    (
      'slurm',
      {},
      {},
      'needs the environment variable SLURM_JOB_ID, which is not set: start the '
      'processes with srun',
    ),
    ('mpi', {}, {}, 'OMPI_COMM_WORLD_SIZE, which is not set: start the processes with mpirun'),
  ],
)
def test_what_does_not_go_together_is_one_sentence(mode, environ, flags, message):
  with pytest.raises(errors.ConfigError) as caught:
    _plan(mode, environ, **flags)
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_coordinator_that_nobody_runs(monkeypatch):
  monkeypatch.setattr(jax.distributed, 'initialize', None)  # is not reached
  with pytest.raises(
    errors.EchoXError,
    match=r'the coordinator localhost:\d+ could not be reached '
    r'within 1 s \(.*refused',
  ):
    distributed.initialise('auto', f'localhost:{_free_port()}', 2, 1, timeout_seconds=1)


def test_processes_that_do_not_come(monkeypatch):
  import threading

  monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: threading.Event().wait(5))
  with pytest.raises(errors.EchoXError, match='not all of the 2 processes joined within 0 s'):
    distributed.initialise('auto', 'localhost:1', 2, 0, timeout_seconds=0.1)


def test_profile_windows():
  assert profiling.parse('5:8') == (5, 8) and profiling.parse(None) is None
  for bad in ('5', '8:5', '5:5', 'a:b', '-1:3'):
    with pytest.raises(errors.ConfigError, match='write START:STOP'):
      profiling.parse(bad)


def test_rows_of_a_process_are_those_of_its_devices():
  where = NamedSharding(
    Mesh(np.asarray(jax.devices()[:1]), ('data',), axis_types=(AxisType.Auto,)),
    PartitionSpec('data'),
  )
  assert distributed.rows_of_process(where, 5) == (0, 1, 2, 3, 4)

  class Scattered:  # as devices of a TPU slice may lie
    def addressable_devices_indices_map(self, shape):
      return {0: (slice(4, 6),), 1: (slice(0, 2),), 2: (slice(4, 6),)}

  assert distributed.rows_of_process(Scattered(), 8) == (0, 1, 4, 5)


# --- Running.


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


class Runs:
  """Runs jobs; compiled programs are kept between them."""

  def __init__(self, folder: Path):
    self._folder = folder

  def __call__(
    self, workdir, processes=1, mesh=FSDP, code=0, stop=None, after=STOP_AFTER, devices=8
  ):
    """The records of all processes, by kind: {'batch': {step: rows}, 'saved': {step: digest},
    'restored': ...}. The process `stop` is told to stop `after` so many steps.
    """
    port, started = _free_port(), []
    for process in range(processes):
      options = dict(
        workdir=str(workdir),
        devices=devices // processes,
        mesh=mesh,
        processes=processes,
        process=process,
        port=port,
        steps=STEPS,
      )
      if process == stop:
        options['stop_after'] = after
      started.append(start_job('tests.helpers.distributed_jobs', options, self._folder))
    done = [process.communicate(timeout=500) for process in started]
    assert [process.returncode for process in started] == [code] * processes, (
      done[0][1][-3000:] + done[-1][1][-3000:]
    )
    said = [
      [json.loads(line) for line in out.splitlines() if line.startswith('["')] for out, _ in done
    ]
    found = {kind: {} for kind in ('batch', 'saved', 'restored')}
    for kind, step, value in functools.reduce(operator.iadd, said, []):
      if kind == 'batch':
        # processes hold consecutive rows of these meshes
        found[kind][step] = found[kind].get(step, []) + value
      else:
        assert found[kind].setdefault(step, value) == value
    found['stderr'] = [err for _, err in done]
    return found


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return Runs(tmp_path_factory.mktemp('compiled'))


@pytest.fixture(scope='module')
def alone(run, tmp_path_factory):
  """One process of eight devices, uninterrupted."""
  workdir = tmp_path_factory.mktemp('alone')
  return workdir, run(workdir)


@pytest.fixture(scope='module')
def stopped(run, tmp_path_factory):
  """Two processes of four devices; one of them is told to stop."""
  workdir = tmp_path_factory.mktemp('stopped')
  return workdir, run(workdir, processes=2, code=143, stop=1)


def _losses(workdir, kind='train'):
  return {
    r['step']: r['loss']
    for r in records.read(workdir / 'text' / 'metrics.jsonl')
    if r['kind'] == kind
  }


def _assert_params(one, other, equal):
  saved = [checkpoint.load_groups(workdir / 'text', ['llm']) for workdir in (one, other)]
  jax.tree.map(equal, *saved)


def _close(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_ends_both_after_the_same_step(alone, stopped):
  workdir, told = stopped
  (step,) = told['saved']  # both processes saved this step, with the same digest, and no other
  assert STOP_AFTER < step < STEPS
  assert checkpoint.read_finished(workdir / 'text') is None
  assert [path.name for path in (workdir / 'text' / 'checkpoints').iterdir()] == [str(step)]
  assert not [path for path in (workdir / 'text').rglob('*') if 'tmp' in path.name]


def test_two_processes_of_four_equal_one_of_eight(alone, stopped):
  (workdir_one, one), (workdir_two, two) = alone, stopped
  losses_one, losses_two = _losses(workdir_one), _losses(workdir_two)
  assert len(losses_two) == max(two['batch']) > STOP_AFTER
  for step, loss in losses_two.items():
    assert two['batch'][step] == one['batch'][step]  # row for row
    assert abs(loss - losses_one[step]) < 1e-5
  held_out_one, held_out_two = _losses(workdir_one, 'eval'), _losses(workdir_two, 'eval')
  assert held_out_two.keys() == losses_two.keys() and held_out_one.keys() == losses_one.keys()
  assert all(abs(loss - held_out_one[step]) < 1e-5 for step, loss in held_out_two.items())


def _go_on(run, alone, two, workdir):
  """Goes on where two processes of four devices stopped, on four devices in one process, and stops
  again; then on eight devices in two processes: together the same run as that of one process.

  Returns the step of the second stop.
  """
  workdir_one, one = alone
  (step,) = two['saved']
  fewer = run(workdir, mesh={'data': 2, 'fsdp': 2}, devices=4, code=143, stop=0, after=step + 2)
  assert fewer['restored'] == two['saved']  # bit for bit, optimizer state included
  ((again, _),) = fewer['saved'].items()
  assert step < again < STEPS
  went_on = run(workdir, processes=2)
  assert went_on['restored'] == fewer['saved']
  batches = two['batch'] | fewer['batch'] | went_on['batch']
  assert batches == one['batch']  # each step the same rows, also those that two runs made
  losses_one, losses = _losses(workdir_one), _losses(workdir)
  assert losses.keys() == losses_one.keys()
  assert all(abs(loss - losses_one[s]) < 1e-5 for s, loss in losses.items())
  _assert_params(workdir_one, workdir, _close)
  assert checkpoint.read_finished(workdir / 'text')['steps'] == STEPS
  return again


@pytest.mark.slow
def test_fewer_devices_go_on_where_two_processes_stopped_and_back(run, alone, stopped, tmp_path):
  workdir, two = stopped
  (step,) = two['saved']
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  leftover = tmp_path / 'text' / f'.config.json.{writes.host()}.4194305.{0:012x}.tmp'
  leftover.write_text('{')
  (tmp_path / 'text' / 'checkpoints' / f'{step + 1}.orbax-checkpoint-tmp').mkdir()
  again = _go_on(run, alone, two, tmp_path)
  assert not leftover.exists() and {
    p.name for p in (tmp_path / 'text' / 'checkpoints').iterdir()
  } == {str(again), str(STEPS)}


@pytest.mark.slow
def test_the_same_in_a_bucket(run, alone, bucket_folder):
  workdir = storage.path(bucket_folder)
  _go_on(run, alone, run(workdir, processes=2, code=143, stop=1), workdir)


@pytest.mark.slow
def test_two_processes_go_on_where_two_stopped_and_end_as_if_nothing_was(run, stopped, tmp_path):
  whole = tmp_path / 'whole'
  run(whole, processes=2)
  resumed = tmp_path / 'resumed'
  shutil.copytree(stopped[0], resumed)
  run(resumed, processes=2)
  _assert_params(whole, resumed, np.testing.assert_array_equal)
  assert _losses(whole)[STEPS] == _losses(resumed)[STEPS]


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(run, alone, tmp_path):
  """On another mesh too, of which every process holds all rows."""
  workdir, one = alone
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  (tmp_path / 'text' / 'finished.json').unlink()
  for mesh in (FSDP, {'data': 1, 'fsdp': 4, 'tensor': 2}, {'data': 1, 'sequence': 8}):
    went_on = run(tmp_path, processes=2, mesh=mesh)
    assert went_on['restored'] == one['saved']
    (tmp_path / 'text' / 'finished.json').unlink()
