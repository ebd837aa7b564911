"""The command that serves: what it refuses before it loads anything, and that it runs and stops."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from echox_jax import errors
from launch import serve
from tests.helpers import tiny_model
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
  'options, sentence',
  [
    (['--host', '0.0.0.0'], 'give a --token'),
    (['--token', 'short'], '8 to 256 letters'),
    (['--max-sessions', '0'], 'give 1 or more'),
    (['--certificate', 'a.pem'], 'both --certificate and --key'),
    (['--certificate', 'none.pem', '--key', 'none.key'], 'there is no file none.pem'),
  ],
)
def test_what_cannot_be_served_is_refused_at_once(options, sentence):
  with pytest.raises(errors.EchoXError, match=sentence):
    serve.main(['--checkpoint', 'unused', *options])


def test_without_the_extra_it_names_it(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(errors.MissingExtraError, match=r'echox-jax\[serve\]'):
    serve.main(['--checkpoint', 'unused'])


def test_it_serves_until_it_is_told_to_stop(tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  bundle.unit_language.save(tmp_path / 'unit_language.json')
  copies = {name: tmp_path / name for name in ('tokenizer.model', 'unit_language.json')}
  tiny_model.write_model(tmp_path / 'model', bundle.config, copies)
  command = [sys.executable, '-m', 'launch.serve', '--checkpoint', str(tmp_path / 'model')]
  process = subprocess.Popen(
    [*command, '--port', '0'],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  try:
    line = process.stdout.readline()
    assert line.startswith('Open http://127.0.0.1:'), process.stderr.read()
    address = line.split()[1]
    body = json.dumps({'text': 'A private question?'}).encode()
    asked = urllib.request.Request(
      f'{address}v1/respond', body, {'Content-Type': 'application/json'}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
      assert json.load(answer)['text']
  finally:
    process.send_signal(signal.SIGTERM)
    _, logs = process.communicate(timeout=60)
  assert process.returncode == 0
  # XLA may say something of its own beside them
  told = [json.loads(line)['event'] for line in logs.splitlines() if line.startswith('{')]
  assert {'warm', 'stopping'} <= set(told)
  assert 'private' not in logs and 'Traceback' not in logs
