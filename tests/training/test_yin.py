"""The pitch of recordings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.models import excitation
from echox_jax.training import yin

HOP, RATE = 320, 16000
find = jax.jit(lambda wave: yin.pitch(wave, HOP, RATE))


def voice(pitch):
  """Like a voice: pulses through three resonances, and a little breath."""
  wave = np.asarray(excitation.pulses(jnp.asarray(pitch, jnp.float32)[None], HOP, RATE))[0]
  time, response = np.arange(400) / RATE, 0
  for formant in (500, 1500, 2500):
    response = response + np.exp(-300 * time) * np.cos(2 * np.pi * formant * time) / formant
  wave = np.convolve(wave, response)[: len(wave)]
  wave = 0.1 * wave / np.abs(wave).max()
  return wave + 1e-4 * np.random.default_rng(0).normal(size=len(wave))


@pytest.mark.parametrize('lowest, highest', [(60, 110), (150, 320), (380, 250)])
def test_a_gliding_voice(lowest, highest):
  pitch = np.linspace(lowest, highest, 60)
  found = np.asarray(find(jnp.asarray(voice(pitch))[None]))[0]
  np.testing.assert_allclose(found[3:-3], pitch[3:-3], rtol=0.015)


def test_where_a_voice_begins_and_ends():
  pitch = np.where((np.arange(40) >= 12) & (np.arange(40) < 28), 180.0, 0.0)
  wave = voice(pitch)
  found = np.asarray(find(jnp.asarray(np.stack([wave, 3 * wave]))))
  for own in found:
    assert (own[14:26] > 0).all() and not own[:10].any() and not own[31:].any()
  np.testing.assert_allclose(found[0], found[1], rtol=1e-3)  # loudness does not matter


def test_noise_and_silence_have_no_pitch():
  noise = 0.1 * np.random.default_rng(1).normal(size=(2, 50 * HOP))
  assert (np.asarray(find(jnp.asarray(noise, jnp.float32))) > 0).mean() < 0.02
  assert not np.asarray(find(jnp.zeros((1, 20 * HOP)))).any()


def test_the_pitch_of_a_row_does_not_depend_on_the_others():
  wave = jnp.asarray(voice(np.full(30, 140.0)))
  other = jnp.asarray(voice(np.full(30, 300.0)))
  alone = find(wave[None])[0]
  np.testing.assert_allclose(find(jnp.stack([other, wave]))[1], alone, rtol=1e-5)
