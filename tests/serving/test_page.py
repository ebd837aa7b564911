"""The page in a real Chromium whose microphone plays a file: it asks aloud, hears, interrupts."""

import numpy as np
import pytest
import soundfile

from tests.helpers import browser as browsers
from tests.helpers.browser import played
from tests.helpers.live_server import serving
from tests.helpers.paths import ROOT
from tests.helpers.serving import vowels

pytestmark = browsers.needs_chromium


@pytest.fixture(scope='module')
def server(reader):
  with serving(reader) as live:
    yield live


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  """A browser whose microphone repeats something like a voice, and a pause behind it."""
  file = tmp_path_factory.mktemp('sound') / 'microphone.wav'
  voice = np.concatenate([vowels(), np.zeros(24000, np.float32)])
  soundfile.write(file, np.repeat(voice, 3), 48000)
  with browsers.launched(file) as browser:
    yield browser


@pytest.fixture
def page(browser, server):
  """The page, connected; nothing it does may fail or come from elsewhere."""
  page, wrong = browser.new_page(), []
  page.on('pageerror', lambda error: wrong.append(str(error)))
  page.on('console', lambda told: wrong.append(told.text) if told.type == 'error' else None)
  page.on('request', lambda asked: wrong.append(asked.url) if not ours(asked.url, server) else None)
  page.goto(server.http)
  page.get_by_text('Ready.').wait_for()
  yield page
  page.close()
  assert not wrong


def ours(url, server):
  return url.startswith((server.http, 'blob:', 'data:', server.http.replace('http', 'ws')))


def write(page, text):
  page.get_by_label('Written question').fill(text)
  page.get_by_role('button', name='Ask').click()


def test_it_asks_aloud_and_hears_and_interrupts(page):
  talk = page.get_by_role('button', name='Hold to talk')
  talk.hover()
  page.mouse.down()
  page.get_by_text('Listening. Release to ask.').wait_for()  # the microphone opens in its own time
  page.wait_for_timeout(1500)
  page.mouse.up()
  asked, heard = played(page, 1, 'question'), played(page, 1, 'answer')
  assert 24000 < len(asked) < 60000 and np.abs(asked).max() > 1000
  assert len(heard) > 2400 and np.abs(heard).max() > 0
  turn = page.locator('#turns > :nth-child(1)')
  turn.get_by_text('heard)').wait_for()  # what it heard takes the place of `(spoken)`
  assert turn.locator('.answer .text').inner_text()
  assert 'first sound after' in turn.locator('.measures').inner_text()
  (ROOT / 'out').mkdir(exist_ok=True)
  page.screenshot(path=ROOT / 'out' / 'page.png', full_page=True)
  write(page, 'What is two plus two?')
  page.get_by_text('Speaking.').wait_for()
  page.keyboard.press('Escape')
  page.locator('#turns > .cut:nth-child(2)').wait_for()
  write(page, 'Paris?')
  assert len(played(page, 3, 'answer'))
  assert page.locator('#turns > li').count() == 3


def test_it_waits_for_a_server_that_is_not_ready(browser, server, monkeypatch):
  page = browser.new_page()
  with monkeypatch.context() as starting:
    starting.setattr(server.hub, 'stopping', True)
    page.goto(server.http)
    page.get_by_text('The server is starting. This page connects').wait_for()
    assert page.get_by_role('button', name='Hold to talk').is_disabled()
  page.get_by_text('Ready.').wait_for()
  page.close()


def test_hands_free_it_hears_and_is_interrupted_by_the_voice(page):
  button = page.get_by_role('button', name='Hands-free')
  button.click()  # the status says so too, until the next voice comes
  page.get_by_role('button', name='Hands-free', pressed=True).wait_for()
  assert len(played(page, 1, 'question')) > 24000 and len(played(page, 1, 'answer')) > 2400
  page.locator('#turns > .cut').first.wait_for()  # the next voice comes while it speaks
  button.click()
  page.get_by_text('Ready.').wait_for()


def test_text_alone_and_sampling(page):
  page.get_by_text('How words are chosen').click()
  page.get_by_label('Spoken answers').uncheck()
  page.get_by_label('Seed').fill('7')
  page.get_by_label('Seed').press('Tab')
  write(page, 'Paris?')
  page.get_by_text('first word after').wait_for()
  assert page.locator('.of-answer').is_hidden()


@pytest.mark.parametrize('width, scheme', [(360, 'light'), (360, 'dark'), (1200, 'light')])
def test_it_fits_and_anybody_can_use_it(browser, server, width, scheme):
  page = browser.new_page(
    viewport={'width': width, 'height': 740}, color_scheme=scheme, bypass_csp=True
  )
  page.goto(server.http)
  page.get_by_text('Ready.').wait_for()
  write(page, 'Paris?')
  page.locator('.of-answer a').wait_for()
  assert page.evaluate('document.documentElement.scrollWidth') <= width
  axe = pytest.importorskip('axe_playwright_python.sync_playwright')
  found = axe.Axe().run(page).response['violations']
  serious = [own['id'] for own in found if own['impact'] in ('serious', 'critical')]
  assert not serious
  page.close()
