"""Reading in as a job: it goes on where it was, in any number of processes, and nothing of what is
there is lost.
"""

import shutil
import threading
import time

import pytest

from data_pipeline import dataset, ingest, quarantine, record_files
from data_pipeline.shards import Process
from echox_jax import errors
from tests.helpers import corpus_jobs, recordings
from tests.helpers.corpus_jobs import build
from tests.helpers.recordings import row


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return corpus_jobs.write_source(tmp_path_factory.mktemp('source'))


@pytest.fixture(scope='module')
def whole(source, tmp_path_factory):
  """What one process wrote that nobody stopped."""
  data = tmp_path_factory.mktemp('whole')
  build(source, data)
  return recordings.content(data)


def shards_of(data):
  """Time of the last change of every file of records."""
  return {path: path.stat().st_mtime_ns for path in data.glob('*/*.array_record*')}


def test_a_job_that_is_stopped_goes_on_where_it_was(source, whole, tmp_path, monkeypatch):
  write, calls = record_files.write, []

  def stopped(path, records, width, keep_encoded):
    calls.append(path)
    if len(calls) == 4:
      next(iter(records))
      path.write_bytes(b'some')
      raise KeyboardInterrupt
    return write(path, records, width, keep_encoded)

  monkeypatch.setattr(record_files, 'write', stopped)
  with pytest.raises(KeyboardInterrupt):
    build(source, tmp_path)
  monkeypatch.undo()
  there = shards_of(tmp_path)
  assert len(there) == 6  # three files of records, and three beside them
  assert not dataset.dataset_exists(tmp_path, 'questions')
  summary = build(source, tmp_path)
  after = shards_of(tmp_path)
  assert {path: after[path] for path in there} == there
  assert recordings.content(tmp_path) == whole
  assert build(source, tmp_path) == summary and shards_of(tmp_path) == after
  assert summary['quarantined'] == {'damaged': 1}


def test_two_processes_write_what_one_writes(source, whole, tmp_path):
  barrier, summaries = threading.Barrier(2), {}

  def work(index):
    process = Process(index, 2, lambda name: barrier.wait(60))
    summaries[index] = build(source, tmp_path, process)

  threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  assert recordings.content(tmp_path) == whole and summaries[0] == summaries[1]


def test_a_slow_process_may_come_when_all_is_finished(source, whole, tmp_path):
  """The plan stays until it has read it."""
  build(source, tmp_path)
  barrier, errors_of_slow = threading.Barrier(2), []

  def meet(name):
    barrier.wait(60)
    if threading.current_thread() is slow:
      time.sleep(0.3)

  def come():
    try:
      build(source, tmp_path, Process(1, 2, meet))
    except Exception as error:
      errors_of_slow.append(error)

  slow = threading.Thread(target=come)
  slow.start()
  build(source, tmp_path, Process(0, 2, meet))
  slow.join()
  assert not errors_of_slow and recordings.content(tmp_path) == whole


def test_records_do_not_depend_on_shards(source, tmp_path):
  """Their order is that of the source, and what cannot be used leaves no gap."""
  found = []
  for size in (1, 3, 100):
    build(source, tmp_path / f'{size}', shard_examples=size)
    found.append([])
    for name, split in (('questions', 'train'), ('questions', 'test'), ('answers', 'train')):
      examples = list(dataset.read_examples(tmp_path / f'{size}', name, split))
      found[-1] += [(e.id, [t.audio.tobytes() for t in e.turns]) for e in examples]
      turns = dataset.open_turns(tmp_path / f'{size}', name, split)
      assert turns.table()['audio'].tolist() == [len(t.audio) for e in examples for t in e.turns]
      assert [turns[i]['id'].decode() for i in range(len(turns))] == [e.id for e in examples]
  assert found[0] == found[1] == found[2]
  assert [name for name, _ in found[0][:8]] == ['0', '1', '2', '4', '6', '8', '9', '10']


def test_a_recording_that_was_corrected_is_read_without_the_others(source, tmp_path):
  shutil.copytree(source.parent, tmp_path / 'source')
  build(tmp_path / 'source' / source.name, tmp_path / 'data')
  before = shards_of(tmp_path / 'data')
  recordings.write(tmp_path / 'source' / 'q5.wav')
  summary = build(tmp_path / 'source' / source.name, tmp_path / 'data')
  assert summary['quarantined'] == {} and not (tmp_path / 'data' / quarantine.FILE).exists()
  asked = recordings.examples(tmp_path / 'data', 'questions', 'train')
  assert len(asked) == 9 and len(asked['5'].turns[0].audio) == 1600
  after = shards_of(tmp_path / 'data')
  assert len({path for path in before if before[path] != after[path]}) == 2


def test_an_earlier_data_set_stays_until_the_new_one_is_there(source, whole, tmp_path, monkeypatch):
  build(source, tmp_path)
  other = corpus_jobs.write_source(tmp_path / 'other', items=9)
  publish = record_files.publish

  def stopped(*arguments, **options):
    assert recordings.content(tmp_path) == whole | {quarantine.FILE: now()}
    raise KeyboardInterrupt

  def now():
    return (tmp_path / quarantine.FILE).read_bytes()

  monkeypatch.setattr(record_files, 'publish', stopped)
  with pytest.raises(KeyboardInterrupt):
    build(other, tmp_path)
  monkeypatch.setattr(record_files, 'publish', publish)
  assert len(recordings.examples(tmp_path, 'questions', 'train')) == 8
  build(other, tmp_path)
  assert len(recordings.examples(tmp_path, 'questions', 'train')) == 6
  # nothing of the earlier one is left
  for name in ('questions', 'answers'):
    left = {f'{name}/{path.name}' for path in (tmp_path / name).iterdir()}
    assert left == {path for path in recordings.content(tmp_path) if path.startswith(name)}


def test_a_copy_is_the_same_data_set(source, whole, tmp_path):
  data, copy = tmp_path / 'data', tmp_path / 'copy'
  build(source, data)
  shutil.copytree(data, copy, copy_function=shutil.copyfile)  # with other times
  for split in ('train', 'holdout'):
    assert dataset.identity(copy, 'answers', split) == dataset.identity(data, 'answers', split)
  assert dataset.identity(data, 'answers', 'train') != dataset.identity(data, 'answers', 'holdout')
  # recordings may move with the list that names them
  shutil.copytree(source.parent, tmp_path / 'moved')
  before = shards_of(copy)
  build(tmp_path / 'moved' / source.name, copy)
  assert shards_of(copy) == before


def test_a_shard_of_which_nothing_can_be_used_is_empty(tmp_path):
  rows = [row(f'{i}', question_audio='bad.wav' if i < 4 else '0.wav') for i in range(9)]
  path = recordings.manifest(tmp_path, [*rows, row('t', split='test')])
  (tmp_path / 'bad.wav').write_text('no audio')
  everything = ingest.Limits(max_quarantined=1.0)
  sharing = ingest.Sharing(shard_examples=2)
  ingest.build('manifest', path, tmp_path / 'data', limits=everything, sharing=sharing)
  asked = recordings.examples(tmp_path / 'data', 'questions', 'train')
  assert list(asked) == ['4', '5', '6', '7', '8']
  table = dataset.open_turns(tmp_path / 'data', 'questions', 'train').table()
  assert table['example'].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_waiting_for_another_process_has_an_end(source, tmp_path):
  with pytest.raises(errors.EchoXError, match=r'process 1 of 2 should .* wait_seconds') as caught:
    build(source, tmp_path, Process(0, 2), wait_seconds=0.3)
  assert '\n' not in str(caught.value)
  assert not dataset.dataset_exists(tmp_path, 'questions')


def test_settings_that_make_no_sense(source, tmp_path):
  for wrong in (dict(shard_examples=0), dict(wait_seconds=0.0)):
    with pytest.raises(errors.ConfigError, match=next(iter(wrong))):
      build(source, tmp_path / 'data', **wrong)
  assert not (tmp_path / 'data').exists()
