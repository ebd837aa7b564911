"""`make talk`: in a browser, a voice never heard in training asks a question."""

import subprocess
import sys
import time
from urllib import error, request

import numpy as np
import pytest
import soundfile
import soxr

from data_pipeline.corpus import voice_lines, voices
from echox_jax.evaluation.normalise import normalise
from tests.helpers import browser as browsers
from tests.helpers.paths import ROOT

QUESTION = 'What is a baby fox called?'  # one that it hears right
ADDRESS = 'http://127.0.0.1:8799/'
pytestmark = [pytest.mark.slow, browsers.needs_chromium]


@pytest.fixture(scope='module')
def served():
  """The server that the Makefile starts, with the shipped model."""
  command = [sys.executable, '-m', 'launch.serve', '--checkpoint', 'echox-135m', '--port', '8799']
  command += ['--max-sessions', '4', '--engine', 'questions=1', '--int8']
  server = subprocess.Popen(command, cwd=ROOT)
  deadline = time.monotonic() + 600
  while time.monotonic() < deadline and server.poll() is None:
    try:
      request.urlopen(f'{ADDRESS}readyz').close()
      break
    except error.URLError:
      time.sleep(0.5)
  yield ADDRESS
  server.terminate()
  server.wait(60)


@pytest.fixture(scope='module')
def said():
  """float[samples] at 48 kHz: the question in a voice that was held out of all training."""
  voice = next(filter(voices.available, voices.TEST_VOICES), None)
  if voice is None:
    pytest.skip('no held-out voice is installed: `make voices`')
  line = voice_lines.address(voice.name, lead=0.3, tail=0.3)
  wave = voice_lines.read(voice_lines.with_text(line, QUESTION), 10.0)
  return soxr.resample(wave, 16000, 48000)  # a repeated sample would be dull, and ring


def test_it_answers_a_voice_that_it_never_heard(served, said, tmp_path):
  # the microphone repeats its file: the pause behind the question is long
  soundfile.write(tmp_path / 'said.wav', np.append(said, np.zeros(5 * 48000, said.dtype)), 48000)
  with browsers.launched(tmp_path / 'said.wav') as browser:
    page = browser.new_page()
    page.set_default_timeout(120_000)  # the answer is played to its end
    page.goto(served)
    page.get_by_text('Ready.').wait_for()
    page.get_by_role('button', name='Hold to talk').hover()
    page.mouse.down()
    page.get_by_text('Listening. Release to ask.').wait_for()
    page.wait_for_timeout(1000 * len(said) / 48000 + 500)
    page.mouse.up()
    answer = browsers.played(page, 1, 'answer')
    turn = page.locator('#turns > :nth-child(1)')
    turn.get_by_text('heard)').wait_for()
    heard = normalise(turn.locator('.question .text').inner_text()).split()
    written = turn.locator('.answer .text').inner_text()
  assert 'fox' in heard and 'fox' in written.lower()
  assert len(answer) > 24000 and np.abs(answer).max() > 3000
