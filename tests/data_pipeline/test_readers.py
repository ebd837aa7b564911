"""Every layout becomes data sets; a list may hold any bytes."""

import json
import shutil
import subprocess
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from data_pipeline import dataset, ingest, planning, readers
from data_pipeline.quarantine import REASONS, Entry, Quarantine
from data_pipeline.readers.items import Item
from echox_jax.errors import ConfigError, DataError, EchoXError
from tests.helpers import recordings
from tests.helpers.recordings import row


def test_a_manifest_becomes_data_sets(tmp_path):
  path = recordings.manifest(
    tmp_path, [row('a', references=['one']), row('b', split='test'), row('c', question_audio=None)]
  )
  summary = ingest.build('manifest', path, tmp_path / 'data')
  assert {name: counts['examples'] for name, counts in summary['sets'].items()} == {
    'questions/train': 1,
    'questions/test': 1,
    'answers/train': 2,
    'answers/holdout': 1,
  }
  assert summary['quarantined'] == {} and not (tmp_path / 'data' / 'quarantine.jsonl').exists()
  question = recordings.examples(tmp_path / 'data', 'questions', 'train')['a']
  assert [t.role for t in question.turns] == ['user', 'assistant']
  assert len(question.turns[0].audio) == 1600 and not len(question.turns[1].audio)
  assert question.turns[1].references == ('one',)
  answers = recordings.examples(tmp_path / 'data', 'answers', 'train')
  assert list(answers) == ['a', 'c'] and len(answers['a'].turns[0].audio) == 3200


def test_a_tsv_says_the_same(tmp_path):
  rows = [
    row('a', references=['one', '1']),
    row('b', split='test'),
    row('c', question_audio='', question=''),
  ]
  fields = ('id', 'question', 'question_audio', 'answer', 'answer_audio', 'references', 'split')
  cells = [
    [('|'.join(v) if isinstance(v := r.get(f, ''), list) else v) for f in fields] for r in rows
  ]
  lines = ['\t'.join(line) for line in (fields, *cells)]
  ingest.build('manifest', recordings.manifest(tmp_path, rows), tmp_path / 'json')
  table = recordings.manifest(
    tmp_path, ['\ufeff' + lines[0] + '\r', *(line + '\r' for line in lines[1:])], 'm.tsv'
  )
  ingest.build('manifest', table, tmp_path / 'tsv')
  assert recordings.content(tmp_path / 'json') == recordings.content(tmp_path / 'tsv')
  with pytest.raises(DataError, match="first line .'colour' is not a column"):
    ingest.build(
      'manifest',
      recordings.manifest(tmp_path, ['id\tanswer\tcolour', 'a\tb\tc'], 'wrong.tsv'),
      tmp_path / 'no',
    )


def test_without_splits_some_items_are_held_out(tmp_path):
  path = recordings.manifest(
    tmp_path,
    [row(f'{i}') for i in range(30)] + [row(f'heard {i}', answer_audio=None) for i in range(4)],
  )
  sets = ingest.build('manifest', path, tmp_path / 'data')['sets']
  assert {name: counts['examples'] for name, counts in sets.items()} == {
    'questions/train': 31,
    'questions/test': 3,
    'answers/train': 28,
    'answers/holdout': 2,
  }
  held = set(recordings.examples(tmp_path / 'data', 'answers', 'holdout'))
  assert held < set(recordings.examples(tmp_path / 'data', 'questions', 'test'))


def test_librispeech(tmp_path):
  for subset, speaker, words in (
    ('train-clean-100', '103', 'CHAPTER ONE'),
    ('train-other-500', '20', 'TWO'),
    ('test-clean', '61', "IT'S THREE"),
  ):
    folder = tmp_path / 'LibriSpeech' / subset / speaker / '1240'
    recordings.write(folder / f'{speaker}-1240-0000.flac', 2000)
    (folder / f'{speaker}-1240.trans.txt').write_text(f'{speaker}-1240-0000 {words}\n')
  sets = ingest.build('librispeech', tmp_path / 'LibriSpeech', tmp_path / 'data', prefix='libri_')[
    'sets'
  ]
  assert {name: counts['examples'] for name, counts in sets.items()} == {
    'libri_transcripts/train': 2,
    'libri_transcripts/test': 1,
  }
  heard, written = recordings.examples(tmp_path / 'data', 'libri_transcripts', 'test')[
    '61-1240-0000'
  ].turns
  assert (
    heard.text == written.text == "it's three"
    and heard.speaker == '61'
    and heard.category == written.category == 'asr'
  )
  assert (
    len(heard.audio) == 2000 and not len(written.audio) and written.references == ("it's three",)
  )


@pytest.mark.parametrize('form', ['flac', 'opus'])
def test_mls(tmp_path, form):
  root = tmp_path / ('mls_german_opus' if form == 'opus' else 'mls_german')
  for split in ('train', 'dev'):
    how = dict(format='OGG', subtype='OPUS') if form == 'opus' else {}
    recordings.write(
      root / split / 'audio' / '48' / '100' / f'48_100_00000{split[0]}.{form}', 16000, **how
    )
    (root / split / 'transcripts.txt').write_text(
      f'48_100_00000{split[0]}\tschön war es\n', 'utf-8'
    )
  sets = ingest.build('mls', tmp_path, tmp_path / 'data')['sets']
  assert {name: counts['examples'] for name, counts in sets.items()} == {
    'transcripts/train': 1,
    'transcripts/dev': 1,
  }
  heard = recordings.examples(tmp_path / 'data', 'transcripts', 'dev')['48_100_00000d'].turns[0]
  assert (heard.text, heard.language, heard.speaker) == ('schön war es', 'de', '48') and len(
    heard.audio
  ) == 16000


def dialogue(name, split='train'):
  return {
    'id': name,
    'split': split,
    'conversations': [
      {'role': 'user', 'text': 'Tea?', 'audio': '0.wav', 'speaker': 'anna'},
      {'role': 'assistant', 'text': 'Yes.', 'audio': '1.wav'},
      {'from': 'human', 'value': 'Hot?'},
      {'from': 'gpt', 'value': 'Very.', 'audio_path': '0.wav'},
    ],
  }


@pytest.mark.parametrize('form', ['jsonl', 'json', 'folder'])
def test_dialogues(tmp_path, form):
  found = [dialogue('a'), dialogue('b', 'test')]
  source = recordings.manifest(tmp_path / 'in', found, 'd.jsonl')
  if form == 'json':
    source = recordings.manifest(tmp_path / 'in', [json.dumps(found)], 'd.json')
  if form == 'folder':
    source.unlink()
    for d in found:
      source = recordings.manifest(tmp_path / 'in', [d], f'{d["id"]}.json').parent
  ingest.build('dialogues', source, tmp_path / 'data')
  asked = recordings.examples(tmp_path / 'data', 'questions', 'train')['a']
  assert [(t.role, t.text, len(t.audio)) for t in asked.turns] == [
    ('user', 'Tea?', 1600),
    ('assistant', 'Yes.', 0),
    ('user', 'Hot?', 0),
    ('assistant', 'Very.', 0),
  ]
  said = recordings.examples(tmp_path / 'data', 'answers', 'holdout')['b']
  assert [(t.text, len(t.audio)) for t in said.turns] == [('Yes.', 3200), ('Very.', 1600)]


def test_pairs(tmp_path):
  for i in range(3):
    recordings.write(tmp_path / 'beside' / 'deep' / f'{i}.wav', 2000 + i)
    (tmp_path / 'beside' / 'deep' / f'{i}.txt').write_text(f'number {i}\n')
    recordings.write(tmp_path / 'listed' / 'wavs' / f'{i}.wav', 2000 + i)
  (tmp_path / 'listed' / 'metadata.csv').write_text('0|No. 0|number 0\n1|number 1\n2|number 2|\n')
  for form, prefix in (('beside', 'deep/'), ('listed', '')):
    ingest.build('pairs', tmp_path / form, tmp_path / 'data' / form)
    found = [
      recordings.examples(tmp_path / 'data' / form, 'answers', split)
      for split in ('train', 'holdout')
    ]
    together = {**found[0], **found[1]}
    assert len(found[0]) == 2 and {
      name: (t.turns[0].text, len(t.turns[0].audio)) for name, t in together.items()
    } == {f'{prefix}{i}': (f'number {i}', 2000 + i) for i in range(3)}


FORMATS = [
  ('a.flac', 44100, {}),
  ('a.mp3', 32000, {}),
  ('a.ogg', 8000, {}),
  ('a.opus', 48000, dict(format='OGG', subtype='OPUS')),
  ('a.wav', 96000, {}),
]


def test_any_format_rate_and_number_of_channels(tmp_path):
  rows = []
  for name, rate, how in FORMATS:
    recordings.write(tmp_path / name, rate, rate, **how)
    rows.append(row(name, question_audio=name, split='test' if name == 'a.ogg' else 'train'))
  recordings.soundfile.write(
    tmp_path / 'six.wav', recordings.np.stack([recordings.voice(16000)] * 6, 1), 16000
  )
  rows.append(row('six', question_audio='six.wav'))
  if shutil.which('ffmpeg'):
    subprocess.run(
      ['ffmpeg', '-v', 'error', '-y', '-i', tmp_path / 'six.wav', tmp_path / 'a.m4a'], check=True
    )
    rows.append(row('m4a', question_audio='a.m4a'))
  ingest.build('manifest', recordings.manifest(tmp_path, rows), tmp_path / 'data')
  found = recordings.examples(tmp_path / 'data', 'questions', 'train') | recordings.examples(
    tmp_path / 'data', 'questions', 'test'
  )
  assert len(found) == len(rows)
  for name, example in found.items():
    assert abs(len(example.turns[0].audio) - 16000) < 2500, name
  ingest.build('manifest', tmp_path / 'manifest.jsonl', tmp_path / 'kept', keep_encoded=True)
  kept = recordings.examples(tmp_path / 'kept', 'questions', 'train') | recordings.examples(
    tmp_path / 'kept', 'questions', 'test'
  )
  for name, example in found.items():
    recordings.np.testing.assert_array_equal(
      kept[name].turns[0].audio, example.turns[0].audio, name
    )
  stored = next(iter(dataset.open_dataset(tmp_path / 'kept', 'questions', 'test')))
  assert bytes(stored['recordings']) == (tmp_path / 'a.ogg').read_bytes() and not len(
    stored['audio']
  )


def test_the_same_source_gives_the_same_bytes_and_processes_change_nothing(tmp_path):
  path = recordings.manifest(
    tmp_path, [row(f'{i}') for i in range(9)] + [row('bad', question_audio='bad.wav')]
  )
  (tmp_path / 'bad.wav').write_text('no audio')
  limits = ingest.Limits(max_quarantined=0.2)
  for name, workers in (('one', 0), ('two', 2), ('one', 0)):
    sharing = ingest.Sharing(workers=workers)
    ingest.build('manifest', path, tmp_path / name, sharing=sharing, limits=limits)
  assert recordings.content(tmp_path / 'one') == recordings.content(tmp_path / 'two')
  splits = dataset.manifest(tmp_path / 'one', 'questions')['splits']
  assert splits['train']['examples'] + splits['test']['examples'] == 9


@pytest.mark.parametrize('name', list(readers.READERS))
def test_a_source_broken_as_a_whole_is_one_error(tmp_path, name):
  (tmp_path / 'nothing').mkdir()
  for source in ('missing', 'nothing'):
    with pytest.raises(EchoXError):
      ingest.build(name, tmp_path / source, tmp_path / 'data')
  assert [p.name for p in tmp_path.iterdir()] == ['nothing']
  assert len(readers.get(name).guide) > 200
  with pytest.raises(ConfigError, match='one of manifest'):
    readers.get('tape')


LINES = st.one_of(
  st.binary(max_size=60).filter(lambda b: b'\n' not in b),
  st.text(max_size=40).map(lambda t: t.encode('utf-8', 'surrogatepass').replace(b'\n', b'')),
  st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
      st.lists(inner, max_size=3)
      | st.dictionaries(
        st.sampled_from(['id', 'answer', 'question_audio', 'references', 'split', 'turns', 'role']),
        inner,
      )
    ),
    max_leaves=6,
  ).map(lambda v: json.dumps(v).encode()),
)
TRICKY = [
  b'[' * 100_000,
  b'{"id": "x", "answer": "\\ud800", "answer_audio": "1.wav"}',
  b'{"id": "y", "answer": "a", "answer_audio": "\\u0000"}',
  b'{"id": 1' + b'0' * 5000 + b'}',
  b'{"id": "z", "answer": "a", "answer_audio": "' + b'n' * 5000 + b'"}',
  b'\xff\xfe',
  b'\x00',
]


@given(st.lists(LINES, max_size=6), st.sampled_from(['m.jsonl', 'm.tsv', 'd.jsonl', 'd.json']))
@settings(
  max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_read_or_refused_and_good_lines_survive(tmp_path, lines, name):
  good = {
    'm.jsonl': json.dumps(row('good')),
    'm.tsv': 'good\tOne.\t1.wav',
    'd.jsonl': json.dumps(dialogue('good')),
    'd.json': '',
  }[name]
  head = [b'id\tanswer\tanswer_audio'] if name == 'm.tsv' else []
  (tmp_path / name).write_bytes(b'\n'.join([*head, *lines, *TRICKY, good.encode()]))
  read = readers.get('manifest' if name[0] == 'm' else 'dialogues').read
  try:
    found = list(read(tmp_path / name))
  except EchoXError:
    assert name == 'd.json'
    return
  assert all(
    isinstance(item, Item) or (isinstance(item, Entry) and item.reason in REASONS) for item in found
  )
  assert 'good' in [item.id for item in found if isinstance(item, Item)]
  list(planning.usable_sound(found, Quarantine('m', 1.0)))


LISTS = {
  'librispeech': ('train-clean-100/1/2/1-2.trans.txt', b'good HELLO'),
  'mls': ('train/transcripts.txt', b'good\tHELLO'),
  'pairs': ('metadata.csv', b'good|HELLO'),
}


@given(st.lists(LINES, max_size=6), st.sampled_from(list(LISTS)))
@settings(
  max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_in_the_lists_of_corpora_are_read_or_refused(tmp_path, lines, name):
  path, good = LISTS[name]
  (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / name / path).write_bytes(
    b'\n'.join(
      [
        *lines,
        *TRICKY,
        b'\ttext',
        b'|text',
        b' TEXT',
        b'..\ta',
        b'../|a',
        b'a/\tb',
        b'a_b\tc',
        good,
      ]
    )
  )
  found = list(readers.get(name).read(tmp_path / name))
  assert all(
    isinstance(item, Item) or (isinstance(item, Entry) and item.reason in REASONS) for item in found
  )
  assert 'good' in [item.id for item in found if isinstance(item, Item)]
  assert not list(planning.usable_sound(found, Quarantine('m', 1.0)))  # no recordings are there


def test_the_command_line(tmp_path, capsys, monkeypatch):
  from launch import corpus

  def run(*arguments):
    monkeypatch.setattr(sys, 'argv', ['corpus', *map(str, arguments)])
    corpus.main()
    return capsys.readouterr().out

  path = recordings.manifest(tmp_path, [row('a'), row('b', split='test')])
  assert json.loads(
    run('--manifest', path, '--data', tmp_path / 'x', '--workers', 0)
  ) == json.loads(
    run('--reader', 'manifest', '--source', path, '--data', tmp_path / 'y', '--workers', 0)
  )
  assert 'LibriSpeech' in run('--reader', 'librispeech', '--help') and '--max_quarantined' in run(
    '--help'
  )
  for wrong in (
    ['--reader', 'mls'],
    ['--manifest', path],
    ['--manifest', path, '--reader', 'mls', '--data', tmp_path / 'z'],
  ):
    with pytest.raises(ConfigError):
      run(*wrong, *(['--data', tmp_path / 'z'] if wrong[0] == '--reader' else []))
