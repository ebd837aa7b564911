"""When somebody speaks, as Silero's detector hears it."""

import numpy as np
import pytest

from echox_jax.serving import turns
from echox_jax.serving.turns import TurnRule, Turns, VoiceBegins, VoiceEnds, VoicePauses
from tests.helpers.serving import vowels


def heard(wave, piece=320):
  own = Turns(TurnRule(), turns.silero)
  return [event for at in range(0, len(wave), piece) for event in own.take(wave[at : at + piece])]


def quiet(seconds):
  return np.zeros(round(16000 * seconds), np.float32)


def test_a_voice_begins_and_ends():
  wave = np.concatenate([quiet(1), vowels(), quiet(1.5)])
  events = heard(wave)
  assert isinstance(events[0], VoiceBegins) and isinstance(events[-1], VoiceEnds)
  assert isinstance(events[-2], VoicePauses)
  assert events[-1].stop - events[-2].stop == pytest.approx(0.3 * 16000, abs=turns.PIECE)
  assert 0.5 <= events[0].start / 16000 <= 1.0
  assert 2.2 <= events[-1].stop / 16000 <= 3.1


@pytest.mark.parametrize('kind', ['silence', 'noise', 'hum', 'clicks'])
def test_what_is_no_voice(kind):
  rng = np.random.default_rng(0)
  t = np.arange(48000) / 16000
  wave = {
    'silence': quiet(3),
    'noise': rng.normal(0, 0.05, 48000),
    'hum': 0.1 * np.sin(2 * np.pi * 50 * t),
    'clicks': np.where(np.arange(48000) % 8000 < 20, 0.8, 0.0),
  }[kind]
  assert not heard(wave.astype(np.float32))


def test_pieces_make_no_difference():
  wave = np.concatenate([quiet(0.5), vowels(), quiet(1)])
  assert heard(wave, piece=101) == heard(wave, piece=len(wave))


@pytest.mark.parametrize(
  ('probabilities', 'begins'),
  [([0.6, 0.1, 0.6, 0.1], None), ([0.1, 0.6, 0.6], 2), ([0.1, 0.7], 1), ([0.49, 0.49], None)],
)
def test_one_sure_piece_or_two_begin_a_turn(probabilities, begins):
  class Scripted:
    def __init__(self):
      self._left = iter(probabilities)

    def process_chunk(self, audio: bytes) -> float:
      return next(self._left)

  own = Turns(TurnRule(), Scripted)
  told = [own.take(np.zeros(turns.PIECE, np.float32)) for _ in probabilities]
  assert [n for n, events in enumerate(told) if events] == ([] if begins is None else [begins])
