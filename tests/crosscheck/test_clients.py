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

from echox_jax import audio, rates
from echox_jax.serving.limits import Access, Limits
from tests.helpers import crosscheck, live_server
from tests.helpers.live_server import serving
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
TRANSCRIBED = 'conversation.item.input_audio_transcription.completed'
FRAME = rates.SAMPLE_RATE // 50
PACKAGES = {
  'openai': ('openai[realtime]>=3.57,<4',),
  'agents': ('openai-agents>=0.24,<0.25', 'websockets>=15,<16'),
  'livekit': ('livekit-plugins-openai>=1.8.9,<1.9', 'livekit-agents>=1.8.9,<1.9'),
  'voicebench': ('voicebench>=0.2,<0.3',),
}


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """Its model answers at such length, about 8 s, that there is time to interrupt it."""
  folder = tmp_path_factory.mktemp('tiny')
  reader = live_server.tiny_reader(folder, max_new_tokens=60, max_context=400)
  with serving(reader, Limits(), Access('long-enough')) as live:
    yield live


@pytest.fixture
def unhurried(server, monkeypatch):
  """The server; it makes an answer a little faster than it is heard, so that a voice interrupts it
  while it is made.
  """
  pump = server.hub.worker.engine.pump

  def pump_later():
    time.sleep(0.05)
    pump()

  monkeypatch.setattr(server.hub.worker.engine, 'pump', pump_later)
  return server


@pytest.fixture(scope='module')
def question(tmp_path_factory):
  """Two seconds of a real person, at 24 kHz, as loud as one who speaks into a microphone; the voice
  begins at once, so that it is known when it interrupts.
  """
  wave = crosscheck.human_speech(6.0)
  frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
  levels = np.sqrt(np.mean(frames**2, axis=1))
  first = int(np.argmax(levels > levels.max() / 4))  # a breath before the voice is less loud
  wave = soxr.resample(wave[first * FRAME :][: 2 * rates.SAMPLE_RATE], rates.SAMPLE_RATE, 24000)
  file = tmp_path_factory.mktemp('sound') / 'question.wav'
  soundfile.write(file, audio.to_int16(0.7 * wave / np.abs(wave).max()), 24000)
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
  assert found['seen'].count(TRANSCRIBED) == 2  # of what was committed, and of what was said


def test_openai_agents(server, question):
  seen = told(server, question, 'agents')['seen']
  assert {'audio', 'audio_interrupted', 'agent_end', 'history_added'} <= set(seen)
  assert 'input_audio_transcription_completed' in seen


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
  assert found['seen'].count(TRANSCRIBED) == 2


def test_voicebench(server, question):
  found = told(server, question, 'voicebench')
  summary = found['summary']
  print(
    '\nvoicebench, ms:', {name: summary[name]['p50'] for name in ('ttfa_ms', 'barge_in_stop_ms')}
  )
  assert summary['turns_passed'] == summary['turns'] == 4, found['turns']
  assert summary['missed_responses'] == summary['false_barge_ins'] == 0
  assert summary['barge_in_success_rate'] == 1
  assert summary['ttfa_ms']['count'] == 2 and 0 < summary['ttfa_ms']['max'] < 5000
  assert summary['barge_in_stop_ms']['count'] == 1 and 0 < summary['barge_in_stop_ms']['max'] < 1000
