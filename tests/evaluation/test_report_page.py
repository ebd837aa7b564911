"""The report of an evaluation in a real Chromium, opened as a file."""

import shutil

import pytest

from echox_jax.evaluation import page, summary
from tests.helpers import answer_stores

CHROMIUM = shutil.which('chromium')
pytestmark = pytest.mark.skipif(
  CHROMIUM is None, reason='chromium is not installed (Debian package `chromium`)'
)
for package in ('whisper_normalizer', 'scipy'):
  pytest.importorskip(package, reason="the scores need the extra 'eval'")


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """Two runs of 60 questions: in the first one every fourth spoken question is misheard."""
  folder, runs = tmp_path_factory.mktemp('runs'), []
  text = lambda how, number: f'It is City {number // 2}.'
  heard = lambda how, number: '' if how == 'spoken' and number % 4 == 0 else text(how, number)
  for name, judge in (('now', heard), ('before', text)):
    made = answer_stores.write(folder / name, answer_stores.capitals(60), text, judge)
    rows = summary.read_rows(made, answer_stores.JUDGE)
    runs.append((made, summary.summarise(made, rows, {}), rows))
  page.write(*runs[0], runs[1])
  return folder / 'now' / 'report.html'


@pytest.fixture(scope='module')
def shown(report):
  """The page; nothing it does may fail or come from elsewhere."""
  sync_api = pytest.importorskip('playwright.sync_api')
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
    shown, wrong = browser.new_page(), []
    shown.on('pageerror', lambda error: wrong.append(str(error)))
    shown.on('console', lambda told: wrong.append(told.text) if told.type == 'error' else None)
    shown.on('request', lambda asked: wrong.append(asked.url) if 'file:' not in asked.url else None)
    shown.goto(report.as_uri())
    yield shown
    browser.close()
    assert not wrong


def count(shown):
  return shown.locator('#count').inner_text()


def test_filters(shown):
  assert count(shown) == '60 of 60 questions'
  assert shown.locator('article').count() == 50
  shown.get_by_role('button', name='Show more').click()
  assert shown.locator('article').count() == 60
  for mark, number in (('wrong', 15), ('right', 45), ('lost', 15), ('differ', 15)):
    shown.locator('#mark').select_option(mark)
    assert count(shown) == f'{number} of 60 questions'
  shown.locator('#way').select_option('S2T')
  assert count(shown) == '0 of 60 questions'
  shown.locator('#mark').select_option('')
  shown.locator('#voice').select_option('voice 1')
  shown.locator('#category').select_option('part 2')
  assert count(shown) == '10 of 60 questions'
  shown.locator('#words').fill('country 29')
  assert count(shown) == '1 of 60 questions'
  for name in ('#voice', '#category'):
    shown.locator(name).select_option('')
  assert count(shown) == '2 of 60 questions'
  shown.locator('#words').fill('')


def test_two_runs_stand_side_by_side_and_sound(shown):
  assert 'now minus before' in shown.locator('#scores').inner_text()
  first = shown.locator('article').first
  assert first.locator('.runs > div').count() == 2 and first.locator('audio').count() == 5
  played = shown.evaluate(
    """async () => {
      const players = [...document.querySelector('article').querySelectorAll('audio')];
      for (const player of players) {
        player.preload = 'auto';
        await new Promise((done, fail) => {
          player.oncanplaythrough = done;
          player.onerror = () => fail(new Error(player.src));
          player.load();
        });
      }
      return players.map((player) => player.duration);
    }"""
  )
  assert played == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1])


def test_nobody_is_shut_out(shown):
  axe = pytest.importorskip('axe_playwright_python.sync_playwright')
  assert axe.Axe().run(shown).response['violations'] == []


def test_a_narrow_window_does_not_scroll_sideways(shown):
  shown.set_viewport_size({'width': 360, 'height': 800})
  assert shown.evaluate('document.documentElement.scrollWidth') <= 360
