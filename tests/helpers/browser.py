"""A real Chromium whose microphone plays a file, and the page in it."""

import contextlib
import shutil

import numpy as np
import pytest
import soundfile

CHROMIUM = shutil.which('chromium')
needs_chromium = pytest.mark.skipif(
  CHROMIUM is None, reason='chromium is not installed (Debian package `chromium`)'
)


@contextlib.contextmanager
def launched(microphone):
  """A browser; `microphone`: a file of sound, which is repeated."""
  sync_api = pytest.importorskip('playwright.sync_api')
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM,
      args=[
        '--no-sandbox',
        '--use-fake-device-for-media-stream',
        '--use-fake-ui-for-media-stream',
        f'--use-file-for-fake-audio-capture={microphone}',
        '--autoplay-policy=no-user-gesture-required',
      ],
    )
    yield browser
    browser.close()


def played(page, number: int, part: str) -> np.ndarray:
  """int16[samples] at 24 kHz of the question or of the answer of a turn, as the page keeps it."""
  link = page.locator(f'#turns > :nth-child({number}) .of-{part} a')
  with page.expect_download() as download:
    link.click()
  wave, rate = soundfile.read(download.value.path(), dtype='int16')
  assert rate == 24000
  return wave.astype(int)
