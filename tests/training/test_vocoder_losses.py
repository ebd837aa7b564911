"""Losses, discriminators and the step functions of the vocoder stage."""

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from echox_jax.config import DiscriminatorConfig, EchoXConfig
from echox_jax.models import prosody
from echox_jax.models.discriminators import Discriminators, init_discriminators
from echox_jax.models.vocoder import init_vocoder
from echox_jax.training import vocoder_losses, vocoder_step
from echox_jax.training.experiment import VocoderLossConfig
from tests.helpers import tiny

SMALL = DiscriminatorConfig(
  periods=(2, 3),
  period_channels=(4, 8),
  num_scales=2,
  scale_channels=(4, 8),
  scale_kernel_sizes=(15, 41),
  scale_strides=(1, 4),
  scale_groups=(1, 4),
)


def make_batch(seed=0):
  rng = np.random.default_rng(seed)
  units = np.repeat(rng.permutation(20)[:16].reshape(2, 8), 2, axis=1)
  return {
    'units': jnp.asarray(units, jnp.int32),
    'audio': jnp.asarray(rng.normal(size=(2, 16 * 320)) * 0.1, jnp.float32),
    'real_frames': jnp.full(2, units.shape[1], jnp.int32),
    'reduced_units': jnp.asarray(units[:, ::2], jnp.int32),
    'durations': jnp.full((2, 8), 2, jnp.int32),
  }


def test_duration_loss_leaves_out_first_last_and_padding():
  durations = jnp.array([[9, 2, 3, 9, 0], [5, 4, 7, 0, 0]])
  perfect = jnp.log(durations + 1.0)[..., None]
  spoiled = perfect.at[:, 0].add(5).at[0, 3].add(5).at[1, 2].add(5).at[:, 4].add(5)
  assert float(vocoder_losses.duration_loss(spoiled, durations)) == 0
  np.testing.assert_allclose(
    vocoder_losses.duration_loss(perfect.at[1, 1].add(3), durations), 9 / 3, rtol=1e-6
  )


def test_duration_loss_of_a_distribution_counts_longer_runs_as_its_longest():
  durations = jnp.array([[1, 2, 9, 1]])
  sure = 30 * jax.nn.one_hot(jnp.array([[2, 1, 3, 2]]), 4)  # 3, 2, 4 and 3 frames
  assert float(vocoder_losses.duration_loss(sure, durations)) < 1e-6
  assert prosody.frames(sure).tolist() == [[3, 2, 4, 3]]
  unsure = vocoder_losses.duration_loss(0 * sure, durations)
  np.testing.assert_allclose(unsure, np.log(4), rtol=1e-6)


def test_predictors_learn_alone_where_sound_weighs_nothing():
  """The sound stays as it is: nothing else has a gradient."""
  losses = VocoderLossConfig(mel=0.0, stft=0.0, adversarial=0.0, feature_matching=0.0, pitch=0.0)
  params = nn.meta.unbox(init_vocoder(jax.random.key(0), EchoXConfig(vocoder=tiny.COUNTED)))
  loss_fn = jax.value_and_grad(vocoder_step.generator_loss, has_aux=True)

  @jax.jit
  def learn(params):
    return loss_fn(params, None, make_batch(), tiny.COUNTED, SMALL, losses, None, False)

  (loss, (metrics, _)), grads = learn(params)
  assert set(metrics) == {'duration_loss'} and float(loss) == float(metrics['duration_loss'])
  moved = {path[0] for path, grad in traverse_util.flatten_dict(grads).items() if grad.any()}
  assert moved == {'duration_predictor'}
  optimizer = optax.adam(1e-2)
  state = optimizer.init(params)
  for _ in range(60):
    updates, state = optimizer.update(learn(params)[1], state)
    params = optax.apply_updates(params, updates)
  assert float(learn(params)[0][0]) < 0.05 * float(loss)


def test_spectral_losses():
  cfg = VocoderLossConfig(mel_windows=(256, 1024), stft_windows=(128, 512))
  wave = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4000)), jnp.float32)
  same = vocoder_losses.spectral_losses(wave, wave, cfg, 16000)
  louder = vocoder_losses.spectral_losses(2 * wave, wave, cfg, 16000)
  assert float(same['mel_loss']) == 0 and float(same['stft_loss']) < 1e-6
  np.testing.assert_allclose(louder['mel_loss'], np.log(2), rtol=1e-3)
  np.testing.assert_allclose(louder['stft_loss'], np.log(2) + 1, rtol=1e-3)


def test_magnitude_of_a_sine():
  tone = jnp.sin(2 * jnp.pi * 1000 * jnp.arange(8000) / 16000)[None]
  spectrum = vocoder_losses.magnitude(tone, 512)
  assert spectrum.shape == (1, 8000 // 128 + 1, 257)
  np.testing.assert_allclose(spectrum[0, 30, 32], 128, rtol=1e-4)  # half the sum of the Hann window
  assert int(jnp.argmax(spectrum[0, 30])) == 32


@pytest.mark.slow
def test_discriminators_judge_any_length_and_learn():
  params = nn.meta.unbox(init_discriminators(jax.random.key(0), SMALL))
  wave = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1601)), jnp.float32)
  verdicts = Discriminators(SMALL).apply({'params': params}, wave)
  assert len(verdicts) == 4
  assert all(v.logits.shape[0] == 2 and len(v.features) == 3 for v in verdicts)
  optimizer = optax.adam(1e-2)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state):
    grads, metrics = jax.grad(vocoder_step.discriminator_loss, has_aux=True)(
      params, 0.1 * wave, wave, SMALL
    )
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, metrics['discriminator_loss']

  params, state, first = step(params, state)
  for _ in range(20):
    params, state, last = step(params, state)
  assert float(last) < 0.5 * float(first)


def test_pitch_losses():
  pitch = jnp.asarray([[100.0, 0.0, 400.0, 100.0]])
  mask = jnp.asarray([[True, True, True, False]])
  height = np.log(np.asarray([0.5, 1.0, 2.0, 9.0]))
  sure = np.asarray([20.0, -20.0, 20.0, -20.0])
  logits = jnp.asarray(np.stack([height, sure], -1), jnp.float32)[None]
  right = vocoder_losses.pitch_losses(logits, pitch, mask)
  assert float(right['pitch_loss']) < 1e-6 and float(right['voicing_loss']) < 1e-6
  wrong = vocoder_losses.pitch_losses(logits + jnp.asarray([0.3, 0.0]), pitch, mask)
  np.testing.assert_allclose(wrong['pitch_loss'], 0.3, rtol=1e-5)
  unsure = vocoder_losses.pitch_losses(logits * jnp.asarray([1.0, 0.0]), pitch, mask)
  np.testing.assert_allclose(unsure['voicing_loss'], np.log(2), rtol=1e-5)


@pytest.mark.parametrize('cfg', [tiny.VOCODER, tiny.SOURCE_FILTER], ids=['plain', 'source filter'])
def test_overfits_one_batch_and_adversarial_terms_reach_the_generator(cfg):
  batch, losses = make_batch(), VocoderLossConfig(mel=1.0, stft=1.0, stft_windows=(128, 512))
  params = nn.meta.unbox(init_vocoder(jax.random.key(0), EchoXConfig(vocoder=cfg)))
  disc = nn.meta.unbox(init_discriminators(jax.random.key(1), SMALL))
  optimizer = optax.adam(3e-3)
  state = optimizer.init(params)
  loss_fn = jax.value_and_grad(vocoder_step.generator_loss, has_aux=True)

  @jax.jit
  def step(params, state):
    (loss, (metrics, _)), grads = loss_fn(
      params, None, batch, cfg, SMALL, losses, jax.random.key(2), False
    )
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, loss, metrics

  params, state, first, _ = step(params, state)
  for _ in range(60):
    params, state, last, metrics = step(params, state)
  assert float(last) < 0.5 * float(first)
  assert float(metrics['duration_loss']) < 0.05
  adversarial = jax.jit(
    lambda params, disc: vocoder_step.generator_loss(
      params, disc, batch, cfg, SMALL, losses, jax.random.key(2), True
    )
  )
  _, (metrics, wave) = adversarial(params, disc)
  assert wave.shape == batch['audio'].shape
  assert float(metrics['adversarial_loss']) > 0 and float(metrics['feature_loss']) > 0
