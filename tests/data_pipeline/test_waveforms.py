"""Variations of waveforms and log-mels: what they do, their bounds, nothing at all when off."""

import functools

import jax
import numpy as np
import pytest

from data_pipeline import batches, waveforms
from echox_jax import errors
from echox_jax.models import echox, spec_augment
from echox_jax.training import s2t_step
from echox_jax.training.experiment import AugmentConfig
from tests.helpers.batch_jobs import experiment


def tone(seconds=1.0, hertz=440):
  return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000)).astype(
    np.float32
  )


def pitch(wave):
  """Hz of the strongest partial."""
  return np.fft.rfft(wave * np.hanning(len(wave))).__abs__().argmax() * 16000 / len(wave)


def test_nothing_changes_where_nothing_is_asked():
  rng = np.random.default_rng(0)
  wave = tone()
  assert waveforms.augment(wave, AugmentConfig(time_mask=0.3), rng, 99999) is wave
  assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_speed_changes_length_and_pitch_together_and_keeps_to_the_room():
  rng, lengths = np.random.default_rng(0), []
  for _ in range(40):
    made = waveforms.augment(tone(), AugmentConfig(speed=0.2), rng, 18000)
    assert made.dtype == np.float32 and pitch(made) == pytest.approx(
      440 * 16000 / len(made), rel=0.01
    )
    assert np.abs(made).max() == pytest.approx(0.3, abs=0.03)
    lengths.append(len(made))
  assert 13333 <= min(lengths) < 14500 and max(lengths) == 18000
  for length in (1, 399, 15999, 16001, 40000):
    assert len(waveforms.resample(tone(), length)) == length


@pytest.mark.parametrize('snr', [-5.0, 20.0])
def test_noise_is_as_loud_as_asked(snr):
  wave = tone(4.0)
  noise = (
    waveforms.augment(wave, AugmentConfig(snr_db=(snr, snr)), np.random.default_rng(0), 64000)
    - wave
  )
  assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.1)
  assert not waveforms.add_noise(np.zeros(500, np.float32), 10.0, np.random.default_rng(0)).any()


def test_a_room_holds_the_sound_for_a_while():
  click = np.zeros(16000, np.float32)
  click[4000] = 1.0
  heard = waveforms.reverberate(click, 0.4, np.random.default_rng(0))
  power = np.square(heard, dtype=np.float64)
  assert (
    np.abs(heard[:4000]).max() < 1e-6
    and np.abs(heard[4000 + 6400 :]).max() < 1e-6
    and heard.argmax() == 4000
  )
  assert power.sum() == pytest.approx(1.0, rel=1e-5)
  early, late = power[4001:4801].sum(), power[7201:8001].sum()  # 0.2 s apart: 30 dB
  assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)
  assert waveforms.reverberate(click, 0.0, np.random.default_rng(0)) is click


def test_batches_of_waveforms_vary_and_fit(workdir):
  settings = lambda **augment: experiment('s2t', batch_size=8, cached_states=False, augment=augment)
  plain, varied, again = (
    next(batches.make_iterator(settings(**augment), workdir))
    for augment in ({}, *[dict(speed=0.3, snr_db=(5.0, 20.0), reverb=0.3)] * 2)
  )
  for name in ('input_ids', 'labels', 'ctc_labels'):
    np.testing.assert_array_equal(plain[name], varied[name])
  np.testing.assert_array_equal(varied['audio'], again['audio'])
  assert (
    varied['audio'].shape == plain['audio'].shape
    and (varied['audio_lengths'] != plain['audio_lengths']).any()
  )
  for audio, length in zip(varied['audio'], varied['audio_lengths']):
    assert 0 < length <= 60 * 320 - 1600 and audio[:length].any() and not audio[length:].any()


@pytest.mark.parametrize(
  'cached, augment, words',
  [
    (True, dict(speed=0.1), 'data.augment.speed is for waveforms'),
    (False, dict(time_warp=0.1), 'data.augment.time_warp is for cached states'),
    (False, dict(speed=1.0), 'speed is 1.0'),
    (True, dict(time_mask=-0.1), 'time_mask is -0.1'),
    (False, dict(reverb=-1.0), 'cannot be below 0'),
    (False, dict(snr_db=(5.0,)), 'give the lowest and the highest'),
    (False, dict(snr_db=(9.0, 5.0)), 'give the lowest and the highest'),
  ],
)
def test_variations_that_make_no_sense_are_refused(workdir, cached, augment, words):
  with pytest.raises(errors.ConfigError, match=words):
    batches.make_iterator(experiment('s2t', cached_states=cached, augment=augment), workdir)


def test_masks_hide_two_spans_of_time_and_of_bands():
  mask = jax.jit(functools.partial(spec_augment.spec_augment, time=0.4, bands=0.5))
  lengths, hidden_times, hidden_bands = np.array([100, 30, 0]), set(), set()
  for seed in range(30):
    hidden = np.asarray(mask(np.ones((3, 100, 20), np.float32), lengths, jax.random.key(seed))) == 0
    for clip, length in zip(hidden, lengths):
      times, bands = clip.all(axis=1), clip.all(axis=0)
      assert (clip == times[:, None] | bands[None]).all() and not times[length:].any()
      assert times.sum() <= 0.4 * length and bands.sum() <= 10
      assert (np.diff(times.astype(int)) == 1).sum() <= 2
    hidden_times.add(int(hidden[0].all(axis=1).sum()))
    hidden_bands.add(int(hidden[0].all(axis=0).sum()))
  assert len(hidden_times) > 10 and max(hidden_times) > 25 and len(hidden_bands) > 4
  assert (
    np.asarray(
      jax.jit(functools.partial(spec_augment.spec_augment, time=0.0, bands=0.0))(
        np.ones((1, 50, 8)), lengths[:1], jax.random.key(0)
      )
    )
    == 1
  ).all()


def test_training_hides_parts_of_log_mels_only_where_asked(monkeypatch):
  seen = []

  def encode(params, cfg, audio, lengths, mask=None):
    seen.append(mask)
    return mask(np.ones((2, 40, 8), np.float32), np.array([40, 40])) if mask else np.ones(
      (2, 40, 8)
    ), lengths

  monkeypatch.setattr(echox, 'encode_speech', encode)
  batch = {'audio': np.zeros((2, 6400), np.float32), 'audio_lengths': np.array([6400, 6400])}
  states = lambda seed, **augment: s2t_step.with_states(
    {}, batch, jax.random.key(seed), experiment('s2t', cached_states=False, augment=augment)
  )['states']
  states(0)
  assert seen == [None]
  first, again, other = (
    np.asarray(states(seed, time_mask=0.5, feature_mask=0.5)) for seed in (0, 0, 1)
  )
  assert (first == 0).any() and (first == again).all() and (first != other).any()
  cached = {'states': 1}
  assert (
    s2t_step.with_states(
      {}, cached, jax.random.key(0), experiment('s2t', augment=dict(time_mask=0.5))
    )
    is cached
  )
