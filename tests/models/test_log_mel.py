"""Log-mel front end: filters, padding, silence (parity with the released extractor:
test_verify).
"""

import librosa
import numpy as np
import pytest

from echox_jax.models import log_mel
from tests.helpers.paths import GOLDEN


@pytest.fixture(scope='module')
def golden():
  return np.load(GOLDEN / 'golden_mel.npz')


@pytest.mark.parametrize(
  'bins, n_fft, f_max',
  [(80, 400, 8000.0), (80, 1024, 8000.0), (64, 512, 7000.0), (20, 1024, 900.0)],
)
def test_filters_match_librosa(bins, n_fft, f_max):
  reference = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=bins, fmax=f_max).T
  np.testing.assert_allclose(log_mel.mel_filters(bins, n_fft, f_max), reference, atol=1e-6)


def test_padding_does_not_change_the_frames_of_a_clip(golden):
  alone = np.pad(golden['wave'], (0, 480))
  batch = np.stack(
    [np.pad(alone, (0, 3200)), np.linspace(-1, 1, alone.size + 3200, dtype=np.float32)]
  )
  mel_alone = log_mel.log_mel(alone[None])
  mel_batch = log_mel.log_mel(batch)
  assert mel_alone.shape[1] == alone.size // 160
  np.testing.assert_allclose(mel_batch[0, : mel_alone.shape[1]], mel_alone[0], atol=1e-5)


def test_silence_is_finite_and_flat():
  mel = np.asarray(log_mel.log_mel(np.zeros((1, 3200), np.float32)))
  np.testing.assert_allclose(mel, -1.5)


def test_pad_or_trim_cuts_and_pads():
  assert log_mel.pad_or_trim(np.ones(5), 3).tolist() == [1, 1, 1]
  assert log_mel.pad_or_trim(np.ones((2, 2)), 3).tolist() == [[1, 1, 0], [1, 1, 0]]
