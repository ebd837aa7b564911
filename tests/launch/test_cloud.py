"""Launch recipes: what they would run, and that the commands in them are ones that exist."""

import os
import re
import shlex
import string
import subprocess

import pytest

from launch import serve, train
from tests.helpers.paths import ROOT

CLOUD = ROOT / 'launch' / 'cloud'
VALUES = dict(
  NAME='echox',
  IMAGE='registry/echox:1',
  CONFIG='configs/echox_nano.py:s2t',
  BUCKET='bucket',
  ACCELERATOR='tpu-v5-lite-podslice',
  TOPOLOGY='4x4',
  HOSTS='4',
  CHIPS_PER_HOST='4',
  SLICES='2',
)


def run(*command):
  """Exit code, standard output, standard error; with no cloud tool on the path."""
  done = subprocess.run(
    [str(word) for word in command],
    capture_output=True,
    text=True,
    cwd=CLOUD.parents[1],
    env={'PATH': os.defpath},
  )
  return done.returncode, done.stdout, done.stderr


def tpu_vm(*more):
  return run(
    CLOUD / 'tpu_vm.sh',
    '--name',
    'job',
    '--type',
    'v5litepod-16',
    '--zone',
    'zone',
    '--project',
    'project',
    '--bucket',
    'bucket',
    '--config',
    'configs/echox_8b.py:s2t',
    '--dry-run',
    *more,
  )


def parsed(command):
  """The training job of `... -m launch.train OPTIONS`, as launch.train itself reads it."""
  start = command.index('launch.train')
  return train.parse(command[start:])


def test_one_slice():
  code, printed, _ = tpu_vm('--spot', '--', '--config.train.steps=7')
  lines = [shlex.split(line[2:]) for line in printed.splitlines()]
  assert code == 0 and all(line.startswith('+ ') for line in printed.splitlines())
  create = lines[0]
  assert (
    create[:5] == ['gcloud', 'compute', 'tpus', 'queued-resources', 'create'] and '--spot' in create
  )
  assert (
    create[create.index('--node-id') + 1] == 'job'
    and create[create.index('--accelerator-type') + 1] == 'v5litepod-16'
  )
  command = shlex.split(lines[-1][-1])
  assert command[3:6] == ['python3.11', '-m', 'launch.train']
  experiment, options = parsed(command)
  assert (experiment.stage, experiment.train.steps) == ('s2t', 7)
  assert experiment.model.llm.num_layers == 32 and options.workdir == '/mnt/echox/work'


def test_several_slices_start_together():
  _, printed, _ = tpu_vm('--slices', '3')
  assert '--node-count 3 --node-prefix job' in printed.splitlines()[0]
  trains = [line for line in printed.splitlines() if 'launch.train' in line]
  assert sorted(re.search(r'ssh (\S+)', line)[1] for line in trains) == ['job-0', 'job-1', 'job-2']
  for line in trains:
    experiment, _ = parsed(shlex.split(shlex.split(line[2:])[-1]))
    assert experiment.mesh.dcn_data == 3


@pytest.mark.parametrize(
  'command, sentence',
  [
    (('tpu_vm.sh', '--name', 'x'), '--type is missing'),
    (('tpu_vm.sh', '--chips', '4'), '--chips is not an option'),
    (('train.sbatch', '--workdir=/x'), '--config= is missing'),
  ],
)
def test_incomplete_commands_are_refused(command, sentence):
  code, _, said = run(CLOUD / command[0], *command[1:])
  assert code == 2 and sentence in said and len(said.strip().splitlines()) == 1


def test_slurm_task():
  code, printed, _ = run(
    CLOUD / 'train.sbatch',
    '--dry-run',
    '--config=configs/echox_8b.py:echo',
    '--workdir=/shared/work',
  )
  assert code == 0
  experiment, options = parsed(shlex.split(printed))
  assert (experiment.stage, options.distributed) == ('echo', 'slurm')
  assert options.workdir == '/shared/work'


def test_jobset_is_whole_and_well_formed():
  yaml = pytest.importorskip('yaml')
  text = string.Template((CLOUD / 'jobset.yaml').read_text())
  used = {
    name
    for found in text.pattern.finditer(text.template.split('apiVersion', 1)[1])
    if (name := found['braced'])
  }
  assert used == VALUES.keys()
  job = yaml.safe_load(text.safe_substitute(VALUES))
  assert (job['apiVersion'], job['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  (replicated,) = job['spec']['replicatedJobs']
  inner = replicated['template']['spec']
  assert replicated['replicas'] == 2 and inner['parallelism'] == inner['completions'] == 4
  pod = inner['template']['spec']
  (container,) = pod['containers']
  experiment, options = parsed(container['command'] + container['args'])
  assert experiment.stage == 's2t' and experiment.mesh.dcn_data == 2
  assert options.workdir.startswith('/')
  assert (
    container['resources']['limits'] == container['resources']['requests'] == {'google.com/tpu': 4}
  )
  assert {mount['name'] for mount in container['volumeMounts']} == {
    volume['name'] for volume in pod['volumes']
  }
  assert pod['nodeSelector']['cloud.google.com/gke-tpu-topology'] == '4x4'


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
