"""Lists in which packaged voices speak in place of recordings."""

from collections import Counter
import json

import numpy as np
import pytest

from data_pipeline import dataset, ingest, quarantine
from data_pipeline.corpus import voice_lines, voices
from data_pipeline.quarantine import Unusable
from echox_jax import audio
from echox_jax.errors import DataError, EchoXError
from tests.helpers import recordings
from tests.helpers.recordings import row

ALL = ingest.Limits(max_quarantined=1.0)


@pytest.fixture
def spoken(monkeypatch):
  """Every voice is installed, and says noise whose length tells the words and the speed."""
  said = Counter()

  def synthesise(text, voice, speed=1.0, seed=0):
    said[voice.name, text] += 1
    rng = np.random.default_rng([len(text), seed])
    length = int((8000 + 100 * len(text)) / speed * voice.pitch)
    return (0.1 * rng.normal(size=length)).astype(np.float32)

  monkeypatch.setattr(voices, 'synthesise', synthesise)
  monkeypatch.setattr(voices, 'available', lambda voice: True)
  return said


def exchange(name, asked='voice:joe', answered='voice:hibari', **changes):
  return row(name, question_audio=asked, answer_audio=answered, **changes)


def read_in(folder, rows, **options):
  path = recordings.manifest(folder, rows)
  options = {'limits': ALL, **options}
  return ingest.build('manifest', path, folder / 'data', **options)


def test_voices_say_the_words_of_their_lines(tmp_path, spoken):
  rows = [
    exchange('a', question='What is a rose?', answer='A flower.'),
    exchange('b', 'voice:kal', split='test', speaker='a robot'),
    row('c', question_audio='voice:awb?text=What%20is%20won%3F'),  # beside a recording
  ]
  summary = read_in(tmp_path, rows)
  assert summary['quarantined'] == {}
  assert spoken == {
    ('joe', 'What is a rose?'): 1,
    ('hibari', 'A flower.'): 1,
    ('kal', 'what is one?'): 1,
    ('hibari', 'One is one.'): 1,
    ('awb', 'What is won?'): 1,
  }
  asked = recordings.examples(tmp_path / 'data', 'questions', 'train')
  assert [asked[name].turns[0].speaker for name in 'ac'] == ['joe', 'awb']
  assert asked['c'].turns[0].text == 'what is one?' and len(asked['a'].turns[0].audio) >= 8000
  (test,) = dataset.read_examples(tmp_path / 'data', 'questions', 'test')
  assert test.turns[0].speaker == 'a robot'
  answers = recordings.examples(tmp_path / 'data', 'answers', 'train')
  assert answers['a'].turns[0].speaker == 'hibari' and answers['c'].turns[0].speaker == ''


def test_dialogues_may_be_spoken_too(tmp_path, spoken):
  lines = [
    {
      'id': split,
      'split': split,
      'turns': [
        {'role': 'user', 'text': f'Hello, {split}.', 'audio': 'voice:kal'},
        {'role': 'assistant', 'text': 'Hello.', 'audio': 'voice:hibari'},
      ],
    }
    for split in ('train', 'test')
  ]
  (tmp_path / 'list.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  ingest.build('dialogues', tmp_path / 'list.jsonl', tmp_path / 'data')
  (example,) = dataset.read_examples(tmp_path / 'data', 'questions', 'test')
  assert [turn.speaker for turn in example.turns] == ['kal', 'hibari']
  assert spoken['kal', 'Hello, test.'] == 1


def test_options_change_what_is_heard(spoken):
  def heard(options=''):
    line = voice_lines.with_text(f'voice:joe{options}', 'What is one?')
    return audio.from_int16(voice_lines.read(line, 30.0))

  plain = heard()
  np.testing.assert_array_equal(plain, heard())
  assert abs(len(plain) / len(heard('?speed=1.25')) - 1.25) < 0.01
  assert abs(len(heard('?pitch=1.2')) / len(plain) - 1.2) < 0.01
  assert abs(np.std(heard('?level=0.05')) - 0.05) < 0.001
  silences = heard('?lead=0.2&tail=0.1&level=0.05')
  assert len(silences) == len(plain) + 4800 and not silences[:3200].any()
  noisy = heard('?lead=0.2&tail=0.1&level=0.05&noise=20')
  floor = np.std(noisy[:3200]) / np.std(silences)
  assert abs(20 * np.log10(floor) + 20) < 0.5
  assert np.abs(heard('?room=0.3&level=0.05') - heard('?level=0.05')).max() > 0.01
  assert np.abs(heard('?seed=1') - plain).max() > 0.01


@pytest.mark.parametrize(
  'line, named',
  [
    ('voice:bob', "names the voice 'bob', which is none of hibari, .* slt"),
    ('voice:joe?volume=2', "option 'volume', which is none of speed"),
    ('voice:joe?speed=9', 'speed=9 .* not a number from 0.5 to 2'),
    ('voice:joe?speed=nan', 'speed=nan'),
    ('voice:joe?seed=one', 'seed=one'),
  ],
)
def test_mistakes_are_named(tmp_path, spoken, line, named):
  with pytest.raises(Unusable, match=named) as caught:
    voice_lines.with_text(line, 'One.')
  assert caught.value.reason == 'wrong fields'
  summary = read_in(tmp_path, [exchange('a'), exchange('t', split='test'), exchange('b', line)])
  assert summary['quarantined'] == {'wrong fields': 1}


def test_a_voice_that_is_not_installed_is_told_before_anything_is_spoken(
  tmp_path, spoken, monkeypatch
):
  rows = [
    exchange('a'),
    exchange('t', split='test'),
    *(exchange(f'{i}', 'voice:ked') for i in '12'),
  ]
  monkeypatch.setattr(voices, 'available', lambda voice: voice.name != 'ked')
  with pytest.raises(DataError, match='2 no voice.*apt-get install festival festvox-kdlpc16k'):
    read_in(tmp_path, rows, limits=ingest.Limits())
  assert not spoken
  assert read_in(tmp_path, rows)['quarantined'] == {'no voice': 2}
  found = quarantine.read(tmp_path / 'data' / quarantine.FILE)
  assert {entry['file'].partition('?')[0] for entry in found} == {'voice:ked'}
  # installed since: nothing else is needed for its lines to be spoken
  monkeypatch.setattr(voices, 'available', lambda voice: True)
  assert read_in(tmp_path, rows)['quarantined'] == {}
  assert len(recordings.examples(tmp_path / 'data', 'questions', 'train')) == 3


def test_a_host_without_the_voice_stops_the_job(spoken, monkeypatch):
  """Or the data would depend on who reads which shard."""
  line = voice_lines.with_text('voice:ked', 'One.')
  monkeypatch.setattr(voices, 'available', lambda voice: False)
  with pytest.raises(EchoXError, match='install it on every host with `apt-get install festival'):
    voice_lines.read(line, 30.0)


def test_words_that_a_voice_cannot_speak_are_left_out(tmp_path, spoken, monkeypatch):
  synthesise = voices.synthesise

  def fragile(text, voice, speed=1.0, seed=0):
    if text == '...':
      return np.zeros(100, np.float32)
    if text == 'crash':
      raise EchoXError('the speech program flite failed (crash): reinstall it.')
    return synthesise(text, voice, speed, seed)

  monkeypatch.setattr(voices, 'synthesise', fragile)
  rows = [exchange('a'), exchange('t', split='test')]
  rows += [exchange('s', question='...'), exchange('c', question='crash')]
  rows += [exchange('long', question='long ' * 200)]
  summary = read_in(tmp_path, rows, limits=ingest.Limits(5.0, 1.0))
  assert summary['quarantined'] == {'not spoken': 2, 'over-long': 1}


@pytest.mark.slow
def test_shards_and_processes_change_nothing_and_nothing_is_spoken_twice(tmp_path):
  """A voice that is really there, in processes of their own."""
  if not voices.available(voices.NAMED['kal']):
    pytest.skip('flite is not installed')
  rows = [
    row(f'{i}', question_audio=f'voice:kal?speed=1.{i}&room=0.2&noise=20&seed={i}', question=text)
    for i, text in enumerate(('Who are you?', 'What is "one", really & truly?', "Is it 5 o'clock?"))
  ]
  rows.append(row('t', question_audio='voice:awb', split='test'))
  for name, workers, size in (('one', 0, 512), ('two', 2, 2)):
    path = recordings.manifest(tmp_path, rows)
    sharing = ingest.Sharing(size, workers)
    ingest.build('manifest', path, tmp_path / name, sharing=sharing)
  found = [
    [
      (e.id, e.turns[0].audio.tobytes(), e.turns[0].text)
      for split in ('train', 'test')
      for e in dataset.read_examples(tmp_path / name, 'questions', split)
    ]
    for name in ('one', 'two')
  ]
  assert found[0] == found[1] and len(found[0]) == 4
  files = {p: p.stat().st_mtime_ns for p in (tmp_path / 'two').glob('*/*.array_record*')}
  ingest.build('manifest', path, tmp_path / 'two', sharing=sharing)
  assert {p: p.stat().st_mtime_ns for p in files} == files
