"""Prepared TFDS sets with the features of LibriSpeech become data sets, without TensorFlow."""

import json
import sys

import numpy as np
import pytest

from data_pipeline import ingest, readers, tfds_rows
from echox_jax import audio
from echox_jax.errors import ConfigError, DataError
from echox_jax.storage import path as storage_path
from launch import corpus
from tests.helpers import recordings, tfds_sets
from tests.helpers.tfds_sets import row

SPLITS = {
  'train_clean100': [[row(0), row(1), row(2)], [row(3), row(4)]],
  'dev_clean': [[row(5)]],
  'test_other': [[row(6)]],
}


def build(source, data, limit=0.0, fields=None, **sharing):
  return ingest.build(
    'tfds',
    source,
    data,
    limits=ingest.Limits(max_quarantined=limit),
    sharing=ingest.Sharing(**{'shard_examples': 2, **sharing}),
    fields=fields,
  )


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return tfds_sets.write(tmp_path_factory.mktemp('tfds'), SPLITS)


def test_librispeech_of_tfds_becomes_transcripts(source, tmp_path):
  summary = build(source, tmp_path / 'data')
  assert {name: found['examples'] for name, found in summary['sets'].items()} == {
    'transcripts/train': 5,
    'transcripts/dev': 1,
    'transcripts/test': 1,
  }
  found = recordings.examples(tmp_path / 'data', 'transcripts', 'train')
  rows = ('00000-0', '00000-1', '00000-2', '00001-0', '00001-1')
  assert list(found) == [f'train_clean100-{name}' for name in rows]
  for i, example in enumerate(found.values()):
    user, assistant = example.turns
    assert user.text == assistant.text == row(i)['text'].lower()
    assert assistant.references == (user.text,) and user.category == assistant.category == 'asr'
    assert (user.speaker, user.source, user.language) == (f'{100 + i}', 'librispeech', 'en')
    np.testing.assert_array_equal(user.audio, row(i)['speech'])  # 16 kHz, 16 bit: as it was
    assert user.audio.dtype == np.int16 and not len(assistant.audio)
  assert 'tensorflow' not in sys.modules


def test_neither_file_format_nor_folder_nor_processes_matter(source, tmp_path):
  tfds_sets.write(tmp_path, SPLITS, file_format='tfrecord')
  build(tmp_path / 'librispeech', tmp_path / 'data')
  build(source.parent, tmp_path / 'other', workers=2)
  for split in ('train', 'dev', 'test'):
    found, other = (
      recordings.examples(tmp_path / data, 'transcripts', split) for data in ('data', 'other')
    )
    assert list(found) == list(other)
    for name, example in found.items():
      assert example.turns[0].text == other[name].turns[0].text
      np.testing.assert_array_equal(example.turns[0].audio, other[name].turns[0].audio)


def test_planning_reads_no_record(source, monkeypatch):
  def refuse(file):
    raise AssertionError(file)

  monkeypatch.setattr(tfds_rows, '_opened', refuse)
  items = list(readers.get('tfds').read(storage_path(source)))
  assert len(items) == 7 and {item.split for item in items} == {'train', 'dev', 'test'}


def test_rows_that_cannot_be_used_are_left_out(tmp_path):
  rows = [row(i) for i in range(4)]
  bad = [
    row(4, text='  '),
    row(5, speech=np.zeros(1600, np.int64)),
    row(6, speech=np.full(1600, 1 << 20)),
    row(7, speech=np.zeros(0, np.int64)),
  ]
  source = tfds_sets.write(tmp_path, {'train': [rows + bad]})
  summary = build(source, tmp_path / 'data', limit=0.5)
  assert summary['quarantined'] == {'no text': 1, 'silent': 1, 'damaged': 1, 'too short': 1}
  assert summary['sets']['transcripts/train']['examples'] == 4
  with pytest.raises(DataError, match='4 of 8 items cannot be used'):
    build(source, tmp_path / 'again', limit=0.4)
  # a file that is not there
  next(source.glob('*array_record*')).unlink()
  with pytest.raises(DataError, match='does not exist'):
    build(source, tmp_path / 'third', limit=0.5)


def test_another_rate_is_resampled(tmp_path):
  speech = audio.to_int16(recordings.voice(4410)).astype(np.int64)
  source = tfds_sets.write(
    tmp_path, {'train': [[row(0, speech=speech)]]}, about={'sampleRate': '44100'}
  )
  build(source, tmp_path / 'data')
  found = recordings.examples(tmp_path / 'data', 'transcripts', 'train')
  assert len(found['train-00000-0'].turns[0].audio) == 1600


def test_fields_may_be_named(source, tmp_path):
  build(source, tmp_path, fields={'text': 'id', 'speaker': 'chapter_id', 'language': 'de'})
  turn = recordings.examples(tmp_path, 'transcripts', 'dev')['dev_clean-00000-0'].turns[0]
  assert (turn.text, turn.speaker, turn.language) == ('105-7-0000', '7', 'de')


def test_what_leaves_a_choice_or_is_no_set_is_said_before_a_record_is_read(source, tmp_path):
  for fields, message in (
    ({'text': 'words'}, "no field 'words' for text: it has id, text"),
    ({'audio': 'text'}, "no field 'text' for audio: it has speech"),
    ({'colour': 'text'}, "no field 'colour' to name"),
  ):
    with pytest.raises(ConfigError, match=message):
      build(source, tmp_path / 'data', fields=fields)
  unknown = tfds_sets.write(tmp_path, {'train': [[row(0)]]}, about={'sampleRate': '0'})
  with pytest.raises(ConfigError, match='rate=HZ'):
    build(unknown, tmp_path / 'data')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(DataError, match='holds no prepared TFDS sets'):
    build(tmp_path / 'empty', tmp_path / 'data')


def test_sound_files_that_tfds_keeps_are_decoded(tmp_path):
  """`Audio(lazy_decode=True)` stores the file itself."""
  file = recordings.write(tmp_path / 'a.flac', 3200, 32000).read_bytes()
  source = tfds_sets.write(
    tmp_path, {'train': [[row(0, speech=file)]]}, about={'lazyDecode': True, 'sampleRate': '32000'}
  )
  build(source, tmp_path / 'data')
  found = recordings.examples(tmp_path / 'data', 'transcripts', 'train')
  assert len(found['train-00000-0'].turns[0].audio) == 1600


def test_the_command_line(source, tmp_path, monkeypatch, capsys):
  command = ['corpus', '--reader', 'tfds', '--source', str(source), '--data', str(tmp_path)]
  monkeypatch.setattr(sys, 'argv', [*command, '--fields', 'text=id,language=de', '--workers', '0'])
  corpus.main()
  assert json.loads(capsys.readouterr().out)['sets']['transcripts/train']['examples'] == 5
  assert recordings.examples(tmp_path, 'transcripts', 'test')['test_other-00000-0'].turns[0].text
  for fields, message in (('text', 'NAME=FIELD'), ('hue=id', "no field 'hue'")):
    monkeypatch.setattr(sys, 'argv', [*command, '--fields', fields])
    with pytest.raises(ConfigError, match=message):
      corpus.main()
  listed = str(recordings.manifest(tmp_path / 'list', [recordings.row('a')]))
  command = ['corpus', '--manifest', listed, '--data', str(tmp_path / 'mine')]
  monkeypatch.setattr(sys, 'argv', [*command, '--fields', 'text=id'])
  with pytest.raises(ConfigError, match='takes no --fields'):
    corpus.main()
