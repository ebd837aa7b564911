"""What a command says of a path that cannot be used, before it does anything."""

import dataclasses
import subprocess
import sys

import pytest

from data_pipeline import dataset, selection
from echox_jax import errors, storage
from echox_jax.tokenizer import train_tokenizer
from launch import convert, corpus, inspect, precompute, respond, train
from tests.helpers import batch_jobs, precompute_jobs, tiny_model
from tests.helpers.paths import ROOT

JOB = '--config=configs/echox_nano.py:text'


def ask(*arguments):
  respond.main(['--text', 'What?', *arguments])


def with_argv(main):
  def run(*arguments):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sys, 'argv', ['command', *arguments])
      main()

  return run


COMMANDS = {
  'train': (with_argv(train.main), (JOB, '--workdir={}')),
  'precompute': (with_argv(precompute.main), (JOB, '--workdir={}')),
  'corpus': (with_argv(corpus.main), ('--data', '{}')),
  'source': (with_argv(corpus.main), ('--data', 'x', '--reader', 'manifest', '--source', '{}')),
  'inspect': (with_argv(inspect.main), ('{}',)),
  'checkpoint': (ask, ('--checkpoint', '{}')),
  'reply': (ask, ('--checkpoint', 'x', '-o', '{}/a.wav')),
  'json': (ask, ('--checkpoint', 'x', '--json', '{}/a.json')),
  'export': (
    lambda *arguments: convert.main(['export', *arguments]),
    ('--checkpoint', 'x', '--out', '{}'),
  ),
}


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize(
  'place, problem',
  [
    ('s3://bucket/x', 'cannot be used, because checkpoints and records'),
    ('foo://bucket/x', 'unknown scheme foo://'),
    ('gs:/bucket/x', 'lacks a slash'),
    ('gs://nowhere/x', 'there is no bucket gs://nowhere'),
  ],
)
def test_a_path_that_cannot_be_used_is_told_first(emulator, command, place, problem):
  run, arguments = COMMANDS[command]
  with pytest.raises(errors.EchoXError, match=problem):
    run(*(argument.format(place) for argument in arguments))


def test_a_source_to_start_from_is_checked_too(emulator, tmp_path):
  with pytest.raises(errors.StorageError, match='there is no bucket gs://nowhere'):
    with_argv(train.main)(
      JOB, f'--workdir={tmp_path}', "--config.train.init_from=('gs://nowhere/model',)"
    )


def test_the_sentence_is_all_that_is_printed(emulator):
  command = [sys.executable, '-m', 'launch.corpus', '--data', 'gs://nowhere/x']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.count('\n') == 1
  assert done.stderr.startswith('error: there is no bucket gs://nowhere: correct the path')


def test_data_sets_in_a_bucket(bucket_folder, tmp_path, capsys):
  """Written, described by a command, and read one by one, together and from copies."""
  precompute_jobs.write_raw(bucket_folder)
  precompute_jobs.write_raw(tmp_path / 'raw')
  with_argv(inspect.main)(bucket_folder, '--json', f'{bucket_folder}/report.json')
  assert '0.00 hours' in capsys.readouterr().out
  assert storage.is_file(f'{bucket_folder}/report.json')
  cache = storage.Cache(tmp_path / 'cache', 10**6)
  local = dataset.open_dataset(tmp_path / 'raw', 'questions', 'train')
  for source in (
    dataset.open_dataset(bucket_folder, 'questions', 'train'),
    dataset.open_dataset(bucket_folder, 'questions', 'train', cache),
  ):
    assert [record['turns'] for record in source] == [record['turns'] for record in local]
    some = source.__getitems__([5, 0, 3])
    assert [record['id'] for record in some] == [local[i]['id'] for i in (5, 0, 3)]
  assert sum(map(storage.size, storage.tree(tmp_path / 'cache'))) > 10_000
  job = batch_jobs.experiment(
    'text',
    sets=('questions/train',),
    max_tokens=1000,
    cache_gigabytes=0.001,
    cache_folder=str(tmp_path / 'of_a_job'),
  )
  job = dataclasses.replace(job, data_dir=bucket_folder)
  tokenizer = tmp_path / 'w' / 'precomputed' / 'tokenizer.model'
  train_tokenizer([tiny_model.WORDS] * 3, tokenizer, 320)
  chosen = selection.select(job, tmp_path / 'w')
  assert len(chosen[0]['input_ids'])
  assert storage.tree(tmp_path / 'of_a_job')  # what a stage reads is copied too
  with pytest.raises(IndexError):
    source[8]
  with pytest.raises(errors.DataError, match='there is no data set'):
    dataset.open_dataset(bucket_folder, 'none', 'train')
