"""Launch recipes: what they run, with flags that the tools have, and what they do when a slice is
taken away.
"""

import itertools
import json
from pathlib import Path
import re
import shlex
import shutil
import string
import subprocess
import sys

import pytest

from launch import job, pipeline, serve, train
from tests.helpers import cloud_flags, cloud_tools
from tests.helpers.paths import ROOT

CLOUD = ROOT / 'launch' / 'cloud'
BIN = Path(sys.executable).parent
JOB = ('train', 's2t', '--config=configs/echox_nano.py', '--workdir=gs://bucket/work')
VALUES = dict(
  NAME='echox',
  IMAGE='registry/echox:1',
  JOB=' '.join(JOB),
  ACCELERATOR='tpu-v5-lite-podslice',
  TOPOLOGY='4x4',
  HOSTS='4',
  CHIPS_PER_HOST='4',
  SLICES='2',
)
IMAGE = 'us-docker.pkg.dev/project/echox/echox:1'
SLICE = ('--name', 'job', '--type', 'v5litepod-16', '--zone', 'zone', '--project', 'project')


@pytest.fixture
def tools(tmp_path):
  """Stand-ins for the tools; what the recipes called has flags that the tools have."""
  made = cloud_tools.make(tmp_path)
  yield made
  known = cloud_flags.table()
  for call in made.calls():
    if call[0] in known:
      assert cloud_flags.check(call, known) is None, call


def tpu_vm(tools, *more, words=JOB, **environ):
  command = (CLOUD / 'tpu_vm.sh', *SLICE, '--image', IMAGE, *more, '--', *words)
  return tools.run(*command, **environ)


def check_job(words):
  """The training job of `... launch.job ARGUMENTS`, as launch.job and launch.train read it."""
  (step,) = job.steps(*job.parse(list(words)[list(words).index('launch.job') + 1 :]))
  pipeline.check(step)
  return train.parse(list(step.command))


# --- TPU VMs.


def test_one_slice_runs_the_job_in_a_container(tools):
  assert tpu_vm(tools, '--spot', '--service-account', 'me@project').returncode == 0
  (create,) = tools.said('queued-resources', 'create')
  assert '--spot' in create and create[create.index('--service-account') + 1] == 'me@project'
  assert create[create.index('--node-id') + 1] == 'job'
  assert create[create.index('--accelerator-type') + 1] == 'v5litepod-16'
  (ssh,) = tools.said('ssh')
  assert '--worker=all' in ssh
  (started,) = tools.said('docker', 'run')
  experiment, options = check_job(started)
  assert (experiment.stage, options.workdir) == ('s2t', 'gs://bucket/work')
  assert IMAGE in started and '--detach' in started
  assert ['gcloud', 'auth', 'configure-docker', 'us-docker.pkg.dev', '--quiet'] in tools.calls()
  assert not tools.said('delete')  # the next job uses the same slice


@pytest.mark.slow
def test_several_slices_start_together(tools):
  assert tpu_vm(tools, '--slices', '3').returncode == 0
  (create,) = tools.said('queued-resources', 'create')
  assert create[10:14] == ['--node-count', '3', '--node-prefix', 'job']
  nodes = sorted(call[5] for call in tools.said('ssh'))
  assert nodes == ['job-0', 'job-1', 'job-2']
  for started in tools.said('docker', 'run'):
    assert check_job(started)[0].mesh.dcn_data == 3


def test_a_dry_run_prints_everything_and_runs_nothing(tools):
  done = tpu_vm(tools, '--spot', '--delete', '--dry-run')
  assert done.returncode == 0 and not tools.calls()
  told = [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith('+ ')]
  assert [words[3] for words in told] == ['queued-resources', 'tpu-vm', 'queued-resources']
  assert [words[4] for words in told] == ['create', 'ssh', 'delete']
  assert shlex.split(told[1][-1]) == ['on_host', IMAGE, 'echox', '', *JOB]
  assert all(cloud_flags.check(words) is None for words in told)


def test_a_slice_that_was_taken_away_is_asked_for_anew_and_the_job_goes_on(tools):
  tools.write('script', '255 SUSPENDED\n143 SUSPENDED\n')
  done = tpu_vm(tools, '--spot', '--delete')
  assert done.returncode == 0 and done.stdout.count('was taken away') == 2
  order = [call[4] for call in tools.calls() if call[:2] == ['gcloud', 'compute']]
  assert [word for word in order if word != 'describe'] == [
    *('create', 'ssh', 'delete', 'create', 'ssh', 'delete', 'create', 'ssh', 'delete')
  ]
  assert len(tools.said('docker', 'run')) == 1  # the first two hosts were gone


def test_a_job_that_stopped_after_saving_goes_on_where_the_slice_still_is(tools):
  tools.write('script', '143 ACTIVE\n')
  done = tpu_vm(tools)
  assert done.returncode == 0 and 'saved its state and stopped' in done.stdout
  assert len(tools.said('create')) == 1 and len(tools.said('ssh')) == 2


def test_a_job_that_fails_by_itself_is_not_repeated(tools):
  tools.write('code', '2\n')
  done = tpu_vm(tools, '--delete')
  assert done.returncode == 2 and 'the job ended with exit code 2' in done.stderr
  assert len(tools.said('ssh')) == 1 and not tools.said('delete')


def test_a_lost_connection_is_made_again_but_not_for_ever(tools):
  tools.write('script', '255 ACTIVE\n' * 3)
  assert tpu_vm(tools).returncode == 0
  assert len(tools.said('ssh')) == 4
  tools.write('script', '255 ACTIVE\n' * 40)
  assert tpu_vm(tools).returncode == 255


def test_a_request_that_failed_is_told(tools):
  done = tpu_vm(tools, CREATED='FAILED')
  assert done.returncode == 2 and 'has FAILED' in done.stderr and not tools.said('ssh')


def test_a_running_job_is_shown_and_another_one_refused(tools):
  tools.write('state', 'ACTIVE\n')
  tools.write('container', f'true -m launch.job {" ".join(JOB)}\n')
  assert tpu_vm(tools).returncode == 0
  assert tools.said('docker', 'logs') and not tools.said('docker', 'run')
  done = tpu_vm(tools, words=('train', 't2c', *JOB[2:]))
  assert done.returncode == 2 and 'another job runs here' in done.stderr
  assert not tools.said('docker', 'run')


def test_fuse_mounts_with_the_options_that_work(tools):
  assert (
    tpu_vm(tools, '--fuse', 'bucket', words=(*JOB[:3], '--workdir=/mnt/echox/w')).returncode == 0
  )
  (mount,) = [call for call in tools.calls() if call[0] == 'gcsfuse']
  options = dict(itertools.pairwise(mount))
  assert '--implicit-dirs' in mount and int(options['--rename-dir-limit']) > 10_000
  assert (
    options['--metadata-cache-ttl-secs'] == options['--metadata-cache-negative-ttl-secs'] == '0'
  )
  assert mount[-2:] == ['bucket', '/mnt/echox']
  (started,) = tools.said('docker', 'run')
  assert '/mnt/echox:/mnt/echox' in started


@pytest.mark.parametrize(
  'command, sentence',
  [
    (('tpu_vm.sh', '--name', 'x'), '--type is missing'),
    (('tpu_vm.sh', '--chips', '4'), '--chips is not an option'),
    (('tpu_vm.sh', *SLICE, '--image', IMAGE), 'the job is missing'),
    (('tpu_vm.sh', *SLICE, '--image', IMAGE, '--slices', '0', '--', 'export'), '--slices is 0'),
    (('train.sbatch',), 'the job is missing'),
  ],
)
def test_incomplete_commands_are_refused(command, sentence, tools):
  done = tools.run(CLOUD / command[0], *command[1:])
  assert done.returncode == 2 and sentence in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


# --- Slurm.


def test_slurm_task(tools):
  done = tools.run(CLOUD / 'train.sbatch', '--dry-run', *JOB)
  assert done.returncode == 0 and not tools.calls()
  assert check_job(shlex.split(done.stdout))[0].stage == 's2t'


def test_the_options_of_the_slurm_job_exist():
  lines = re.findall(r'^#SBATCH (.*)$', (CLOUD / 'train.sbatch').read_text(), re.M)
  assert '--requeue' in lines and '--signal=TERM@300' in lines
  assert cloud_flags.check(['sbatch', *lines, 'train.sbatch']) is None


@pytest.mark.parametrize('code, requeued', [(143, True), (0, False), (2, False)])
def test_slurm_starts_a_stopped_job_again(tools, tmp_path, code, requeued):
  """In a source tree with an environment."""
  (tmp_path / 'tree' / '.venv' / 'bin').mkdir(parents=True)
  python = tmp_path / 'tree' / '.venv' / 'bin' / 'python'
  python.touch(mode=0o755)
  tools.write('code', f'{code}\n')
  run = ['bash', '-c', f'cd {tmp_path}/tree && {CLOUD}/train.sbatch "$@"', 'x', *JOB]
  assert tools.run(*run, SLURM_JOB_ID='77').returncode == code
  assert tools.said('scontrol', 'requeue', '77') == [['scontrol', 'requeue', '77']] * requeued
  assert tools.said('srun', '--kill-on-bad-exit=1')


# --- GKE.


def jobset(fuse=False, **values):
  yaml = pytest.importorskip('yaml')
  text = (CLOUD / 'jobset.yaml').read_text()
  if fuse:
    text = text.replace('# fuse: ', '')
  return yaml.safe_load(string.Template(text).substitute(VALUES | {'BUCKET': 'bucket'} | values))


def wrong(value, schema, path=''):
  """Where a manifest breaks a schema, or None."""
  kinds = {'object': dict, 'array': list, 'string': str, 'integer': int, 'boolean': bool}
  kind = schema.get('type')
  if kind in kinds and not isinstance(value, kinds[kind]):
    return f'{path} is no {kind}'
  if 'enum' in schema and value not in schema['enum']:
    return f'{path} is {value!r}'
  inner = []
  if 'properties' in schema:
    missing = [name for name in schema.get('required', ()) if name not in value]
    if missing or value.keys() - schema['properties'].keys():
      return f'{path}: {missing or value.keys() - schema["properties"].keys()}'
    inner = [(name, value[name], schema['properties'][name]) for name in value]
  elif 'additionalProperties' in schema:
    inner = [(name, value[name], schema['additionalProperties']) for name in value]
  elif kind == 'array':
    inner = [(i, entry, schema['items']) for i, entry in enumerate(value)]
  found = (wrong(entry, below, f'{path}/{name}') for name, entry, below in inner)
  return next((one for one in found if one), None)


# From JobSet's resource definition (config/components/crd/bases of kubernetes-sigs/jobset, commit
# 08dfbdfd): all names of every level that the recipe uses, types and choices of what it sets.
SCHEMA = json.loads((ROOT / 'tests' / 'helpers' / 'jobset_schema.json').read_text())


@pytest.mark.parametrize('fuse', [False, True])
def test_the_jobset_is_what_jobset_and_kubernetes_know(fuse):
  """Names and types as in the resource definition of JobSet of August 2026."""
  made = jobset(fuse)
  assert wrong(made, SCHEMA) is None
  made['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']['hostNet'] = True
  assert 'hostNet' in wrong(made, SCHEMA)
  made['spec']['failurePolicy']['rules'][0]['action'] = 'Restart'
  assert 'action' in wrong(
    made['spec']['failurePolicy'], SCHEMA['properties']['spec']['properties']['failurePolicy']
  )


def test_the_jobset_runs_the_job_on_every_host():
  made = jobset()
  assert (made['apiVersion'], made['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  (replicated,) = made['spec']['replicatedJobs']
  inner = replicated['template']['spec']
  assert replicated['replicas'] == 2 and inner['parallelism'] == inner['completions'] == 4
  pod = inner['template']['spec']
  (container,) = pod['containers']
  assert container['command'][:2] == ['sh', '-c'] and container['command'][2].startswith('exec ')
  experiment, options = check_job(shlex.split(container['command'][2]))
  assert experiment.stage == 's2t' and experiment.mesh.dcn_data == 2
  assert options.workdir == 'gs://bucket/work'
  assert (
    container['resources']['limits'] == container['resources']['requests'] == {'google.com/tpu': 4}
  )
  assert pod['nodeSelector']['cloud.google.com/gke-tpu-topology'] == '4x4'
  assert [volume['name'] for volume in pod['volumes']] == ['memory']
  assert not inner['template'].get('metadata')


def test_what_is_taken_away_starts_again_uncounted_and_failures_do_not():
  """A pod that is evicted, or ends with 143, fails its job for the reason PodFailurePolicy; any
  other failure has another reason and counts.
  """
  spec = jobset()['spec']
  inner = spec['replicatedJobs'][0]['template']['spec']
  evicted, stopped = inner['podFailurePolicy']['rules']
  assert evicted['action'] == stopped['action'] == 'FailJob'
  assert evicted['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]
  assert stopped['onExitCodes'] == {'operator': 'In', 'values': [143]}
  assert inner['template']['spec']['restartPolicy'] == 'Never' and inner['backoffLimit'] == 0
  (rule,) = spec['failurePolicy']['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert 0 < spec['failurePolicy']['maxRestarts'] <= 5


def test_the_bucket_is_mounted_where_one_asks_for_it():
  pod = jobset(True)['spec']['replicatedJobs'][0]['template']['spec']['template']
  assert pod['metadata']['annotations'] == {'gke-gcsfuse/volumes': 'true'}
  mounts = {
    mount['name']: mount['mountPath'] for mount in pod['spec']['containers'][0]['volumeMounts']
  }
  assert mounts == {'memory': '/dev/shm', 'bucket': '/gcs'}
  (volume,) = [v for v in pod['spec']['volumes'] if v['name'] == 'bucket']
  options = volume['csi']['volumeAttributes']['mountOptions'].split(',')
  assert 'implicit-dirs' in options and 'metadata-cache:ttl-secs:0' in options
  assert any(re.fullmatch(r'rename-dir-limit=\d{5,}', option) for option in options)


# --- Images and scripts.


def lint(*command):
  tool = BIN / command[0]
  if not tool.exists():
    pytest.skip(f'{command[0]} is not installed in this environment')
  done = subprocess.run([tool, *command[1:]], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('name', ['Dockerfile', 'serve.Dockerfile'])
def test_dockerfiles_are_clean(name):
  lint('hadolint', '--failure-threshold', 'warning', CLOUD / name)


@pytest.mark.parametrize('name', ['tpu_vm.sh', 'train.sbatch'])
def test_scripts_are_clean(name):
  lint('shellcheck', CLOUD / name)


def test_the_image_holds_what_the_jobs_need():
  text = (CLOUD / 'Dockerfile').read_text()
  (extras,) = re.findall(r'-e "\.\[([\w,]+),\$\{ACCELERATOR\}\]"', text)
  known = re.findall(r'^(\w+) =$', (ROOT / 'setup.cfg').read_text(), re.M)
  assert {'train', 'eval', 'demo', 'gcs'} == set(extras.split(','))
  assert {*extras.split(','), 'tpu', 'cuda'} <= set(known)
  ignored = (ROOT / '.dockerignore').read_text().split()
  assert {'.git/', '.venv*/', 'out/'} <= set(ignored)


def test_cloud_build_makes_this_image():
  yaml = pytest.importorskip('yaml')
  made = yaml.safe_load((CLOUD / 'image.yaml').read_text())
  (step,) = made['steps']
  assert cloud_flags.check(['docker', *step['args']]) is None
  assert (ROOT / step['args'][step['args'].index('-f') + 1]).is_file()
  assert made['images'] == [step['args'][step['args'].index('-t') + 1]] == ['${_IMAGE}']


@pytest.mark.slow
def test_the_image_builds_and_runs():
  if (
    not shutil.which('docker') or subprocess.run(['docker', 'info'], capture_output=True).returncode
  ):
    pytest.skip('no docker daemon runs here')
  tag = 'echox-test'
  build = ['docker', 'build', '-f', str(CLOUD / 'Dockerfile'), '-t', tag, '.']
  subprocess.run(build, cwd=ROOT, check=True, timeout=3600)
  words = ['python', '-m', 'launch.job', *JOB, '--dry_run']
  done = subprocess.run(
    ['docker', 'run', '--rm', '-e', 'JAX_PLATFORMS=cpu', tag, *words],
    check=True,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.stdout.startswith('python -m launch.train --config=configs/echox_nano.py:s2t')


def test_the_deployment_runs_the_server_and_asks_whether_it_is_ready():
  yaml = pytest.importorskip('yaml')
  text = string.Template((CLOUD / 'serve.yaml').read_text())
  values = {'NAME': 'talk', 'IMAGE': 'registry/talk:1', 'BUCKET': 'bucket', 'FOLDER': 'model'}
  deployment, service = yaml.safe_load_all(text.safe_substitute(values))
  pod = deployment['spec']['template']['spec']
  (container,) = pod['containers']
  assert container['command'] == ['python', '-m', 'launch.serve']
  options = serve.parse(container['args'])
  assert (options.host, str(options.checkpoint)) == ('0.0.0.0', '/gcs/model') and options.token
  assert pod['terminationGracePeriodSeconds'] > options.stop_seconds
  assert container['readinessProbe']['httpGet'] == {'path': '/readyz', 'port': options.port}
  assert container['ports'] == [{'containerPort': options.port}]
  assert service['spec']['ports'][0]['targetPort'] == options.port
  assert service['spec']['selector'] == deployment['spec']['template']['metadata']['labels']


def test_the_image_runs_the_server():
  (command,) = re.findall(
    r'exec python -m launch.serve (.*)"\]', (CLOUD / 'serve.Dockerfile').read_text()
  )
  options = serve.parse(shlex.split(command.replace('\\"', '"').replace('$TOKEN', 'some-token')))
  assert (options.host, options.token) == ('0.0.0.0', 'some-token')
