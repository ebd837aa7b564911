"""A transcript that runs in a loop is the judge's fault or the speaker's: the clip is heard
again in Whisper's own window.
"""

import numpy as np
import pytest

from echox_jax.evaluation.judge import Judge, is_loop

LOOP = ' '.join(['9 plus 1 is 10.'] * 10)
SHORT, LONG, EMPTY = (
  np.ones(16_000, np.float32),
  np.ones(9 * 16_000, np.float32),
  np.zeros(0, np.float32),
)


class Listener(Judge):
  """Hears `texts` by the window in seconds; keeps what it was asked."""

  def __init__(self, texts):
    self.texts, self.asked = texts, []

  def _transcribe(self, waves, windows):
    self.asked.append(dict(windows))
    return [self.texts[windows[i]] if i in windows else '' for i in range(len(waves))]


def test_a_loop_is_heard_again_in_the_longest_window():
  judge = Listener({8: LOOP, 12: 'Paris is in France.', 30: '9 plus 1 is 10.'})
  assert judge.transcribe([SHORT, LONG, EMPTY]) == ['9 plus 1 is 10.', 'Paris is in France.', '']
  assert judge.asked == [{0: 8, 1: 12}, {0: 30}]


def test_who_really_repeats_himself_is_not_excused():
  judge = Listener({8: LOOP, 30: LOOP})
  assert judge.transcribe([SHORT]) == [LOOP]


@pytest.mark.parametrize(
  'text, loops',
  [
    (LOOP, True),
    ('', False),
    ('The capital of France is Paris. It lies in Europe.', False),
    ('Element number eight is oxygen. It is a gas. Element number eight is oxygen.', False),
  ],
)
def test_what_a_loop_is(text, loops):
  assert is_loop(text) == loops
