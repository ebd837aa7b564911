"""Jobs on Apache Beam: several workers and a shard that fails once, and the bytes are those of the
jobs without Beam. `make beam` runs this in an environment of its own.
"""

import functools
from pathlib import Path

import pytest

pytest.importorskip(
  'apache_beam', reason='apache-beam is not installed: `make beam` runs this where it is'
)
from data_pipeline import beam_engine, dataset, parts, record_files
from data_pipeline.shards import Process
from echox_jax.errors import EchoXError
from tests.helpers import beam_jobs, corpus_jobs, precompute_jobs, recordings


@pytest.fixture(autouse=True)
def restored(monkeypatch):
  """What the jobs change in this process."""
  monkeypatch.setattr(record_files, 'write', record_files.write)
  monkeypatch.setattr(parts, 'write_part', parts.write_part)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return corpus_jobs.write_source(tmp_path_factory.mktemp('source'))


@pytest.fixture(scope='module')
def whole(source, tmp_path_factory):
  """What is read in without Beam."""
  data = tmp_path_factory.mktemp('whole')
  return corpus_jobs.build(source, data), recordings.content(data)


def test_beam_tries_a_shard_again_and_the_bytes_are_equal(source, whole, tmp_path):
  data, failed = tmp_path / 'data', tmp_path / 'failed'
  job = functools.partial(beam_jobs.corpus, source, data, failed)
  summary = beam_engine.run(job, job, beam_jobs.THREADS)
  assert failed.exists() and (summary, recordings.content(data)) == whole
  assert not list(data.rglob('writing-*'))


def test_processes_read_in_and_a_job_that_beam_gave_up_goes_on(source, whole, tmp_path):
  data, failed = tmp_path / 'data', tmp_path / 'failed'
  job = functools.partial(beam_jobs.corpus, source, data, failed)
  with pytest.raises(EchoXError, match='Beam gave a shard up .*start the command again') as caught:
    beam_engine.run(job, job, beam_jobs.PROCESSES)
  assert '\n' not in str(caught.value) and not dataset.dataset_exists(data, 'questions')
  summary = beam_engine.run(job, job, beam_jobs.PROCESSES)
  assert (summary, recordings.content(data)) == whole


def test_precompute_on_beam_gives_the_same_products(tmp_path, monkeypatch):
  precompute_jobs.count_few_parts_at_a_time(monkeypatch.setattr)
  for name in ('alone', 'beam'):
    precompute_jobs.write_raw(tmp_path / name / 'data')
  (tmp_path / 'never').touch()  # nothing fails
  alone = functools.partial(beam_jobs.compute, tmp_path / 'alone', tmp_path / 'never')
  alone(process=Process())
  parts.write_part, failed = parts.write_part.__wrapped__, tmp_path / 'failed'
  job = functools.partial(beam_jobs.compute, tmp_path / 'beam', failed)
  made, make = [], beam_engine._Step.make
  monkeypatch.setattr(
    beam_engine._Step, 'make', lambda step, name: (made.append(name), make(step, name))
  )
  report = beam_engine.run(job, job, beam_jobs.THREADS)
  by_beam = {Path(name).relative_to(tmp_path / 'beam/precomputed').parts[:2] for name in made}
  assert by_beam >= {('parts', kind) for kind in ('sample', 'units', 'language', 'tokens')}
  assert {name for name, _ in by_beam} == {'parts', 'answers', 'questions'}
  assert failed.exists() and 'unit language' in report['ran']
  assert precompute_jobs.products(tmp_path / 'beam') == precompute_jobs.products(tmp_path / 'alone')
