"""Pulses and noise: their pitch, strength and place in the speech."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import EchoXConfig
from echox_jax.models import excitation
from echox_jax.models.vocoder import UnitVocoder, init_vocoder, inverse_stft
from tests.helpers import tiny

HOP, RATE = 320, 16000


@pytest.mark.parametrize('hz', [100.0, 213.7, 400.0])
def test_pulses_have_every_harmonic_and_a_strength_of_one(hz):
  wave = np.asarray(excitation.pulses(jnp.full((1, 50), hz), HOP, RATE))[0]
  assert wave.shape == (50 * HOP,) and not wave[: HOP // 2].any()
  steady = wave[HOP : HOP + 8000]
  assert np.sqrt(np.mean(steady**2)) == pytest.approx(1, abs=0.05)
  spectrum = np.abs(np.fft.rfft(steady * np.hanning(8000)))
  harmonics = np.round(np.arange(hz, RATE / 2 - 200, hz) / 2).astype(int)  # bins of 2 Hz
  near = [spectrum[at - 2 : at + 3].max() for at in harmonics]
  assert min(near) > 0.7 * max(near)
  between = spectrum[np.round(harmonics + hz / 4).astype(int)]
  assert between.max() < 0.05 * max(near)


def test_pulses_fade_where_the_voice_ends_and_are_silent_without_one():
  pitch = jnp.asarray([[0, 0, 200, 200, 200, 0, 0, 0.0]])
  loud = np.abs(np.asarray(excitation.pulses(pitch, HOP, RATE)))[0].reshape(-1, HOP).max(axis=1)
  assert loud[0] == loud[6] == loud[7] == 0 and loud[3] > 3
  assert 0 < np.abs(np.asarray(excitation.pulses(pitch, HOP, RATE)))[0, 5 * HOP :].max() < loud[3]


@pytest.mark.parametrize('first', [1, 7, 30])
def test_a_window_of_pulses_is_that_of_the_whole(first):
  rng = np.random.default_rng(first)
  pitch = jnp.asarray(rng.uniform(80, 350, (2, 48)) * (rng.random((2, 48)) < 0.7), jnp.float32)
  whole = np.asarray(excitation.pulses(pitch, HOP, RATE))
  start = excitation.start(pitch, jnp.int32(first), HOP, RATE)
  window = np.asarray(excitation.pulses(pitch[:, first:], HOP, RATE, start.phase))
  inside = slice(HOP // 2, None)  # before its centre the first frame has no pulses
  np.testing.assert_allclose(window[:, inside], whole[:, first * HOP :][:, inside], atol=1e-5)
  sound = np.asarray(excitation.noise(jnp.zeros(2, jnp.int32), 48, HOP))
  part = np.asarray(excitation.noise(start.frame, 48 - first, HOP))
  np.testing.assert_array_equal(part, sound[:, first * HOP :])
  assert sound.std() == pytest.approx(1, abs=0.02)


def test_noise_goes_on_after_its_table():
  last = jnp.asarray([excitation.NOISE_FRAMES - 1])
  sound = np.asarray(excitation.noise(last, 2, HOP))
  np.testing.assert_array_equal(sound[:, HOP:], excitation.noise(jnp.asarray([0]), 1, HOP))


def test_the_inverse_of_a_spectrum_is_the_sound():
  sound = jnp.asarray(np.random.default_rng(0).normal(size=(2, 10 * HOP)), jnp.float32)
  with jax.default_matmul_precision('highest'):
    again = inverse_stft(excitation.stft(sound, 320, 80), None, 320, 80)
  np.testing.assert_allclose(again, sound, atol=1e-4)


def test_the_pitch_that_is_given_is_heard():
  """Filters begin nearly flat: the sound of new parameters repeats itself at that pitch."""
  cfg = tiny.SOURCE_FILTER
  params = nn.meta.unbox(init_vocoder(jax.random.key(0), EchoXConfig(vocoder=cfg)))
  units, pitch = jnp.zeros((1, 40), jnp.int32), jnp.full((1, 40), 160.0)  # a period of 100 samples
  wave = np.asarray(
    UnitVocoder(cfg).apply({'params': params}, units, pitch=pitch, method='generate')
  )[0, 4 * HOP : -4 * HOP]
  assert np.corrcoef(wave[100:], wave[:-100])[0, 1] > 0.7
  assert np.corrcoef(wave[150:], wave[:-150])[0, 1] < 0.5


def test_filters_need_spectra():
  cfg = dataclasses.replace(
    tiny.SOURCE_FILTER, istft_hop=0, upsample_rates=(5, 64), upsample_kernel_sizes=(11, 128)
  )
  with pytest.raises(errors.ConfigError, match='source_filter'):
    init_vocoder(jax.random.key(0), EchoXConfig(vocoder=cfg))
