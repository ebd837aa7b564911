"""Reading in as processes: killed at any moment, it goes on as if nothing had been."""

from concurrent import futures
import functools
import itertools
import json
import socket

import pytest

from echox_jax import storage
from tests.helpers import corpus_jobs, kills, recordings
from tests.helpers.processes import run_python, start_job


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return corpus_jobs.write_source(tmp_path_factory.mktemp('source'))


@pytest.fixture(scope='module')
def whole(source, tmp_path_factory):
  data = tmp_path_factory.mktemp('whole')
  corpus_jobs.build(source, data)
  return recordings.content(data)


@pytest.mark.parametrize(
  'place, count',
  [
    ('disk', 3),
    pytest.param('disk', 20, marks=pytest.mark.slow),
    pytest.param('bucket', 20, marks=pytest.mark.slow),
  ],
)
def test_killed_at_any_moment(request, source, whole, tmp_path, place, count):
  """Now and then two processes go on where one was."""
  folder = storage.path(
    tmp_path / 'data' if place == 'disk' else request.getfixturevalue('bucket_folder')
  )

  def start(data, processes, begun):
    meeting = begun.with_name(f'{begun.name}-meeting')
    meeting.mkdir()
    options = dict(source=str(source), data=str(data), meeting=str(meeting), begun=str(begun))
    return [
      start_job(
        'tests.helpers.corpus_jobs',
        options | {'processes': processes, 'process': i},
        tmp_path / 'compiled',
      )
      for i in range(processes)
    ]

  job = kills.Job(start, functools.partial(kills.finished_outputs, name='corpus-'), several=True)
  seconds, _ = kills.whole_run(job, folder / 'whole', tmp_path / 'begun')
  assert recordings.content(folder / 'whole') == whole
  folders = (folder / str(i) for i in itertools.count())
  for data, _ in kills.killed_runs(job, folders, count, seconds, tmp_path):
    assert recordings.content(data) == whole


@pytest.mark.slow
def test_the_command_on_two_hosts(source, whole, tmp_path):
  """As `launch.corpus` does it: the processes find one another by JAX."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  command = ['--manifest', str(source), '--data', str(tmp_path / 'data'), '--shard_examples', '2']
  command += ['--max_quarantined', '0.2', '--coordinator', f'localhost:{port}']
  command += ['--num_processes', '2', '--workers', '2', '--process_id']
  with futures.ThreadPoolExecutor(2) as pool:
    first, second = pool.map(lambda i: run_python('-m', 'launch.corpus', *command, i), range(2))
  summary = json.loads(first[first.index('{') :])  # after what JAX prints
  assert summary['quarantined'] == {'damaged': 1} and '{' not in second
  assert recordings.content(tmp_path / 'data') == whole
