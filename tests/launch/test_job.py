"""The command that every cloud recipe starts: what each verb runs, on which hosts, and how it
stops.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from echox_jax import errors
from echox_jax.parallel import distributed
from launch import job, pipeline, steps
from launch.steps import Step
from tests.helpers.paths import ROOT

NANO = '--config=configs/echox_nano.py'


def commands(*argv):
  return [step.command for step in job.steps(*job.parse(argv))]


def test_verbs_run_the_commands_of_the_way():
  assert commands('corpus', '--workdir=gs://b/w/', '--reader', 'mls', '--source', 'gs://b/in') == [
    ('launch.corpus', '--data', 'gs://b/w/data', '--reader', 'mls', '--source', 'gs://b/in')
  ]
  assert commands('precompute', '--workdir=gs://b/w', NANO) == [
    ('launch.precompute', NANO, '--workdir=gs://b/w')
  ]
  assert commands('train', 's2t', '--workdir=gs://b/w', NANO, '--config.train.steps=7') == [
    ('launch.train', f'{NANO}:s2t', '--workdir=gs://b/w', '--config.train.steps=7')
  ]
  (export,) = commands('export', '--workdir=gs://b/w')
  assert export[:4] == ('launch.convert', 'export', '--checkpoint', 'gs://b/w')
  assert export[-1] == 'gs://b/w/model'
  (evaluate,) = commands('evaluate', '--workdir=w', '--limit', '5')
  assert evaluate[0] == 'launch.evaluate' and evaluate[-2:] == ('--limit', '5')
  whole = commands('pipeline', '--workdir=w', NANO, '--stages=s2t,t2c')
  assert [command[0] for command in whole] == [
    'launch.precompute',
    'launch.train',
    'launch.train',
    'launch.convert',
  ]
  assert len(commands('pipeline', '--workdir=w', NANO)) == 7


def test_slices_reach_the_config_of_whatever_has_one():
  assert (
    '--config.mesh.dcn_data=3' in commands('train', 's2t', '--workdir=w', NANO, '--slices=3')[0]
  )
  whole = commands('pipeline', '--workdir=w', NANO, '--slices=3')
  assert all('--config.mesh.dcn_data=3' in command for command in whole[:-1])
  assert '--config.mesh.dcn_data=3' not in whole[-1]
  assert '--config.mesh.dcn_data=3' not in commands('export', '--workdir=w', '--slices=3')[0]


@pytest.mark.parametrize(
  'argv, sentence',
  [
    (('train', '--workdir=w', NANO), 'train needs a stage'),
    (('export', 's2t', '--workdir=w'), 'nothing else takes one'),
    (('train', 'dance', '--workdir=w', NANO), "stage 'dance' is unknown"),
    (('precompute', '--workdir=w'), 'precompute needs --config'),
    (('pipeline', '--workdir=w', NANO, '--config.train.stepps=3'), 'stepps'),
    (('pipeline', '--workdir=w', '--config=configs/echox_8b.py'), "no stage 'text'"),
  ],
)
def test_mistakes_are_told_before_anything_runs(argv, sentence, monkeypatch):
  monkeypatch.setattr(job, 'run_all', lambda todo: pytest.fail('something ran'))
  with pytest.raises(errors.EchoXError) as told:
    job.main(argv)
  assert sentence in str(told.value)


def test_a_dry_run_prints_the_commands_and_runs_none(monkeypatch, capsys):
  monkeypatch.setattr(job, 'run_all', lambda todo: pytest.fail('something ran'))
  monkeypatch.setenv('ECHOX_MODELS', 'overwritten')
  big = '--config=configs/echox_8b.py'
  argv = ['train', 's2t', '--workdir=gs://b/w', big, '--models=gs://b/models', '--dry_run']
  assert job.main(argv) == 0
  assert capsys.readouterr().out == f'python -m launch.train {big}:s2t --workdir=gs://b/w\n'
  assert os.environ['ECHOX_MODELS'] == 'gs://b/models'


def test_pretrained_parts_lie_where_the_job_says(monkeypatch):
  from configs import echox_8b

  assert echox_8b.get_config('s2t').train.init_from[0] == 'models/llama-3.1-8b'
  monkeypatch.setenv('ECHOX_MODELS', 'gs://b/models/')
  config = echox_8b.get_config('s2t')
  assert config.train.init_from == ('gs://b/models/llama-3.1-8b', 'gs://b/models/whisper-large-v3')
  assert config.precompute.kmeans == 'gs://b/models/kmeans/kmeans.safetensors'
  assert config.tokenizer.model == 'gs://b/models/llama-3.1-8b/tokenizer.json'


SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_NTASKS': '2',
  'SLURM_STEP_NODELIST': 'n[1-2]',
  'SLURM_STEP_TASKS_PER_NODE': '1(x2)',
}


@pytest.mark.parametrize(
  'environ, first',
  [
    ({}, True),
    (SLURM | {'SLURM_PROCID': '0'}, True),
    (SLURM | {'SLURM_PROCID': '1'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a,b', 'TPU_WORKER_ID': '0'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'a,b', 'TPU_WORKER_ID': '1'}, False),
    (
      {
        'TPU_WORKER_HOSTNAMES': 'a',
        'TPU_WORKER_ID': '0',
        'MEGASCALE_NUM_SLICES': '2',
        'MEGASCALE_SLICE_ID': '1',
      },
      False,
    ),
  ],
)
def test_which_host_is_the_first(environ, first, monkeypatch):
  monkeypatch.setattr(distributed.importlib.util, 'find_spec', lambda name: object())
  monkeypatch.setattr(distributed, '_metadata', lambda key: '')
  assert distributed.is_first_host(environ) == first


def test_hosts_without_such_variables_ask_the_metadata_server(monkeypatch):
  monkeypatch.setattr(distributed.importlib.util, 'find_spec', lambda name: object())
  monkeypatch.setattr(distributed.glob, 'glob', lambda pattern: ['/dev/accel0'])
  told = {
    'worker-network-endpoints': 'w0:8470:10.0.0.1,w1:8470:10.0.0.2',
    'agent-worker-number': '1',
    'tpu-env': '',
  }
  monkeypatch.setattr(distributed, '_metadata', told.get)
  assert not distributed.is_first_host({})
  told['agent-worker-number'] = '0'
  assert distributed.is_first_host({})
  told['tpu-env'] = "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
  assert not distributed.is_first_host({})


def test_the_first_host_exports_alone_on_its_cpu(monkeypatch, capfd):
  code = 'import os; print("did it on", os.environ.get("JAX_PLATFORMS"))'
  alone = Step('export', '', ('timeit', '-n1', '-r1', code), alone=True)
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  with steps.Runner() as runner:
    assert runner.run(alone) == 0
    assert 'did it on cpu' in capfd.readouterr().out
    monkeypatch.setattr(distributed, 'is_first_host', lambda environ: False)
    assert runner.run(alone) == 0
    assert 'did it' not in capfd.readouterr().out


def test_parts_keep_their_memory_unless_the_user_says_otherwise(monkeypatch, capfd):
  code = 'import os; print([os.environ[name] for name in ("MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")])'
  monkeypatch.delenv('MALLOC_MMAP_MAX_', raising=False)
  monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=0')
  with steps.Runner() as runner:
    runner.run(Step('any', '', ('timeit', '-n1', '-r1', code)))
  assert "['0', 'glibc.malloc.hugetlb=0']" in capfd.readouterr().out


def test_evaluate_wants_one_host(monkeypatch):
  for name, value in (SLURM | {'SLURM_PROCID': '0'}).items():
    monkeypatch.setenv(name, value)
  with pytest.raises(errors.EchoXError, match='evaluate runs on one host and this job has several'):
    job.main(['evaluate', '--workdir=w'])


PART = """
  import os, signal, sys, time
  from pathlib import Path

  folder, name, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

  def stop(*_):
    with open(folder / f'{name}.told', 'a') as f:
      f.write('x')
    if how == 'saves':
      time.sleep(0.3)  # a second signal comes meanwhile
      sys.exit(143)

  if how != 'deaf':
    signal.signal(signal.SIGTERM, stop)
  (folder / f'{name}.started').touch()
  until = time.monotonic() + (0 if how == 'quick' else 20)
  while time.monotonic() < until and not (how == 'finishes' and (folder / f'{name}.told').exists()):
    time.sleep(0.02)
"""
DRIVER = """
  import sys
  from launch import cli, steps
  parts = [part.split('=') for part in sys.argv[2:]]
  todo = [steps.Step(n, n, ('part', sys.argv[1], n, how)) for n, how in parts]
  cli.run(lambda: steps.run_all(todo))
"""


@pytest.fixture
def started(tmp_path):
  """Starts a run of parts in a process group of its own, and waits until one has started."""
  (tmp_path / 'part.py').write_text(textwrap.dedent(PART))
  running = []

  def start(*parts, wait_for):
    driver = [sys.executable, '-c', textwrap.dedent(DRIVER), str(tmp_path), *parts]
    environ = os.environ | {'PYTHONPATH': f'{ROOT}:{tmp_path}', 'JAX_PLATFORMS': 'cpu'}
    process = subprocess.Popen(
      driver, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    running.append(process)
    deadline = time.monotonic() + 60
    while not (tmp_path / f'{wait_for}.started').exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.02)
    return process

  yield start
  for process in running:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_sigterm_to_the_job_alone_reaches_the_part_and_ends_the_rest(started, tmp_path):
  """As in a container, where the job is the process that the runtime signals."""
  process = started('one=quick', 'two=saves', 'three=quick', wait_for='two')
  process.terminate()
  assert process.wait(30) == 143
  assert (tmp_path / 'two.told').exists() and not (tmp_path / 'three.started').exists()


def test_a_part_that_is_told_twice_saves_once(started, tmp_path):
  """As under Slurm, which signals all processes: the job passes the signal on all the same."""
  process = started('one=saves', wait_for='one')
  os.killpg(process.pid, signal.SIGTERM)
  assert process.wait(30) == 143


def test_a_part_that_dies_of_the_signal_counts_as_stopped(started):
  """Precompute, or a stage that still compiles: nothing is lost, and the job is to start again."""
  process = started('one=deaf', 'two=quick', wait_for='one')
  process.terminate()
  assert process.wait(30) == 143


def test_a_part_that_finishes_all_the_same_is_finished(started, tmp_path):
  process = started('one=finishes', wait_for='one')
  process.terminate()
  assert process.wait(30) == 0


def test_a_part_that_another_host_stopped_stops_this_job(tmp_path, monkeypatch):
  """The processes agreed to stop: this host got no signal of its own."""
  stopped = Step('one', '', ('timeit', '-n1', '-r1', 'import os; os._exit(143)'))
  never = Step('two', '', ('no_such_module',))
  assert steps.run_all([stopped, never]) == distributed.STOPPED


def test_the_pipeline_reports_a_stop(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(pipeline, 'run_all', lambda todo: distributed.STOPPED)
  assert pipeline.main([NANO, f'--workdir={tmp_path}']) == 143
  assert 'the model is in' not in capsys.readouterr().out
