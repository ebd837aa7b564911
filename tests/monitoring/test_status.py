"""The state of a run can be read from its folder while it runs, after it was killed, and without
JAX.
"""

import dataclasses
import json
import time

import pytest

from echox_jax import errors, storage
from echox_jax.monitoring import status, views
from echox_jax.parallel.heartbeats import Heartbeat
from echox_jax.training import layout, loop
from tests.helpers import corpus_jobs, training_jobs
from tests.helpers.processes import run_python

STEPS = 7


class Killed(BaseException):
  """As if the process had been killed."""


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finished')
  loop.train(training_jobs.experiment(steps=STEPS), workdir, training_jobs.text_rows)
  return workdir


def _stage(workdir, now=None):
  (stage,) = status.collect(workdir, time.time() if now is None else now)['stages']
  return stage


def test_a_finished_stage(finished):
  stage = _stage(finished, time.time() + 9000)
  assert (stage['name'], stage['state'], stage['step'], stage['steps']) == (
    'text',
    'finished',
    7,
    7,
  )
  assert stage['last_checkpoint'] == 7 and stage['last_save']['step'] == 7
  assert 0 < stage['goodput'] < 1 and 0 < stage['saving'] < 1
  assert [step for step, _ in stage['curve']] == [2, 3, 4, 6, 7]
  assert stage['curve'][-1][1] == stage['loss']
  (beat,) = stage['processes']
  assert (beat['state'], beat['step'], beat['doing']) == ('finished', 7, 'steps')
  assert not stage['problems'] and stage['failure'] is None


class Watched:
  """Rows; looks at the run before the batch of a step, and then ends it with an error."""

  def __init__(self, workdir, at, error):
    self.seen, self._workdir, self._at, self._error = None, workdir, at, error

  def _wait_for(self, step, checkpoint):
    """Looks until the heartbeat of a step and a checkpoint are there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
      self.seen = status.collect(self._workdir, time.time())
      (stage,) = self.seen['stages']
      if (stage['step'], stage['last_checkpoint'] or 0) >= (step, checkpoint):
        return
      time.sleep(0.05)

  def __call__(self, job, workdir, share):
    rows, taken = training_jobs.text_rows(job, workdir, share), []

    class Rows:
      get_state, set_state = staticmethod(rows.get_state), staticmethod(rows.set_state)

      def __next__(_):
        taken.append(1)
        if len(taken) == self._at - 1:  # two steps seen one by one: a step has a known length
          self._wait_for(self._at - 2, 0)
        if len(taken) == self._at:
          self._wait_for(self._at - 1, 3)
          raise self._error
        return next(rows)

    return Rows()


def _job(**train):
  job = training_jobs.experiment(steps=STEPS, **train)
  return dataclasses.replace(job, heartbeat_seconds=0.1)


def test_a_run_that_fails_and_then_goes_on(tmp_path):
  watched = Watched(tmp_path, 6, errors.DataError('record 4 is damaged: repair it.'))
  with pytest.raises(errors.DataError):
    loop.train(_job(), tmp_path, watched)
  (running,) = watched.seen['stages']
  assert (running['state'], running['step'], running['last_checkpoint']) == ('running', 5, 3)
  assert running['seconds_left'] == pytest.approx(2 * running['step_time'])
  (beat,) = running['processes']
  assert beat['doing'] == 'steps' and beat['step_seconds'] > 0

  report = status.collect(tmp_path, time.time())
  assert report['stages'][0]['state'] == 'failed' and not report['problems']
  assert report['last_failure']['error'] == 'record 4 is damaged: repair it.'
  assert report['last_failure']['step'] == 5
  text = views.in_text(report)
  assert 'record 4 is damaged: repair it.' in text and 'after step 5' in text

  loop.train(_job(), tmp_path, training_jobs.text_rows)
  report = status.collect(tmp_path, time.time())
  assert report['stages'][0]['state'] == 'finished'
  assert report['last_failure']['error'] == 'record 4 is damaged: repair it.'


def test_a_killed_run_is_lost_within_a_minute(tmp_path):
  watched = Watched(tmp_path, 4, Killed())
  with pytest.raises(Killed):
    loop.train(_job(), tmp_path, watched)
  file = tmp_path / 'text' / 'heartbeats' / '00000.json'
  beat = watched.seen['stages'][0]['processes'][0]
  file.write_text(json.dumps(beat))  # what lies there after kill -9
  assert _stage(tmp_path, beat['time'] + 5)['state'] == 'running'
  report = status.collect(tmp_path, beat['time'] + 60)
  assert report['stages'][0]['state'] == 'lost'
  (sentence,) = report['problems']
  assert sentence.startswith(
    f'text: process 0 on {beat["host"]} is lost: its last heartbeat is 60 s'
  )


def test_the_command_needs_no_jax_and_writes_json_and_a_page(finished, tmp_path):
  (finished / 'text' / 'not_finite').mkdir()
  (finished / 'text' / 'not_finite' / 'batch-5.json').write_text('{}')
  code = (
    'import sys; sys.modules["jax"] = None; sys.argv = ["status", *sys.argv[1:]]\n'
    'from launch import status; status.main()'
  )
  out = run_python(
    '-c', code, finished, '--json', tmp_path / 's.json', '--html', tmp_path / 's.html'
  )
  assert out.splitlines()[3].split()[:5] == ['text', 'finished', '7', '/', '7']
  assert 'the loss was not finite on batch 5' in out
  report = json.loads((tmp_path / 's.json').read_text())
  assert report['stages'][0]['state'] == 'finished' and report['stages'][0]['bad_batches'] == [5]
  page = (tmp_path / 's.html').read_text()
  assert page.count('<polyline') == 1 and 'the loss was not finite on batch 5' in page
  assert 'http' not in page and 'src=' not in page and '<script' not in page
  (finished / 'text' / 'not_finite' / 'batch-5.json').unlink()


def test_a_run_in_a_bucket(bucket_folder, tmp_path):
  """Seen from elsewhere; a checkpoint whose upload was cut off is none."""
  loop.train(training_jobs.experiment(steps=4), bucket_folder, training_jobs.text_rows)
  cut_off = f'{bucket_folder}/text/checkpoints/9/params/x'
  storage.atomic_write_text(cut_off, '')
  out = run_python('-m', 'launch.status', bucket_folder, '--json', tmp_path / 's.json')
  assert out.splitlines()[3].split()[:5] == ['text', 'finished', '4', '/', '4']
  (stage,) = json.loads((tmp_path / 's.json').read_text())['stages']
  assert stage['last_checkpoint'] == 4 and 0 < stage['saving'] < 1
  assert [step for step, _ in stage['curve']] == [2, 3, 4]


def test_a_folder_without_a_run(tmp_path):
  for folder in (tmp_path, tmp_path / 'missing'):
    with pytest.raises(errors.DataError, match='has no run: name the working folder'):
      status.collect(folder, 0.0)


def test_precompute_has_a_row(tmp_path):
  with Heartbeat(tmp_path, 'precompute', every=10.0) as beat:
    beat.at('units:answers/train')
    beat.done(12)
  report = status.collect(tmp_path, time.time())
  assert report['precompute']['state'] == 'finished' and not report['stages']
  assert 'precompute  finished  12 (units:answers/train)' in views.in_text(report)
  assert 'units:answers/train' in views.in_html(report)


def test_reading_in_has_rows_of_its_own(tmp_path):
  """Of each prefix one, whether the working folder is named or the folder of data sets."""
  source = corpus_jobs.write_source(tmp_path / 'source', items=4)  # 4 questions, 4 answers
  for prefix in ('', 'libri_'):
    corpus_jobs.build(source, tmp_path / 'data', prefix=prefix, heartbeat_seconds=10.0)
  for folder in (tmp_path, tmp_path / 'data'):
    report = status.collect(folder, time.time())
    assert report['precompute'] is None and not report['stages']
    assert [job['name'] for job in report['corpus']] == ['corpus', 'corpus libri_']
    lines = views.in_text(report).splitlines()
    rows = [line.split('  ')[:3] for line in lines if line.startswith('corpus')]
    assert [row[0] for row in rows] == ['corpus', 'corpus libri_']
    assert [job['state'] for job in report['corpus']] == ['finished', 'finished']
    assert [job['processes'][0]['step'] for job in report['corpus']] == [8, 8]


def test_a_host_that_is_lost_while_reading_in_is_named(tmp_path):
  folder = tmp_path / 'data' / layout.PARTS / layout.READING_IN
  with Heartbeat(folder, 'corpus', process=1, processes=2, every=10.0):
    killed = (folder / 'heartbeats' / '00001.json').read_text()
  with Heartbeat(folder, 'corpus', process=0, processes=2, every=10.0) as beat:
    beat.doing('waiting for others')
    (folder / 'heartbeats' / '00001.json').write_text(killed)
    report = status.collect(tmp_path, time.time() + 36)
  lost = [sentence for sentence in report['problems'] if 'process 1 on' in sentence]
  assert len(lost) == 1 and lost[0].startswith('corpus: ') and 'is lost' in lost[0]


def test_the_failure_that_ended_the_others_is_the_last(tmp_path):
  """Processes that are killed after another failed live on for a while."""
  with pytest.raises(errors.DataError), Heartbeat(tmp_path, 'train', processes=2, every=10.0):
    raise errors.DataError('record 4 is damaged: repair it.')
  with Heartbeat(tmp_path, 'train', process=1, processes=2, every=10.0):
    file = tmp_path / 'heartbeats' / '00001.json'
    beat = json.loads(file.read_text())
  file.write_text(json.dumps(beat | {'time': beat['time'] + 90}))
  with Heartbeat(tmp_path, 'train', process=1, processes=2, every=10.0):
    failure = status.collect(tmp_path, time.time())['last_failure']
    assert (failure['process'], failure['error']) == (0, 'record 4 is damaged: repair it.')
  file.write_text(json.dumps(beat | {'time': beat['time'] + 9000}))
  with Heartbeat(tmp_path, 'train', process=1, processes=2, every=10.0):
    assert 'killed' in status.collect(tmp_path, time.time())['last_failure']['error']
