"""`spoken_turns` is a data set of TFDS: named, versioned, and without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline import schema, spoken_turns
from data_pipeline.spoken_turns import Recordings
from echox_jax.errors import DataError
from tests.helpers import corpus_jobs, recordings
from tests.helpers.recordings import row


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return corpus_jobs.write_source(tmp_path_factory.mktemp('source'))


def of(source, **changes):
  choices = dict(name='mine', set='questions', source=str(source), max_quarantined=0.2)
  return Recordings(**{**choices, **changes})


def test_a_named_and_versioned_data_set_holds_the_records_of_reading_in(source, tmp_path):
  builder = tfds.builder('spoken_turns', data_dir=tmp_path / 'tfds', config=of(source))
  builder.download_and_prepare()
  assert (tmp_path / 'tfds/spoken_turns/mine/1.0.0/dataset_info.json').exists()
  corpus_jobs.build(source, tmp_path / 'data')
  for split in ('train', 'test'):
    records = builder.as_data_source(split)
    found = [schema.decode(records[i]) for i in range(len(records))]
    expected = recordings.examples(tmp_path / 'data', 'questions', split)
    assert [example.id for example in found] == list(expected)
    for example in found:
      for turn, other in zip(example.turns, expected[example.id].turns, strict=True):
        assert (turn.role, turn.text, turn.references) == (other.role, other.text, other.references)
        np.testing.assert_array_equal(turn.audio, other.audio)
  assert 'tensorflow' not in sys.modules
  # by name alone, in a program that does not know this package
  program = (
    'import sys, tensorflow_datasets as tfds\n'
    "builder = tfds.builder('spoken_turns/mine:1.0.0', data_dir=sys.argv[1])\n"
    "print(builder.info.full_name, len(builder.as_data_source('train')))\n"
    "assert 'data_pipeline' not in sys.modules and 'tensorflow' not in sys.modules"
  )
  command = [sys.executable, '-c', program, str(tmp_path / 'tfds')]
  shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
  assert shown.stdout.split() == ['spoken_turns/mine/1.0.0', '8']


def test_tfds_build_knows_it(source, tmp_path):
  """What `tfds build` runs; the program itself imports TensorFlow before it looks at its words."""
  from tensorflow_datasets.scripts.cli import build, cli_utils

  config = f'{{"name": "mine", "set": "answers", "source": "{source}", "max_quarantined": 0.2}}'
  build.Args(
    positional_datasets=[],
    datasets=['spoken_turns'],
    paths=cli_utils.PathOptions(data_dir=tmp_path),
    generation=cli_utils.GenerationOptions(imports=spoken_turns.__name__, config=config),
  ).execute()
  builder = tfds.builder('spoken_turns/mine', data_dir=tmp_path)
  assert len(builder.as_data_source('train')) == 9 and set(builder.info.splits) == {
    'train',
    'holdout',
  }


def test_recordings_in_the_manual_folder_of_tfds(tmp_path):
  recordings.manifest(tmp_path / 'manual', [row('a'), row('b', split='test')])
  builder = tfds.builder('spoken_turns/questions', data_dir=tmp_path / 'tfds')
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / 'manual')
  )
  assert [record['id'] for record in builder.as_data_source('test')] == [b'b']


def test_wrong_sources_are_refused_and_leave_no_data_set(source, tmp_path):
  for wrong, message in (
    (of(source, set='transcripts'), "gives questions, answers, not 'transcripts'"),
    (of(tmp_path / 'none.tsv'), 'there is no .*none.tsv'),
    (of(source, max_quarantined=0.0), 'of 24 items cannot be used'),
  ):
    builder = tfds.builder('spoken_turns', data_dir=tmp_path / 'tfds', config=wrong)
    with pytest.raises(DataError, match=message):
      builder.download_and_prepare()
    assert not (tmp_path / 'tfds/spoken_turns/mine/1.0.0').exists()
