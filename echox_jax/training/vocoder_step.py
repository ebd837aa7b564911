"""Losses of the vocoder stage as pure functions; the training loop combines them into one jitted
step for generator and discriminators.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from echox_jax.config import DiscriminatorConfig, VocoderConfig
from echox_jax.models import excitation
from echox_jax.models.discriminators import Discriminators
from echox_jax.models.vocoder import UnitVocoder
from echox_jax.training import vocoder_losses, yin
from echox_jax.training.experiment import VocoderLossConfig
from echox_jax.training.s2t_step import dropout

Array = jax.Array
Params = Any


def generator_loss(
  params: Params,
  disc_params: Params | None,
  batch: dict[str, Array],
  cfg: VocoderConfig,
  disc_cfg: DiscriminatorConfig,
  losses: VocoderLossConfig,
  rng: Array | None,
  adversarial: bool,
) -> tuple[Array, tuple[dict[str, Array], Array]]:
  """Computes the loss of generator and predictors. With `source_filter` the generator has the pitch
  of the recording. Where all losses of sound weigh nothing, none is made.

  Args:
    params: vocoder parameters.
    disc_params: discriminator parameters; only used if `adversarial`.
    batch: units int32[B,F], audio float32[B,F*hop] (or int16), real_frames int32[B] (later frames
      are padding), reduced_units int32[B,R], durations int32[B,R] (0 = padding).
    cfg, disc_cfg, losses: sizes and weights.
    rng: key of dropout in the predictors and of places in the noise; None = deterministic.
    adversarial: adds adversarial and feature matching loss (static).

  Returns:
    (loss, (metrics, generated waveform float32[B,F*hop])); the waveform is the input of the
    discriminator loss, and the recording where none is made.
  """
  audio = as_float(batch['audio'])
  frames = batch['units'].shape[1]
  # The audio after the end of a short clip is zero. Without the mask, the generator would learn to
  # fall silent on a repeated unit.
  real = jnp.arange(frames) < batch['real_frames'][:, None]
  vocoder = functools.partial(UnitVocoder(cfg).apply, {'params': params})
  outputs = vocoder(
    batch['reduced_units'], batch['durations'] > 0, method='duration_outputs', **dropout(rng)
  )
  parts = {'duration_loss': vocoder_losses.duration_loss(outputs, batch['durations'])}
  loss = losses.duration * parts['duration_loss']
  wave, given = audio, {}
  sounds = any((losses.mel, losses.stft, losses.adversarial, losses.feature_matching))
  if cfg.source_filter and (sounds or losses.pitch):
    pitch = jnp.where(real, yin.pitch(audio, cfg.code_hop_size, cfg.sample_rate), 0)
    given = dict(pitch=pitch, start=_anywhere(rng, len(audio)))
    logits = vocoder(batch['units'], real, method='pitch_logits', **dropout(rng))
    parts |= vocoder_losses.pitch_losses(logits, pitch, real)
    loss += losses.pitch * (parts['pitch_loss'] + parts['voicing_loss'])
  if sounds:
    wave = vocoder(batch['units'], real, method='generate', **given)
    parts |= vocoder_losses.spectral_losses(wave, audio, losses, cfg.sample_rate)
    loss += losses.mel * parts['mel_loss'] + losses.stft * parts['stft_loss']
  if adversarial:

    def judge(x):
      return Discriminators(disc_cfg).apply({'params': disc_params}, x)

    parts |= vocoder_losses.generator_losses(jax.lax.stop_gradient(judge(audio)), judge(wave))
    loss += (
      losses.adversarial * parts['adversarial_loss']
      + losses.feature_matching * parts['feature_loss']
    )
  return loss, (parts, wave)


def discriminator_loss(
  disc_params: Params, generated: Array, audio: Array, disc_cfg: DiscriminatorConfig
) -> tuple[Array, dict[str, Array]]:
  """Computes the discriminator loss on generated and real waveforms, float[B,S]; no gradient flows
  to the generator.
  """

  def judge(x):
    return Discriminators(disc_cfg).apply({'params': disc_params}, x)

  loss = vocoder_losses.discriminator_loss(
    judge(as_float(audio)), judge(jax.lax.stop_gradient(generated))
  )
  return loss, {'discriminator_loss': loss}


def _anywhere(rng: Array | None, rows: int) -> excitation.Start | None:
  """Places of `rows` segments in their speech: noise and phase are others at each step, so that the
  generator cannot learn them. None without `rng`: at its beginning.
  """
  if rng is None:
    return None
  of_frame, of_phase = jax.random.split(jax.random.fold_in(rng, 1))
  return excitation.Start(
    jax.random.randint(of_frame, (rows,), 0, excitation.NOISE_FRAMES),
    jax.random.bits(of_phase, (rows,), jnp.uint32),
  )


def as_float(audio: Array) -> Array:
  """Scales int16 samples to [-1, 1); returns floats unchanged."""
  return audio.astype(jnp.float32) / 32768 if audio.dtype == jnp.int16 else audio
