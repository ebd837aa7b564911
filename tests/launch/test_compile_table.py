"""The table of full-size jobs: what it runs, what it keeps, and what it prints.

`launch.compile_check` itself is not run.
"""

import json
import subprocess

import pytest

from echox_jax import errors
from launch import compile_table

REPORT = {
  'chips': 16,
  'batch_size': 128,
  'peak_bytes_per_chip': 2**33,
  'ici_bytes_per_chip': 2**31,
  'compute_s': 1.25,
  'hbm_s': 0.5,
  'ici_s': 0.25,
  'dcn_s': 0.0,
  'mfu_bound': 0.75,
  'slowest_term': 'compute_s',
  'compile_s': 300.4,
}


@pytest.fixture
def ran(monkeypatch):
  """Commands that were run; a stub writes a report for each, but for those of t2c fails."""
  commands = []

  def run(command, **_):
    commands.append(command)
    fails = any(argument.endswith(':t2c') for argument in command)
    if not fails:
      file = next(a.split('=', 1)[1] for a in command if a.startswith('--json='))
      with open(file, 'w', encoding='utf-8') as f:
        json.dump(REPORT, f)
    return subprocess.CompletedProcess(command, 2 if fails else 0)

  monkeypatch.setattr(subprocess, 'run', run)
  return commands


def test_rows_are_run_once_kept_and_printed(ran, tmp_path, capsys):
  arguments = ['--out', str(tmp_path), '--rows', '8b-s2t-16', '8b-echo-2x256']
  assert compile_table.main(arguments) == 0 and len(ran) == 2
  first, second = ran
  assert first[1:3] == ['-m', 'launch.compile_check']
  assert {'--topology=v5e:4x4', '--config.train.batch_size=128'} <= set(first)
  assert {
    '--config=configs/echox_8b.py:echo',
    '--topology=v5e:16x16',
    '--slices=2',
    '--config.train.batch_size=4096',
  } <= set(second)
  table = capsys.readouterr().out.splitlines()
  assert len(table) == 4 and len({line.count('|') for line in table}) == 1
  assert table[2].startswith(
    '| 8b-s2t-16 | 16 | 128 | 8.0 | 2.0 | 1.25 | 0.50 | 0.25 | 0.00 | 0.75 (compute_s) |'
  )
  assert compile_table.main(arguments) == 0 and len(ran) == 2
  assert compile_table.main([*arguments[:4], '--again']) == 0 and len(ran) == 3


def test_a_row_that_failed_is_named_and_the_others_stay(ran, tmp_path, capsys):
  assert compile_table.main(['--out', str(tmp_path), '--rows', '8b-t2c-4', '8b-s2t-16']) == 1
  printed = capsys.readouterr()
  assert 'not compiled: 8b-t2c-4' in printed.err and '8b-s2t-16' in printed.out and len(ran) == 2


def test_what_does_not_fit_and_what_cannot_be_read_back_have_rows_too():
  unknown = dict.fromkeys(
    ('ici_bytes_per_chip', 'compute_s', 'hbm_s', 'ici_s', 'dcn_s', 'mfu_bound')
  )
  lines = [
    compile_table.line('a', REPORT | {'error': 'RESOURCE_EXHAUSTED'}),
    compile_table.line('b', REPORT | unknown),
  ]
  columns = compile_table.HEADER.splitlines()[0].count('|')
  assert 'does not fit' in lines[0] and [line.count('|') for line in lines] == [columns, columns]


def test_an_unknown_row_is_refused(tmp_path):
  with pytest.raises(errors.EchoXError, match="no row '8b'"):
    compile_table.main(['--out', str(tmp_path), '--rows', '8b'])


def test_the_8b_is_compiled_for_16_64_256_and_twice_256_chips():
  names = {row.name for row in compile_table.ROWS}
  for chips in ('16', '64', '256', '2x256'):
    assert {f'8b-s2t-{chips}', f'8b-echo-{chips}'} <= names
