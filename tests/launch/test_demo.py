"""The demo's driver: finished parts are skipped, failures are named, minutes and memory add up over
runs.
"""

import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

from echox_jax.errors import EchoXError
from launch import demo

GOOD, BAD = ('platform',), ('json.tool', 'no-such-file')


def test_a_failing_part_is_named_and_nothing_else_is_lost(tmp_path):
  clock = demo.Clock(tmp_path / 'progress.json', time.time())
  demo.run(demo.Step('fine', '', GOOD), clock)
  clock.save('fine', 1.0)
  with pytest.raises(EchoXError, match="'broken'.*finished parts are kept"):
    demo.run(demo.Step('broken', '', BAD), clock)
  assert demo.Clock(tmp_path / 'progress.json', time.time()).state['finished'] == {'fine': 1.0}


def test_minutes_add_up_over_runs_and_the_highest_memory_stays(tmp_path):
  for gib in (0.5, 0.25):
    clock = demo.Clock(tmp_path / 'progress.json', time.time() - 60)
    clock.saw_memory(gib)
    clock.save()
  assert 120 <= clock.state['seconds'] < 125
  assert clock.state['peak_rss_gib'] == 0.5


def test_finished_parts_are_skipped_unless_their_proof_is_gone(tmp_path, monkeypatch, capsys):
  ran = []
  parts = [demo.Step('one', 'first', GOOD), demo.Step('two', 'second', GOOD, proof='two.json')]
  monkeypatch.setattr(demo, 'steps', lambda out: parts)
  monkeypatch.setattr(demo, 'run', lambda step, clock: ran.append(step.name) or 0)
  monkeypatch.setattr(demo, 'finish', lambda out, clock: {})
  monkeypatch.setattr(demo, 'summary', lambda out, metrics: 'done')
  monkeypatch.setattr('sys.argv', ['demo', '--out', str(tmp_path)])
  (tmp_path / 'two.json').write_text('{}')
  demo.main()
  demo.main()
  assert ran == ['one', 'two'] and '(finished before)' in capsys.readouterr().out
  (tmp_path / 'two.json').unlink()
  demo.main()
  assert ran == ['one', 'two', 'two']


def test_memory_counts_children():
  alone = demo.tree_rss_gib(os.getpid())
  hold = "x = b'1' * (100 << 20); print('holding', flush=True); import time; time.sleep(60)"
  with subprocess.Popen([sys.executable, '-c', hold], stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    assert demo.tree_rss_gib(os.getpid()) > alone + 0.09
    child.kill()


def test_every_part_is_a_command_that_exists(tmp_path):
  for step in demo.steps(tmp_path):
    name = step.command[0].split('.')[1]
    assert (Path(demo.__file__).parent / f'{name}.py').is_file()
