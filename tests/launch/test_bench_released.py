"""`launch.bench released`, with a program that answers in place of the released code."""

import os
import re
import stat
import sys

import pytest

from echox_jax.errors import EchoXError
from launch.bench import interleaved, released
from launch.bench.authors import code
from launch.bench.child import Child
from tests.helpers.bench_jobs import measure

# Answers each row with seconds that say which time it is asked: 10, 11, 12 ...
STAND_IN = """
import json, sys
told = json.loads(sys.stdin.readline())
print(json.dumps({'ready': {'torch': told['source']}}), flush=True)
for number, line in enumerate(sys.stdin):
  row = json.loads(line)['row']
  if row == 'broken':
    print(json.dumps({'failed': 'it made 3 tokens instead of 64.'}), flush=True)
    continue
  open('asked', 'a').write(row + '\\n')
  print(json.dumps({'figures': {f'{row.removeprefix("fair_")}_s': 10.0 + number}}), flush=True)
"""
RELEASED = ('inference/echox_stream.py', 'models/echox_s2s.py', 'models/t2ullama_cr_online.py')


@pytest.fixture
def child(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  (tmp_path / 'stand_in.py').write_text(STAND_IN)
  with Child(sys.executable, 'stand_in') as child:
    yield child


@pytest.fixture
def checkout(tmp_path):
  """A folder with the names of the released code."""
  for name in RELEASED:
    (tmp_path / 'echox' / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'echox' / name).write_text('import torch\n')
  return tmp_path / 'echox'


def test_both_sides_do_a_row_in_turn(child, tmp_path):
  assert released.start(child, sys.executable, {'source': 'here'}) == {'torch': 'here'}
  asked = tmp_path / 'asked'

  def ours(row):
    with asked.open('a') as file:
      file.write(f'our {row}\n')
    return {f'{row}_s': 2.0}

  rows = released.rows({row: lambda row=row: ours(row) for row in ('vocoder', 't2c')}, child)
  times = interleaved.measure(rows, 2, lambda row: None)
  turns = ['our vocoder', 'vocoder'] * 3 + ['our t2c', 't2c', 'fair_t2c'] * 3
  assert asked.read_text().split('\n')[:-1] == turns
  # The first run is not counted: the three requests for `vocoder` say 10, 11, 12.
  assert times['vocoder_s'] == {'ours': [2, 2], 'released': [11, 12]}
  assert times['t2c_s'] == {'ours': [2, 2], 'released': [15, 17], 'fair': [16, 18]}


def test_ratios_are_those_of_medians():
  times = {'ours': [1.0, 9.0, 2.0], 'released': [4.0, 5.0, 8.0], 'fair': [2.0, 4.0, 4.0]}
  found = interleaved.summary(times, 'ours')
  assert found['ratio'] == {'released': 2 / 5, 'fair': 2 / 4}
  assert found['range']['ours'] == [1, 9]
  alone = interleaved.summary({'ours': [1.0], 'released': [4.0]}, 'ours')
  rows = dict.fromkeys(released.TITLES, alone) | {'t2c_s': found}
  lines = released.table(rows).splitlines()
  assert len(lines) == 2 + len(released.TITLES)
  assert lines[2 + list(rows).index('t2c_s')].endswith('| 2.00 | 5.00 | 0.400 | 4.00 | 0.500 |')
  assert lines[2].endswith('| 1.00 | 4.00 | 0.250 |  |  |')


def test_other_work_is_no_comparison(child):
  released.start(child, sys.executable, {'source': ''})
  rows = released.rows({'broken': dict}, child)
  with pytest.raises(EchoXError, match='row broken .* made 3 tokens instead of 64'):
    interleaved.measure(rows, 1, lambda row: None)
  with pytest.raises(EchoXError, match=r'\[20.0, 25.6\] s: both sides must be forced'):
    released._check_work({'ours': [25.6, 25.6], 'released': [20.0]})


@pytest.mark.parametrize('broken', ['absent', 'other', 'interpreter', 'torch'])
def test_one_sentence(broken, tmp_path, checkout):
  python = tmp_path / 'python'
  if broken != 'interpreter':  # one that has the standard library alone
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
  if broken == 'other':
    os.remove(checkout / RELEASED[1])
  source = tmp_path / 'nowhere' if broken == 'absent' else checkout
  said = {
    'absent': 'nowhere does not exist: give --source',
    'other': 'is not the released code, for it has no models/echox_s2s.py',
    'interpreter': 'cannot be started (No such file or directory): name a Python',
    'torch': "has no package 'torch', which the released code needs: install torch",
  }[broken]
  with pytest.raises(EchoXError, match=re.escape(said)):
    measure('released', '--source', source, '--python', python)


def test_a_child_that_dies_is_told(tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  (tmp_path / 'dies.py').write_text('raise SystemExit(3)')
  with (
    Child(sys.executable, 'dies') as child,
    pytest.raises(EchoXError, match='ended with exit code 3: its own message is above'),
  ):
    child.ask({'row': 'x'})


def test_their_source_is_fitted_while_it_is_imported(tmp_path, monkeypatch):
  for name, text in {
    'inference/echox_stream.py': 'import torch\nkind = torch.float16\nlength = 2048',
    'models/echox_s2s.py': 'from .t2ullama_cr_online import prefix\n',
    'models/t2ullama_cr_online.py': 'pad = 128009\nprefix = [128006, 198, True, 1.0]',
    'torch.py': "float16, float32 = 'half', 'single'",  # this test needs no torch
  }.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
  for name in ('torch', 'models', 'inference', code.STREAM, code.MODEL, code.UNITS):
    monkeypatch.delitem(sys.modules, name, raising=False)
  before = set(sys.modules)
  stream, model, units = code.load(tmp_path, {128009: 7, 128006: 8, 198: 9})
  for name in set(sys.modules) - before:
    sys.modules.pop(name)  # monkeypatch would put it back
  assert (units.pad, model.prefix) == (7, [8, 9, True, 1.0])
  assert (stream.kind, stream.length) == ('single', 2048)
  kept = {file.name.partition('.')[0] for file in tmp_path.rglob('*.pyc')}
  assert not kept & {'echox_stream', 'echox_s2s', 't2ullama_cr_online'}
