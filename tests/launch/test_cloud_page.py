"""Every command of launch/cloud/README.md runs, in order, against stand-ins for the cloud's tools;
what they are called with are flags that they have, and jobs that our own commands accept.
"""

import contextlib
import importlib
import io
import re

import pytest

from launch import job, pipeline, plan
from launch.steps import Step
from tests.helpers import cloud_flags, cloud_tools
from tests.helpers.paths import ROOT

PAGE = (ROOT / 'launch' / 'cloud' / 'README.md').read_text()
BLOCKS = re.findall(r'^```bash\n(.*?)^```$', PAGE, re.M | re.S)


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """The tools after all blocks of the page have run in one shell, as somebody would paste them."""
  tools = cloud_tools.make(tmp_path_factory.mktemp('cloud'))
  script = 'set -euo pipefail\n' + '\n'.join(BLOCKS) + '\necho the end of the page\n'
  done = tools.run('bash', '-c', script)
  assert done.returncode == 0 and done.stdout.endswith('the end of the page\n'), done.stderr
  return tools


def own(tools):
  """(module, arguments) of every command of ours on the page, wherever it runs."""
  for call in tools.calls():
    if '-m' in call and call[0] in ('python', 'mpirun', 'docker'):
      start = call.index('-m')
      yield call[start + 1], call[start + 2 :]
  for call in tools.said('sbatch'):
    yield 'launch.job', call[call.index('launch/cloud/train.sbatch') + 1 :]
  (xpk,) = tools.said('xpk')
  (command,) = [word for word in xpk if word.startswith('--command=')]
  yield 'launch.job', command.split('launch.job ', 1)[1].split()


def test_the_tools_know_their_flags(ran):
  known = cloud_flags.table()
  calls = [call for call in ran.calls() if call[0] in known]
  assert len(calls) > 60
  for call in calls:
    assert cloud_flags.check(call, known) is None, call


def test_our_commands_accept_their_arguments(ran):
  seen = set()
  for module, arguments in own(ran):
    seen.add(module)
    if module == 'launch.job':
      for step in job.steps(*job.parse(arguments)):
        accept(step.command[0], step.command[1:])
    else:
      accept(module, arguments)
  assert {'launch.job', 'launch.train', 'launch.plan', 'launch.compile_check'} <= seen


def accept(module, arguments):
  """A command reads its arguments, or its help lists its options."""
  if module in ('launch.train', 'launch.precompute'):
    pipeline.check(Step(module, '', (module, *arguments)))
  elif module == 'launch.plan':
    args, rest = plan.parse(arguments)
    plan.find_chip(args.chip)
    assert not rest
  else:
    options = {word.partition('=')[0] for word in arguments if word.startswith('--')}
    known = told(module, [word for word in arguments[:1] if not word.startswith('-')])
    assert options - {'--config'} <= known, (module, options - known)


_TOLD = {}


def told(module, verb):
  """The options in the help of a command."""
  if (module, *verb) not in _TOLD:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
      patch.setattr('sys.argv', [module, *verb, '--help'])
      with contextlib.suppress(SystemExit):
        importlib.import_module(module).main()
    _TOLD[module, *verb] = set(re.findall(r'--[\w-]+', printed.getvalue()))
  return _TOLD[module, *verb]


def test_the_page_goes_all_the_way(ran):
  """Project, bucket, account, image, slice, every verb, clean up."""
  for words in (
    ('projects', 'create'),
    ('services', 'enable'),
    ('buckets', 'create'),
    ('service-accounts', 'create'),
    ('builds', 'submit'),
    ('queued-resources', 'create'),
    ('queued-resources', 'delete'),
    ('projects', 'delete'),
  ):
    assert ran.said('gcloud', *words), words
  verbs = [arguments[0] for module, arguments in own(ran) if module == 'launch.job']
  assert set(verbs) == set(job.VERBS)


def test_the_names_of_the_page_are_used(ran):
  """The hosts get the service account and the image that the page makes."""
  (made,) = ran.said('service-accounts', 'create')
  first = ran.said('queued-resources', 'create')[0]
  assert 'echox@my-echox.iam.gserviceaccount.com' in first and made[4] == 'echox'
  (built,) = ran.said('builds', 'submit')
  (image,) = [word.partition('_IMAGE=')[2] for word in built if '_IMAGE=' in word]
  assert all(image in call for call in ran.said('docker', 'run'))
  assert any(word.endswith('echox@my-echox.iam.gserviceaccount.com') for word in built)


def test_the_jobset_of_the_page_is_whole(ran):
  """Once as a dry run, once in earnest."""
  yaml = pytest.importorskip('yaml')
  start = 'apiVersion: jobset'
  texts = (ran.folder / 'manifest').read_text().split(start)[1:]
  first, second = (yaml.safe_load(start + text.split('\n# ')[0]) for text in texts)
  assert first == second and first['metadata']['name'] == 'echox-8b'
  assert '${' not in str(first)
  pod = first['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
  command = pod['containers'][0]['command'][-1]
  args, _ = job.parse(command.split('launch.job ', 1)[1].split())
  assert (args.verb, args.workdir) == ('pipeline', 'gs://my-echox-work/8b')


def test_no_block_is_left_out():
  """Other fences hold no commands."""
  fences = re.findall(r'^```(\w*)$', PAGE, re.M)
  assert fences.count('bash') == len(BLOCKS) and set(fences) == {'bash', ''}
  assert PAGE.count('None of these recipes has run on real hardware yet') == 1


def test_a_wrong_command_is_noticed():
  known = cloud_flags.table()
  for words, sentence in (
    ('gcloud storage buckets create gs://b --regon=x', 'has no flag --regon'),
    ('gcloud storage bucket create gs://b', 'has no command'),
    ('gcloud compute tpus queued-resources create q --spot --zone', 'lacks its value'),
    ('gcloud storage cp a b --project=', 'is empty'),
    ('kubectl apply --file x', 'has no flag --file'),
    ('docker run --shm 16g image python --anything', 'has no flag --shm'),
    ('helm install x', 'is not in the table'),
  ):
    assert sentence in (cloud_flags.check(words.split(), known) or ''), words
  assert cloud_flags.check('docker run --rm image python --anything'.split(), known) is None
