"""Losses of the vocoder stage (HiFi-GAN section 2.4; facts 10), all in float32."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from echox_jax.models import excitation
from echox_jax.models.convolution import frames_of
from echox_jax.models.discriminators import DiscriminatorOutput
from echox_jax.models.log_mel import mel_filters
from echox_jax.parallel.sharding import by_rows
from echox_jax.training.experiment import VocoderLossConfig

Array = jax.Array


def magnitude(wave: Array, window: int) -> Array:
  """Computes magnitudes of the centred (mirrored) Hann STFT: float[B,S] ->
  float32[B,S/hop+1,window/2+1], hop = window / 4.
  """
  hop = window // 4
  wave = jnp.pad(wave.astype(jnp.float32), ((0, 0), (window // 2, window // 2)), mode='reflect')
  frames = frames_of(wave, window, hop)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  spectrum = by_rows(jnp.fft.rfft, frames * jnp.asarray(hann, jnp.float32))
  return jnp.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)


def spectral_losses(
  generated: Array, real: Array, cfg: VocoderLossConfig, sample_rate: int
) -> dict[str, Array]:
  """Computes mel L1 and multi-resolution STFT loss of waveforms float[B,S]: {'mel_loss',
  'stft_loss'}, each averaged over resolutions.
  """
  windows = sorted({*cfg.mel_windows, *cfg.stft_windows})
  magnitudes = {w: (magnitude(generated, w), magnitude(real, w)) for w in windows}
  mel, stft = jnp.zeros(()), jnp.zeros(())
  for window in cfg.mel_windows:
    filters = mel_filters(cfg.num_mels, window, cfg.f_max, sample_rate)
    ours, theirs = (jnp.log(jnp.maximum(m @ filters, 1e-5)) for m in magnitudes[window])
    mel += jnp.mean(jnp.abs(ours - theirs)) / len(cfg.mel_windows)
  for window in cfg.stft_windows:
    ours, theirs = magnitudes[window]
    log_distance = jnp.mean(
      jnp.abs(jnp.log(jnp.maximum(ours, 1e-5)) - jnp.log(jnp.maximum(theirs, 1e-5)))
    )
    convergence = jnp.sqrt(jnp.sum((ours - theirs) ** 2) / jnp.maximum(jnp.sum(theirs**2), 1e-5))
    stft += (log_distance + convergence) / len(cfg.stft_windows)
  return {'mel_loss': mel, 'stft_loss': stft}


def duration_loss(outputs: Array, durations: Array) -> Array:
  """Computes the cross-entropy of the counts of the runs, or the MSE against log(count + 1). It
  skips each row's first and last run, which a cut may have shortened.

  Args:
    outputs: float32[B,R,K] of `prosody.DurationPredictor`: logits, or with K = 1 log(count + 1).
    durations: int32[B,R], counts; 0 for padding (at the end). Longer ones than K count as K.
  """
  count = jnp.sum(durations > 0, axis=1, keepdims=True)
  index = jnp.arange(durations.shape[1])
  inner = (index > 0) & (index < count - 1)
  longest = outputs.shape[-1]
  if longest == 1:
    error = jnp.square(outputs[..., 0] - jnp.log(durations + 1.0))
  else:
    said = jnp.clip(durations - 1, 0, longest - 1)
    error = optax.softmax_cross_entropy_with_integer_labels(outputs, said)
  return jnp.sum(error * inner) / jnp.maximum(jnp.sum(inner), 1)


def pitch_losses(logits: Array, pitch: Array, mask: Array) -> dict[str, Array]:
  """Computes the losses of a predicted pitch: {'pitch_loss': L1 of the logarithm where there is a
  pitch, 'voicing_loss': cross-entropy of whether there is one}.

  Args:
    logits: float32[B,F,2], as `UnitVocoder.pitch_logits` gives.
    pitch: float32[B,F] of the recording in Hz; 0 = unvoiced.
    mask: bool[B,F], frames that count.
  """
  voiced = pitch > 0
  error = jnp.abs(logits[..., 0] - excitation.height(pitch)) * (voiced & mask)
  entropy = optax.sigmoid_binary_cross_entropy(logits[..., 1], voiced.astype(jnp.float32)) * mask
  return {
    'pitch_loss': jnp.sum(error) / jnp.maximum(jnp.sum(voiced & mask), 1),
    'voicing_loss': jnp.sum(entropy) / jnp.maximum(jnp.sum(mask), 1),
  }


def discriminator_loss(
  real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]
) -> Array:
  """Computes the least-squares loss (targets: real 1, generated 0), summed over discriminators."""
  return sum(
    jnp.mean((r.logits - 1) ** 2) + jnp.mean(g.logits**2)
    for r, g in zip(real, generated, strict=True)
  )


def generator_losses(
  real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]
) -> dict[str, Array]:
  """Returns {'adversarial_loss': least squares with target 1, 'feature_loss': L1 of the feature
  maps}, summed over the discriminators.
  """
  adversarial = sum(jnp.mean((g.logits - 1) ** 2) for g in generated)
  feature = sum(
    jnp.mean(jnp.abs(r.astype(jnp.float32) - g.astype(jnp.float32)))
    for a, b in zip(real, generated, strict=True)
    for r, g in zip(a.features, b.features, strict=True)
  )
  return {'adversarial_loss': adversarial, 'feature_loss': feature}
