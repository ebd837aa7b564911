"""Whatever cannot be used is listed with its reason and counted; too much of it stops the job."""

import functools
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from data_pipeline import decoding, ingest, quarantine, record_files
from data_pipeline.corpus import voices
from data_pipeline.quarantine import Unusable
from echox_jax import audio
from echox_jax.errors import ConfigError, DataError
from tests.helpers import recordings
from tests.helpers.recordings import row, voice

ALL = ingest.Limits(max_quarantined=1.0)


def _rated(path, rate):
  """A wav whose header says `rate`."""
  audio.write_wav(path, voice(), rate)


def _long(path):
  """Three hours in a file that takes no room: a header, and a hole."""
  audio.write_wav(path, np.zeros(0))
  header, size = bytearray(path.read_bytes()), 2 * 3 * 3600 * 16000
  header[4:8], header[40:44] = (36 + size).to_bytes(4, 'little'), size.to_bytes(4, 'little')
  path.write_bytes(header)
  os.truncate(path, 44 + size)


def _cut(path, name):
  whole = recordings.write(path.with_name(f'whole_{name}'), 16000)
  path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


BAD_FILES = {
  'empty file': ('zero.wav', lambda p: p.touch()),
  'damaged': ('text.wav', lambda p: p.write_text('no audio at all' * 9)),
  'truncated': ('cut.wav', lambda p: _cut(p, 'cut.wav')),
  'damaged ': ('cut.flac', lambda p: _cut(p, 'cut.flac')),
  'wrong rate': ('1hz.wav', lambda p: _rated(p, 1)),
  'wrong rate ': ('192khz.wav', lambda p: _rated(p, 192_000)),
  'not finite': (
    'nan.wav',
    lambda p: soundfile.write(p, np.r_[voice(), np.nan], 16000, subtype='FLOAT'),
  ),
  'over-long': ('hours.wav', _long),
  'too short': ('click.wav', lambda p: audio.write_wav(p, voice(100))),
  'too short ': ('header.wav', lambda p: audio.write_wav(p, np.zeros(0))),
  'silent': ('silent.wav', lambda p: audio.write_wav(p, np.zeros(8000))),
  'missing file': ('nowhere.wav', lambda p: None),
}
BAD_LINES = {
  'not JSON': '{"id": ',
  'not JSON ': '[1]',
  'not UTF-8': b'{"id": "\xff"}',
  'not UTF-8 ': '{"id": "u", "answer": "\\udcff", "answer_audio": "1.wav"}',
  'duplicate id': row('good'),
  'no text': row('t', answer=' '),
  'no text ': row('q', question=None),
  'no audio': row('n', question_audio='', answer_audio=None),
  'wrong fields': row('f', colour='red'),
  'wrong fields ': row('r', references='one'),
  'wrong fields  ': row('s', split='valid'),
  'wrong fields   ': row('i', question_audio=7),
}
BAD_VOICES = {
  'no voice': row('v', question_audio='voice:ked', answer_audio=None),
  'not spoken': row('w', question_audio='voice:kal', answer_audio=None),
}


def test_every_bad_input_is_listed_and_the_good_ones_stay(tmp_path, monkeypatch):
  monkeypatch.setattr(voices, 'available', lambda voice: voice.name == 'kal')
  monkeypatch.setattr(voices, 'synthesise', lambda *_: np.zeros(100, np.float32))
  for name, make in BAD_FILES.values():
    make(tmp_path / name)
  rows = [
    row('good'),
    row('tested', split='test'),
    *(row(name, question_audio=name, answer_audio=None) for name, _ in BAD_FILES.values()),
    *BAD_LINES.values(),
    *BAD_VOICES.values(),
  ]
  path = recordings.manifest(tmp_path, rows)
  summary = ingest.build('manifest', path, tmp_path / 'data', limits=ALL)
  found = quarantine.read(tmp_path / 'data' / 'quarantine.jsonl')
  reasons = sorted(reason.strip() for reason in (*BAD_FILES, *BAD_LINES, *BAD_VOICES))
  assert sorted(line['reason'] for line in found) == reasons and set(reasons) == set(
    quarantine.REASONS
  )
  assert (
    sum(summary['quarantined'].values()) == len(found) == len(reasons)
    and summary['quarantined']['wrong fields'] == 4
  )
  by_file = {line['id']: line for line in found if line['id'].endswith(('.wav', '.flac'))}
  assert {line['id']: line['reason'] for line in by_file.values()} == {
    name: reason.strip() for reason, (name, _) in BAD_FILES.items()
  }
  assert all(line['file'].endswith(name) for name, line in by_file.items())
  assert all(
    set(line) == {'source', 'id', 'set', 'file', 'reason', 'detail'} and line['detail']
    for line in found
  )
  assert list(recordings.examples(tmp_path / 'data', 'questions', 'train')) == ['good']
  assert summary['quarantined_share'] == round(len(found) / (len(found) + 4), 4)


def test_hours_of_audio_are_refused_unread(tmp_path, monkeypatch):
  _long(tmp_path / 'a.wav')
  monkeypatch.setattr(soundfile, 'read', lambda *_, **__: pytest.fail('read'))
  with pytest.raises(Unusable, match='10800.0 s'):
    decoding.decode(str(tmp_path / 'a.wav'), 30.0)


def test_too_much_stops_the_job_and_writes_no_data(tmp_path):
  rows = [row(f'{i}', split='test' if i == 3 else 'train') for i in range(19)]
  data = tmp_path / 'data'
  ingest.build('manifest', recordings.manifest(tmp_path, rows), data)
  before = recordings.content(data)
  audio.write_wav(tmp_path / 'silent.wav', np.zeros(8000))
  path = recordings.manifest(
    tmp_path,
    [
      *rows,
      *(row(f'silent {i}', question_audio='silent.wav', answer_audio=None) for i in range(4)),
      'x',
    ],
  )
  with pytest.raises(
    DataError,
    match=r'3 of 43 items cannot be used \(1 not JSON, 2 silent\), '
    r'more than the share of 0.05 .*silent.wav is nowhere '
    r'louder',
  ):
    ingest.build('manifest', path, data)
  assert recordings.content(data) == before
  listed = tmp_path / 'data.quarantine.jsonl'
  assert [line['reason'] for line in quarantine.read(listed)] == ['not JSON', 'silent', 'silent']
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    '0.wav',
    '1.wav',
    'data',
    listed.name,
    'manifest.jsonl',
    'silent.wav',
  ]
  ingest.build('manifest', path, data, limits=ingest.Limits(max_quarantined=0.2))
  assert not listed.exists() and len(quarantine.read(data / 'quarantine.jsonl')) == 5
  ingest.build('manifest', recordings.manifest(tmp_path, rows), data)
  assert recordings.content(data) == before


@pytest.mark.parametrize(
  'rows, named',
  [
    (['{"id": '], ':1 is not valid JSON'),
    ([row('a'), row('a')], "repeats the id 'a' of .*:1"),
    ([row('a', question_audio='missing.wav')], 'missing.wav does not exist'),
    ([row('a', colour='red')], 'unknown fields colour'),
    ([row('a')], 'nothing for questions/test'),
    ([''], 'holds no lines'),
  ],
)
def test_mistakes_are_named(tmp_path, rows, named):
  path = recordings.manifest(tmp_path, rows)
  with pytest.raises(DataError, match=named):
    ingest.build('manifest', path, tmp_path / 'data')
  assert not (tmp_path / 'data').exists()


def test_a_split_of_which_nothing_is_left_is_an_error(tmp_path):
  audio.write_wav(tmp_path / 'silent.wav', np.zeros(8000))
  path = recordings.manifest(
    tmp_path, [row('a'), row('b', split='test', question_audio='silent.wav')]
  )
  with pytest.raises(DataError, match="split 'test' of the data set 'questions' would be empty"):
    ingest.build('manifest', path, tmp_path / 'data', limits=ALL)
  assert not recordings.content(tmp_path / 'data')
  path = recordings.manifest(tmp_path, ['x', 'y'])
  with pytest.raises(DataError, match='no item that can be used'):
    ingest.build('manifest', path, tmp_path / 'data', limits=ALL)
  with pytest.raises(ConfigError, match='max_quarantined'):
    ingest.build('manifest', path, tmp_path / 'data', limits=ingest.Limits(max_quarantined=2))


def test_several_sources_share_a_folder(tmp_path):
  data = tmp_path / 'data'
  for name in ('a', 'b', 'a'):
    path = recordings.manifest(tmp_path / name, [row('1'), row('2', split='test'), 'x'])
    ingest.build('manifest', path, data, prefix=f'{name}_', limits=ALL)
  assert sorted(p.parent.name for p in data.glob(f'*/{record_files.INFO}')) == [
    'a_answers',
    'a_questions',
    'b_answers',
    'b_questions',
  ]
  found = quarantine.read(data / 'quarantine.jsonl')
  assert sorted(line['source'] for line in found) == [
    str(tmp_path / name / 'manifest.jsonl') for name in 'ab'
  ]
  (data / 'quarantine.jsonl').write_text('{')
  with pytest.raises(DataError, match='damaged'):
    quarantine.read(data / 'quarantine.jsonl')


def test_random_bytes_are_never_more_than_unusable(tmp_path, monkeypatch):
  # ffmpeg is not what is tested, and takes long to start
  monkeypatch.setattr(shutil, 'which', lambda _: None)
  heads = {
    'wav': recordings.write(tmp_path / 'g.wav').read_bytes(),
    'flac': recordings.write(tmp_path / 'g.flac').read_bytes(),
    'ogg': recordings.write(tmp_path / 'g.ogg', 16000).read_bytes(),
    'mp3': recordings.write(tmp_path / 'g.mp3', 16000).read_bytes(),
  }
  rng, refused = np.random.default_rng(0), 0
  for i in range(60):
    suffix, good = list(heads.items())[i % 4]
    data = bytearray(good)
    for place in rng.integers(0, len(data) if i % 8 < 4 else 64, 12):
      data[place] = rng.integers(256)
    (tmp_path / f'bad.{suffix}').write_bytes(data)
    try:
      assert decoding.decode(str(tmp_path / f'bad.{suffix}'), 30.0).dtype == np.int16
    except Unusable as error:
      assert error.reason in quarantine.REASONS
      refused += 1
  assert refused


@pytest.mark.parametrize('form', ['wav', 'flac', 'aiff', 'mp3', 'ogg', 'opus', 'm4a', 'webm'])
def test_half_a_recording_is_not_taken_for_a_whole_one(tmp_path, form):
  whole, how = tmp_path / f'a.{form}', dict(format='OGG', subtype='OPUS') if form == 'opus' else {}
  if form in ('m4a', 'webm'):
    if not shutil.which('ffmpeg'):
      pytest.skip('ffmpeg is not installed')
    source = recordings.write(tmp_path / 'a.wav', 80000)
    subprocess.run(
      [
        'ffmpeg',
        '-v',
        'error',
        '-i',
        source,
        *(['-movflags', '+faststart'] if form == 'm4a' else []),
        whole,
      ],
      check=True,
    )
  else:
    recordings.write(whole, 80000, **how)
  assert abs(len(decoding.decode(str(whole), 30.0)) - 80000) < 2000
  (tmp_path / f'half.{form}').write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
  with pytest.raises(Unusable) as caught:
    decoding.decode(str(tmp_path / f'half.{form}'), 30.0)
  assert caught.value.reason in ('truncated', 'damaged')


def test_an_mp3_whose_length_is_a_guess_is_whole(tmp_path):
  if not shutil.which('ffmpeg'):
    pytest.skip('ffmpeg is not installed')
  subprocess.run(
    [
      'ffmpeg',
      '-v',
      'error',
      '-i',
      recordings.write(tmp_path / 'a.wav', 80000),
      '-write_xing',
      '0',
      tmp_path / 'a.mp3',
    ],
    check=True,
  )
  assert abs(len(decoding.decode(str(tmp_path / 'a.mp3'), 30.0)) - 80000) < 4000


def test_what_only_ffmpeg_reads_is_checked_too_and_its_lack_is_told(tmp_path, monkeypatch):
  if not shutil.which('ffmpeg'):
    pytest.skip('ffmpeg is not installed')
  subprocess.run(
    [
      'ffmpeg',
      '-v',
      'error',
      '-i',
      recordings.write(tmp_path / 'a.wav', 80000),
      tmp_path / 'a.m4a',
    ],
    check=True,
  )
  with pytest.raises(Unusable, match='more than 4'):
    decoding.decode(str(tmp_path / 'a.m4a'), 4.0)
  monkeypatch.setattr(shutil, 'which', lambda _: None)
  with pytest.raises(Unusable, match='without ffmpeg'):
    decoding.decode(str(tmp_path / 'a.m4a'), 30.0)


def _fragile(task):
  if task == 'crash':
    os._exit(1)
  if task == 'refuse':
    raise Unusable('damaged', 'so be it')
  return task * 2


def test_a_crash_of_the_decoder_costs_one_recording():
  tasks = ['a', 'refuse', 'crash', 'b', 'c', 'crash', 'd']
  with decoding.Workers(_fragile, 2) as pool:
    found = list(pool.map(tasks))
  assert [f.detail if isinstance(f, Unusable) else f for f in found] == [
    'aa',
    'so be it',
    'makes the decoder crash',
    'bb',
    'cc',
    'makes the decoder crash',
    'dd',
  ]
  assert (
    functools.reduce(lambda total, _: total + 1, decoding.Workers(_fragile, 0).map(['a'] * 3), 0)
    == 3
  )
  assert json.loads(json.dumps(quarantine.summary([{'reason': 'silent'}] * 2))) == {'silent': 2}
