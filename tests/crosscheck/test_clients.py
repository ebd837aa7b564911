"""Clients that nobody here wrote talk to the server unmodified, each in an environment of its
own.
"""

import json
import subprocess
import sys
import time

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
  'livekit': ('livekit-plugins-openai>=1.8.9,<1.9', 'livekit-agents>=1.8.9,<1.9'),
}


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  reader = live_server.tiny_reader(tmp_path_factory.mktemp('tiny'))
  with serving(reader, Limits(), Access('long-enough')) as live:
    yield live


@pytest.fixture
def unhurried(server, monkeypatch):
  """The server; it makes an answer about as fast as it is heard, so that a voice interrupts it."""
  pump = server.hub.worker.engine.pump

  def pump_later():
    time.sleep(0.15)
    pump()

  monkeypatch.setattr(server.hub.worker.engine, 'pump', pump_later)
  return server


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


def test_livekit(unhurried, question):
  found = told(unhurried, question, 'livekit')
  # the agent cancels what the server has cancelled by then: a refusal that it does not pass on
  assert not found['errors'] and set(found['refusals']) <= {'response_cancel_not_active'}
  written, spoken, interrupted, last = found['played']
  assert not (written['interrupted'] or spoken['interrupted'] or last['interrupted'])
  assert min(own['playback_position'] for own in (written, spoken, last)) > 0.5
  assert interrupted['interrupted'] and interrupted['playback_position'] > 0
  assert [own['interrupted'] for own in found['answers']] == [False, False, True, False]
  assert all(own['content'][0] for own in found['answers'])
  reasons = [own['status_details'].get('reason') for own in found['ends']]
  assert [reason == 'turn_detected' for reason in reasons] == [False, False, True, False]
  assert found['seen'].count('conversation.item.truncated') == 1
