"""Reading in as processes: killed at any moment, it goes on as if nothing had been."""

from concurrent import futures
import json
import random
import signal
import socket
import time

import pytest

from tests.helpers import corpus_jobs, recordings
from tests.helpers.processes import run_python, start_job


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return corpus_jobs.write_source(tmp_path_factory.mktemp('source'))


@pytest.fixture(scope='module')
def whole(source, tmp_path_factory):
  data = tmp_path_factory.mktemp('whole')
  corpus_jobs.build(source, data)
  return recordings.content(data)


def start(source, data, processes, run):
  """Starts the processes of a run."""
  meeting = data.with_name(f'{data.name}-{run}')
  meeting.mkdir()
  options = dict(source=str(source), data=str(data), processes=processes, meeting=str(meeting))
  return [
    start_job('tests.helpers.corpus_jobs', options | {'process': i}, data.with_name('compiled'))
    for i in range(processes)
  ]


def finish(processes):
  for process in processes:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out[-2000:] + err[-4000:]


def finished(data):
  """Time of the last change of every output that is finished."""
  notes, found = data / 'parts' / 'corpus-' / 'notes', {}
  for note in notes.rglob('[!.]*.json'):
    path = data / note.relative_to(notes).with_suffix('')
    try:
      found[path] = path.stat().st_mtime_ns
    except FileNotFoundError:
      continue  # not yet
  return found


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment(source, whole, tmp_path, kills):
  """Each time a few outputs later, and within the next; now and then two processes go on where one
  was.
  """
  killed = run = 0
  while killed < kills:
    data, running = tmp_path / f'data{killed}', True
    while running:
      chance, before, run = random.Random(run), finished(data), run + 1
      processes = start(source, data, 2 if chance.random() < 0.3 else 1, run)
      if killed < kills:
        outputs, delay = len(before) + 1 + chance.randrange(4), chance.uniform(0, 0.02)
        while len(finished(data)) < outputs and processes[0].poll() is None:
          time.sleep(0.001)
        time.sleep(delay)
      if killed < kills and any(process.poll() is None for process in processes):
        for process in processes:
          process.send_signal(signal.SIGKILL)
          process.communicate()
        killed += 1
        unfinished = (data / 'parts' / 'corpus-').glob('writing-*/*.array_record*')
        assert len({path.name.removesuffix('.turns') for path in unfinished}) <= 2
      else:
        finish(processes)
        running = False
      after = finished(data)
      assert all(after[path] == changed for path, changed in before.items())
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
