"""Precompute as processes: several write what one writes, and one that is killed at any moment goes
on as if nothing had been.
"""

import itertools
import socket

import numpy as np
import pytest

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import storage
from echox_jax.units import kmeans
from tests.helpers import kills, precompute_jobs
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

  def run(workdir, **options):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      port = s.getsockname()[1]
    return [start(workdir, processes=2, process=i, port=port, **options) for i in range(2)]

  return run


@pytest.fixture(scope='module')
def uninterrupted(start, tmp_path_factory):
  """What one process of one device made that nobody stopped."""
  workdir = tmp_path_factory.mktemp('whole')
  precompute_jobs.write_raw(workdir / 'data')
  kills.finish([start(workdir)])
  return workdir


@pytest.fixture(scope='module')
def whole(uninterrupted):
  return precompute_jobs.products(uninterrupted)


def test_two_processes_write_what_one_writes(start_two, whole, tmp_path):
  precompute_jobs.write_raw(tmp_path / 'data')
  kills.finish(start_two(tmp_path))
  assert precompute_jobs.products(tmp_path) == whole


def test_devices_of_a_process_share_its_batches(start, uninterrupted, tmp_path):
  precompute_jobs.write_raw(tmp_path / 'data')
  kills.finish([start(tmp_path, devices=4)])  # of batches of two, filled up
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


@pytest.mark.parametrize('place', ['disk', 'bucket'])
def test_killed_at_twenty_moments(request, start, start_two, whole, tmp_path, place):
  """Now and then two processes go on where one was."""
  folder = storage.path(
    tmp_path / 'work' if place == 'disk' else request.getfixturevalue('bucket_folder')
  )

  def run(workdir, processes, begun):
    if not storage.exists(workdir / 'data'):
      precompute_jobs.write_raw(workdir / 'data')
    options = dict(begun=str(begun))
    return start_two(workdir, **options) if processes == 2 else [start(workdir, **options)]

  job = kills.Job(run, lambda work: kills.finished_outputs(work / 'precomputed'), several=True)
  seconds, _ = kills.whole_run(job, folder / 'whole', tmp_path / 'begun')
  assert precompute_jobs.products(folder / 'whole') == whole
  folders = (folder / str(i) for i in itertools.count())
  for workdir, _ in kills.killed_runs(job, folders, KILLS, seconds, tmp_path):
    assert precompute_jobs.products(workdir) == whole


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
