"""Precompute as processes: several write what one writes, and one that is killed at any moment goes
on as if nothing had been.
"""

import random
import signal
import socket
import time

import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax.units import kmeans
from tests.helpers import precompute_jobs
from tests.helpers.processes import start_job

JOB = dict(shard_examples=1)
KILLS = 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def start(compiled):
  """Starts a process of the job; compiled programs are kept between them."""

  def run(workdir, **options):
    options = dict(workdir=str(workdir), experiment=JOB) | options
    return start_job('tests.helpers.precompute_jobs', options, compiled)

  return run


@pytest.fixture(scope='module')
def start_two(start):

  def run(workdir):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      port = s.getsockname()[1]
    return [start(workdir, processes=2, process=i, port=port) for i in range(2)]

  return run


@pytest.fixture(scope='module')
def uninterrupted(start, tmp_path_factory):
  """What one process of one device made that nobody stopped."""
  workdir = tmp_path_factory.mktemp('whole')
  precompute_jobs.write_raw(workdir / 'data')
  finish([start(workdir)])
  return workdir


@pytest.fixture(scope='module')
def whole(uninterrupted):
  return precompute_jobs.products(uninterrupted)


def finish(processes):
  for process in processes:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out[-2000:] + err[-4000:]


def test_two_processes_write_what_one_writes(start_two, whole, tmp_path):
  precompute_jobs.write_raw(tmp_path / 'data')
  finish(start_two(tmp_path))
  assert precompute_jobs.products(tmp_path) == whole


def test_devices_of_a_process_share_its_batches(start, uninterrupted, tmp_path):
  precompute_jobs.write_raw(tmp_path / 'data')
  finish([start(tmp_path, devices=4)])  # of batches of two, filled up
  one, four = (
    list(dataset.read_examples(folder / 'precomputed', 'questions', 'train'))
    for folder in (uninterrupted, tmp_path)
  )
  for a, b in zip(one, four, strict=True):
    np.testing.assert_allclose(
      a.turns[0].states.astype(np.float32), b.turns[0].states.astype(np.float32), atol=1e-2
    )
  centroids = [
    kmeans.load(folder / 'precomputed' / 'kmeans.safetensors')
    for folder in (uninterrupted, tmp_path)
  ]
  np.testing.assert_allclose(*centroids, atol=1e-2)


def finished(workdir):
  """Time of the last change of every output that is finished."""
  folder, found = workdir / 'precomputed', {}
  for note in (folder / 'parts' / 'notes').rglob('[!.]*.json'):
    path = folder / note.relative_to(folder / 'parts' / 'notes').with_suffix('')
    try:
      found[path] = path.stat().st_mtime_ns
    except FileNotFoundError:
      continue  # not yet, or cleared away
  return found


def test_killed_at_twenty_moments(start, start_two, whole, tmp_path):
  """Each time a few outputs later, and within the next; now and then two processes go on where one
  was.
  """
  kills = 0
  for folder in (tmp_path / str(i) for i in range(KILLS)):
    precompute_jobs.write_raw(folder / 'data')
    running = True
    while running:
      chance, before = random.Random(kills), finished(folder)
      processes = start_two(folder) if chance.random() < 0.3 else [start(folder)]
      if kills < KILLS:
        outputs, delay = len(before) + chance.randrange(6), chance.uniform(0, 0.3)
        while len(finished(folder)) < outputs and processes[0].poll() is None:
          time.sleep(0.002)
        time.sleep(delay)
      if kills < KILLS and processes[0].poll() is None:
        for process in processes:
          process.send_signal(signal.SIGKILL)
        for process in processes:
          process.communicate()
        kills += 1
        unfinished = (folder / 'precomputed' / 'parts').glob('writing-*/*')
        names = {path.name.removesuffix('.turns') for path in unfinished if path.is_file()}
        assert len(names) <= len(processes)
      else:
        finish(processes)
        running = False
      after = finished(folder)
      assert all(after[path] == changed for path, changed in before.items() if path in after)
    assert precompute_jobs.products(folder) == whole
    if kills == KILLS:
      return


@pytest.mark.parametrize('fails', [0, 1])
def test_an_error_of_one_process_ends_the_other(start_two, tmp_path, fails):
  sound = np.full(9000, 99, np.int16)
  answers = [
    Example(
      f'a{i}',
      (Turn('assistant', precompute_jobs.WORDS[i], audio=sound[:99] if i == 2 + fails else sound),),
    )
    for i in range(6)
  ]
  precompute_jobs.write_raw(tmp_path / 'data')
  dataset.write_dataset(tmp_path / 'data', 'answers', {'train': answers, 'holdout': answers[:2]})
  processes = start_two(tmp_path)
  errors = [process.communicate(timeout=400)[1] for process in processes]
  assert (
    processes[fails].returncode == 2
    and f"error: the audio of 'a{2 + fails}' has only 99 samples" in errors[fails]
  )
  assert processes[1 - fails].returncode not in (0, None)
