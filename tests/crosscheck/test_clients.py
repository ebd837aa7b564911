"""Clients that nobody here wrote talk to the server unmodified, each in an environment of its
own.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr

from echox_jax import audio
from echox_jax.serving.limits import Access, Limits
from tests.helpers import crosscheck, live_server
from tests.helpers.live_server import serving
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
PACKAGES = {
  'openai': ('openai[realtime]>=3.57,<4',),
  'agents': ('openai-agents>=0.24,<0.25', 'websockets>=15,<16'),
}


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  reader = live_server.tiny_reader(tmp_path_factory.mktemp('tiny'))
  with serving(reader, Limits(), Access('long-enough')) as live:
    yield live


@pytest.fixture(scope='module')
def question(tmp_path_factory):
  """Two seconds of a real person, at 24 kHz."""
  wave = soxr.resample(crosscheck.human_speech(2.0), 16000, 24000)
  file = tmp_path_factory.mktemp('sound') / 'question.wav'
  soundfile.write(file, audio.to_int16(np.clip(wave, -1, 1)), 24000)
  return file


def python_with(name: str) -> str:
  """The interpreter of an environment that holds a client, made where it is missing."""
  folder = ROOT / f'.venv-client-{name}'
  interpreter = folder / 'bin' / 'python'
  stamp = folder / '.ready'
  if not stamp.is_file():
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    subprocess.run([interpreter, '-m', 'pip', 'install', '-q', *PACKAGES[name]], check=True)
    stamp.touch()
  return str(interpreter)


def told(server, question, name: str) -> dict:
  script = ROOT / 'tests' / 'crosscheck' / 'clients' / f'{name}_client.py'
  done = subprocess.run(
    [python_with(name), script, str(server.port), question],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout)


def test_openai(server, question):
  found = told(server, question, 'openai')
  for name in ('committed', 'written', 'by_voice'):
    assert found[name]['heard'] > 0 and found[name]['transcript']
    assert found[name]['event']['response']['status'] in ('completed', 'incomplete')
  assert found['cancelled']['event']['response']['status'] in (
    'cancelled',
    'completed',
    'incomplete',
  )
  assert found['error']['event']['error']['event_id'] == 'mine' and found['speech'] > 44
  assert 'input_audio_buffer.speech_stopped' in found['seen']


def test_openai_agents(server, question):
  seen = told(server, question, 'agents')['seen']
  assert {'audio', 'audio_interrupted', 'agent_end', 'history_added'} <= set(seen)
