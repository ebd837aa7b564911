"""What a folder holds is counted and shown; the schema describes what is written."""

import builtins
import json
import sys

import numpy as np
import pytest

from data_pipeline import dataset, inspection, schema
from data_pipeline.schema import Example, Turn
from echox_jax.errors import ConfigError, DataError, MissingExtraError
from launch import inspect as command
from tests.helpers import recordings


def clip(seconds):
  return (1000 * recordings.voice(int(16000 * seconds))).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
  """Two sets, one with items that are damaged."""
  asked = [
    Example(
      f'{i}', (Turn('user', f'question {i}', audio=clip(0.25 * (i + 1))), Turn('assistant', 'yes'))
    )
    for i in range(8)
  ]
  said = [
    Example(
      'a',
      (
        Turn(
          'assistant',
          'fine',
          audio=clip(1.0),
          units=np.arange(50, dtype=np.int32),
          unit_words=np.arange(20, dtype=np.int32),
        ),
      ),
    ),
    Example('a', (Turn('assistant', '', audio=clip(1.0)),)),
    Example('mute', (Turn('assistant', 'mute', audio=np.zeros(800, np.int16)),)),
  ]
  dataset.write_dataset(tmp_path / 'data', 'questions', {'train': asked[:6], 'test': asked[6:]})
  dataset.write_dataset(tmp_path / 'data', 'answers', {'train': said})
  (tmp_path / 'data' / 'quarantine.jsonl').write_text(
    '{"reason": "silent"}\n{"reason": "silent"}\n'
  )
  return tmp_path / 'data'


def test_the_report(folder):
  report, _ = inspection.inspect(folder, batch_size=2, shown=1)
  assert list(report['sets']) == ['answers/train', 'questions/test', 'questions/train'] and report[
    'quarantined'
  ] == {'silent': 2}
  asked, said = report['sets']['questions/train'], report['sets']['answers/train']
  assert (
    asked['examples'] == 6
    and asked['turns'] == {'user': 6, 'assistant': 6}
    and asked['filled'] == {'text': 12, 'audio': 6}
  )
  assert (
    asked['hours'] == {'user': round(0.25 * 21 / 3600, 4)}
    and asked['lengths']['user_seconds']['max'] == 1.5
  )
  assert (
    asked['damaged'] == 0
    and asked['shown'][0]['turns'][0]['text'] == 'question 0'
    and asked['shown'][0]['turns'][0]['audio'] == [4000]
  )
  assert (
    said['filled'] == {'text': 2, 'audio': 3, 'units': 1, 'unit_words': 1} and said['damaged'] == 3
  )
  assert said['damaged_named'] == [
    ['a', 'repeats an id'],
    ['a', 'turn 0 has audio without text'],
    ['mute', 'turn 0 is silent'],
  ]
  text = inspection.in_text(report)
  assert (
    'questions/train: 6 examples' in text
    and 'damaged: mute turn 0 is silent' in text
    and '2 silent' in text
  )


def test_a_damaged_file_is_counted_or_named(folder):
  file = next((folder / 'questions').glob('*train.array_record-?????-of-?????'))
  data = bytearray(file.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 2000] = bytes(2000)
  file.write_bytes(data)
  report, _ = inspection.inspect(folder)
  assert (
    report['sets']['questions/train']['damaged'] >= 1
    and report['sets']['questions/test']['damaged'] == 0
  )
  with pytest.raises(DataError, match='holds no data sets'):
    inspection.inspect(folder / 'questions')


def test_padding_forecast():
  seconds = [1.0, 3.0, 1.0, 3.0]
  found = inspection.padding_forecast(seconds, 2, 4.0)
  assert (
    found['by_length'] == 0.0
    and found['static'] == 0.5
    and found['left_out'] == 0
    and found['shuffled'] in (0.0, round(1 / 3, 4))
  )
  assert inspection.padding_forecast(seconds, 4, 2.0) == {
    'shuffled': round(1 / 3, 4),
    'by_length': round(1 / 3, 4),
    'static': 0.5,
    'left_out': 2,
  }
  assert inspection.padding_forecast([9.0], 4, 2.0)['static'] == 1.0


def test_the_command(folder, tmp_path, capsys, monkeypatch):
  def run(*arguments):
    monkeypatch.setattr(sys, 'argv', ['inspect', *map(str, arguments)])
    command.main()
    return capsys.readouterr().out

  out = run(folder, '--json', tmp_path / 'r.json', '--config', 'configs/echox_nano.py:s2t')
  assert 'answers/train: 3 examples' in out and 'static' in out
  static = json.loads((tmp_path / 'r.json').read_text())['sets']['questions/test']['padding'][
    'user'
  ]
  assert static['left_out'] == 0 and static['static'] == round(1 - 0.25 * 15 / 8, 4)
  assert json.loads(run('--schema')) == schema.json_schema()
  with pytest.raises(ConfigError, match='DIR'):
    run()


def test_the_picture(folder, tmp_path, monkeypatch):
  _, splits = inspection.inspect(folder)
  if 'matplotlib' in sys.modules or __import__('importlib').util.find_spec('matplotlib'):
    inspection.draw(splits, tmp_path / 'p.png')
    assert (tmp_path / 'p.png').read_bytes()[1:4] == b'PNG'
    with pytest.raises(DataError, match='not a picture'):
      inspection.draw(splits, tmp_path / 'p.xyz')
  importer = builtins.__import__

  def without(name, *rest):
    if name.startswith('matplotlib'):
      raise ImportError(name)
    return importer(name, *rest)

  monkeypatch.setattr(builtins, '__import__', without)
  with pytest.raises(MissingExtraError, match='demo'):
    inspection.draw(splits, tmp_path / 'p.png')


def test_the_schema_describes_every_column_and_field():
  found = schema.json_schema()
  assert tuple(found['required']) == schema.COLUMNS and tuple(found['properties']) == (
    *schema.COLUMNS,
    *schema.RECORDING_COLUMNS,
  )
  turn = found['properties']['turns']['contentSchema']['items']
  fields = [f for f in Turn.__dataclass_fields__ if f not in (*schema.ARRAYS, 'recording')]
  assert list(turn['properties']) == fields and all(
    value['description'] for value in turn['properties'].values()
  )
  record = schema.encode(
    Example('a', (Turn('user', 'x', audio=clip(0.1), states=np.zeros((3, 4), np.float16)),))
  )
  for name, value in record.items():
    column = found['properties'][name]
    if 'x-dtype' in column:
      assert value.dtype == column['x-dtype'] and value.ndim == len(column['x-shape']), name
    else:
      assert column['type'] == 'string' and isinstance(value, str)
  assert set(json.loads(record['turns'])[0]) == set(turn['required'])
