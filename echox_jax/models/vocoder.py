"""Unit vocoder: code HiFi-GAN with a duration predictor (released code: fairseq's
CodeHiFiGANVocoder; facts 10).

Units at 50 Hz go through an embedding, a convolution, and stages of transposed convolutions with
residual blocks up to the waveform. With `istft_hop` > 0 an inverse STFT (iSTFTNet) replaces the
last stages; it is several times cheaper on CPU and gives a waveform of the same length.
`context_dilations` adds a residual block at 50 Hz, a cheap way to enlarge the receptive field.

Units say what is said, hardly how high. A vocoder that has to guess the pitch from them hedges, and
sounds hoarse. With `source_filter` a predictor gives the pitch, and the network filters pulses of
that pitch and noise (`excitation`). In training the pitch is that of the recording.

The module has no weight norm: conversion folds it into the kernels
(echox_jax/conversion/unit_vocoder.py), and training uses plain kernels. Padded frames are zeroed
before every convolution, so a clip sounds the same under any static budget.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors
from echox_jax.config import EchoXConfig, VocoderConfig
from echox_jax.models import excitation, prosody
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.convolution import Conv, ConvTranspose, hide, overlap_add
from echox_jax.models.layers import Embed

_MAX_LOG_MAGNITUDE = 5.0  # keeps exp finite at the start of training
# Of the filters at the start of training: the sound is then about as loud as speech.
_LOG_PULSES, _LOG_NOISE = -3.0, -5.0


class Synthesis(NamedTuple):
  """Result of synthesis.

  Attributes:
    waveform: float32[B, frames * hop]; zero past the end.
    durations: int32[B,R] frames of each unit, 0 for padding.
    num_frames: int32[B] frames spoken, at most the budget.
    overflow: int32[B] frames over the budget.
  """

  waveform: Array
  durations: Array
  num_frames: Array
  overflow: Array


def check_config(cfg: VocoderConfig) -> None:
  """Raises ConfigError if the sizes of `cfg` do not fit together."""
  hop = int(np.prod(cfg.upsample_rates)) * max(cfg.istft_hop, 1)
  if hop != cfg.code_hop_size:
    raise errors.ConfigError(
      f'vocoder upsampling gives {hop} samples per unit instead of {cfg.code_hop_size}: '
      'make upsample_rates times istft_hop equal code_hop_size.'
    )
  if len(cfg.upsample_rates) != len(cfg.upsample_kernel_sizes) or any(
    k < r or (k - r) % 2 for k, r in zip(cfg.upsample_kernel_sizes, cfg.upsample_rates)
  ):
    raise errors.ConfigError(
      'vocoder upsample_kernel_sizes must hold one kernel per rate, longer than the rate by an '
      'even number: correct them.'
    )
  if cfg.istft_hop and (
    cfg.istft_n_fft % 2 or cfg.istft_n_fft % cfg.istft_hop or cfg.istft_n_fft < 2 * cfg.istft_hop
  ):
    raise errors.ConfigError(
      'vocoder istft_n_fft must be even and a multiple of istft_hop, at least 2x: correct it.'
    )
  if cfg.source_filter and not cfg.istft_hop:
    raise errors.ConfigError(
      'vocoder.source_filter filters spectra: set istft_hop and istft_n_fft, or leave it out.'
    )
  width = cfg.embedding_dim * (2 if cfg.num_speakers else 1)
  if cfg.model_in_dim != width:
    raise errors.ConfigError(
      f'vocoder model_in_dim is {cfg.model_in_dim}: it must be {width} with this embedding_dim.'
    )


def repeat_units(
  units: Int[Array, 'B R'], durations: Int[Array, 'B R'], budget: int
) -> tuple[Int[Array, 'B F'], Bool[Array, 'B F'], Int[Array, ' B']]:
  """Repeats each unit for its duration, into a static number of frames.

  Args:
    units: reduced units.
    durations: frames of each, 0 for padding.
    budget: frames of the result.

  Returns:
    (units, 0 past the end; mask of the valid frames; overflow: number of frames over the budget).
  """
  ends = jnp.cumsum(durations, axis=1)
  total = ends[:, -1]
  frames = jnp.arange(budget)
  index = jax.vmap(lambda e: jnp.searchsorted(e, frames, side='right'))(ends)
  index = jnp.minimum(index, units.shape[1] - 1)
  mask = frames[None] < total[:, None]
  repeated = jnp.where(mask, jnp.take_along_axis(units, index, axis=1), 0)
  return repeated, mask, jnp.maximum(total - budget, 0)


def inverse_stft(
  spectrum: tuple[Float[Array, 'B F bins'], Float[Array, 'B F bins']],
  mask: Bool[Array, 'B F'] | None,
  n_fft: int,
  hop: int,
) -> Float[Array, 'B S']:
  """Inverts an STFT with a periodic Hann window, as matmuls with the windowed Fourier basis.

  Args:
    spectrum: real and imaginary parts of `n_fft` / 2 + 1 bins; frame t is centred on sample t *
      hop.
    mask: frames that count; None = all.
    n_fft: window length.
    hop: samples between frames.

  Returns:
    The signal in float32: exactly `hop` samples for each frame except the first.
  """
  real, imaginary = spectrum
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
  angle = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft
  weight = np.full((n_fft // 2 + 1, 1), 2.0)
  weight[0] = weight[-1] = 1.0  # the other bins also represent their conjugates

  def basis(wave):
    return jnp.asarray(weight * wave * window / n_fft, real.dtype)

  frames = real @ basis(np.cos(angle)) - imaginary @ basis(np.sin(angle))
  shown = jnp.ones((1, real.shape[1]), jnp.float32) if mask is None else mask.astype(jnp.float32)
  envelope = shown[:, :, None] * jnp.asarray(window**2, jnp.float32)
  length = (real.shape[1] - 1) * hop
  signal, envelope = (
    overlap_add(x.astype(jnp.float32)[..., None], hop)[:, n_fft // 2 : n_fft // 2 + length, 0]
    for x in (frames, envelope)
  )
  return signal / jnp.maximum(envelope, 1e-4)


class ResBlock(nn.Module):
  """For each dilation: x += conv(lrelu(conv_dilated(lrelu(x)))), slope 0.1."""

  kernel_size: int
  dilations: tuple[int, ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B T C'], mask: Bool[Array, 'B T'] | None
  ) -> Float[Array, 'B T C']:
    """Adds the convolutions to `x`; they see frames outside the mask as zero. None = no mask."""
    for i, dilation in enumerate(self.dilations):
      y = hide(nn.leaky_relu(x, 0.1), mask)
      y = Conv(
        x.shape[-1], self.kernel_size, dilation=dilation, dtype=self.dtype, name=f'convs1_{i}'
      )(y)
      y = hide(nn.leaky_relu(y, 0.1), mask)
      x += Conv(x.shape[-1], self.kernel_size, dtype=self.dtype, name=f'convs2_{i}')(y)
    return x


class UnitVocoder(nn.Module):
  """Code HiFi-GAN generator, duration predictor and, with `source_filter`, pitch predictor; sizes
  from the config.
  """

  config: VocoderConfig

  def setup(self):
    cfg = self.config
    check_config(cfg)
    dtype = jnp.dtype(cfg.dtype)
    init = nn.initializers.normal(1.0)
    self.unit_embedding = Embed(cfg.num_units, cfg.embedding_dim, ('codes', 'embed'), dtype, init)
    if cfg.num_speakers:
      self.speaker_embedding = Embed(
        cfg.num_speakers, cfg.embedding_dim, ('codes', 'embed'), dtype, init
      )
    self.duration_predictor = prosody.DurationPredictor(cfg.duration, dtype)
    self.conv_pre = Conv(cfg.upsample_initial_channel, 7, dtype=dtype)
    if cfg.context_dilations:
      self.context = ResBlock(cfg.context_kernel_size, cfg.context_dilations, dtype)
    channels = [cfg.upsample_initial_channel >> (i + 1) for i in range(len(cfg.upsample_rates))]
    self.ups = [
      ConvTranspose(c, k, r, dtype)
      for c, k, r in zip(channels, cfg.upsample_kernel_sizes, cfg.upsample_rates)
    ]
    self.resblocks = [
      [
        ResBlock(k, d, dtype)
        for k, d in zip(cfg.resblock_kernel_sizes, cfg.resblock_dilation_sizes)
      ]
      for _ in channels
    ]
    bins = cfg.istft_n_fft // 2 + 1
    if cfg.source_filter:
      self.pitch_predictor = prosody.PitchPredictor(cfg.pitch, dtype)
      self.conv_post = Conv(3 * bins, 7, dtype=dtype)
    else:
      self.conv_post = Conv(2 * bins if cfg.istft_hop else 1, 7, dtype=dtype)

  def __call__(
    self, units: Int[Array, 'B F'], reduced: Int[Array, 'B R'], mask: Bool[Array, 'B R']
  ) -> tuple[Float[Array, 'B S'], Float[Array, 'B R K']]:
    """Uses every parameter, for initialisation; returns (waveform of `units`, duration outputs of
    `reduced`).
    """
    return self.generate(units), self.duration_outputs(reduced, mask)

  def duration_outputs(
    self, reduced: Int[Array, 'B R'], mask: Bool[Array, 'B R'], deterministic: bool = True
  ) -> Float[Array, 'B R K']:
    """Says how long reduced units last as `DurationPredictor` does; `mask` marks the real units."""
    return self.duration_predictor(self.unit_embedding(reduced), mask, deterministic)

  def durations(self, reduced: Int[Array, 'B R'], mask: Bool[Array, 'B R']) -> Int[Array, 'B R']:
    """Predicts durations in frames, int32, at least 1, 0 for padding."""
    frames = prosody.frames(self.duration_outputs(reduced, mask))
    return jnp.where(mask, frames, 0)

  def pitch_logits(
    self,
    units: Int[Array, 'B F'],
    mask: Bool[Array, 'B F'] | None = None,
    deterministic: bool = True,
  ) -> Float[Array, 'B F 2']:
    """Predicts the pitch of units at 50 Hz as `PitchPredictor` does; only with `source_filter`."""
    return self.pitch_predictor(self.unit_embedding(units), mask, deterministic)

  def pitch(
    self, units: Int[Array, 'B F'], mask: Bool[Array, 'B F'] | None = None
  ) -> Float[Array, 'B F']:
    """Predicts the pitch of units at 50 Hz, in Hz; 0 = unvoiced, or outside the mask."""
    height, voiced = jnp.moveaxis(self.pitch_logits(units, mask), -1, 0)
    shown = voiced > 0 if mask is None else (voiced > 0) & mask
    return jnp.where(shown, excitation.REFERENCE * jnp.exp(height), 0.0)

  def generate(
    self,
    units: Int[Array, 'B F'],
    mask: Bool[Array, 'B F'] | None = None,
    speaker: Int[Array, ' B'] | None = None,
    pitch: Float[Array, 'B F'] | None = None,
    start: excitation.Start | None = None,
  ) -> Float[Array, 'B S']:
    """Turns units at 50 Hz into a waveform, without duration prediction.

    Args:
      units: one per frame.
      mask: frames to speak; None = all.
      speaker: only for several speakers; default: the config's `speaker_id`.
      pitch: in Hz, 0 = unvoiced, only with `source_filter`; default: predicted.
      start: where in the speech the units begin, only with `source_filter`; default: with it.

    Returns:
      The waveform in float32, `code_hop_size` samples per unit, zero where the mask is False.
    """
    cfg = self.config
    x = self.unit_embedding(units)
    if cfg.num_speakers:
      speaker = jnp.full(units.shape[:1], cfg.speaker_id) if speaker is None else speaker
      voice = self.speaker_embedding(speaker)[:, None]
      x = jnp.concatenate([x, jnp.broadcast_to(voice, (*x.shape[:2], voice.shape[-1]))], axis=-1)
    if not cfg.source_filter:
      return self.from_features(x, mask)
    pitch = self.pitch(units, mask) if pitch is None else pitch
    if start is None:
      none = jnp.zeros(units.shape[0], jnp.int32)
      start = excitation.Start(none, none.astype(jnp.uint32))
    return self._filtered(x, mask, pitch, start)

  def from_features(
    self, x: Float[Array, 'B F D'], mask: Bool[Array, 'B F'] | None = None
  ) -> Float[Array, 'B S']:
    """Runs the part after the embeddings: a plain HiFi-GAN generator from `model_in_dim` features
    per frame; mask and result as in `generate`.
    """
    x, mask = self._upsampled(x, mask)
    if self.config.istft_hop:
      return self._from_spectrum(x, mask)
    wave = jnp.tanh(self.conv_post(x)[..., 0].astype(jnp.float32))
    return wave if mask is None else jnp.where(mask, wave, 0)

  def _upsampled(self, x: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """What the last convolution sees, float[B,T,C], and its mask, bool[B,T]."""
    cfg = self.config
    x = self.conv_pre(hide(x, mask))
    if cfg.context_dilations:
      x = self.context(x, mask)
    for rate, up, blocks in zip(cfg.upsample_rates, self.ups, self.resblocks):
      x = up(hide(nn.leaky_relu(x, 0.1), mask))
      mask = None if mask is None else jnp.repeat(mask, rate, axis=1)
      x = sum(block(x, mask) for block in blocks) / len(blocks)
    # released code: the default slope here, 0.1 elsewhere
    return hide(nn.leaky_relu(x, 0.01), mask), mask

  def _from_spectrum(self, x: Array, mask: Array | None) -> Array:
    """float[B,T,C] -> float32[B,T*istft_hop]."""
    x, shown = self._spectral(x, mask)
    log_magnitude, phase = jnp.split(x, 2, axis=-1)
    magnitude = _magnitude(log_magnitude, shown)
    return self._inverted((magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)), mask, shown)

  def _filtered(self, x: Array, mask: Array | None, pitch: Array, start: excitation.Start) -> Array:
    """float[B,F,D], float32[B,F] -> float32[B,S]: filters pulses and noise; pulses in amplitude and
    phase, noise has no phase to change.
    """
    cfg = self.config
    shown = pitch if mask is None else jnp.where(mask, pitch, 0)
    sounds = (
      excitation.pulses(shown, cfg.code_hop_size, cfg.sample_rate, start.phase),
      excitation.noise(start.frame, pitch.shape[1], cfg.code_hop_size),
    )
    if mask is not None:  # no window sees anything behind the end
      heard = jnp.repeat(mask, cfg.code_hop_size, axis=1)
      sounds = [jnp.where(heard, sound, 0) for sound in sounds]
    pulses, noise = (excitation.stft(sound, cfg.istft_n_fft, cfg.istft_hop) for sound in sounds)
    x = jnp.concatenate([x, excitation.features(shown).astype(x.dtype)], axis=-1)
    x, mask = self._upsampled(x, mask)
    x, shown = self._spectral(x, mask)
    log_pulses, phase, log_noise = jnp.split(x, 3, axis=-1)
    magnitude = _magnitude(log_pulses + _LOG_PULSES, shown)
    real, imaginary = magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)
    hiss = _magnitude(log_noise + _LOG_NOISE, shown)
    spectrum = (
      real * pulses[0] - imaginary * pulses[1] + hiss * noise[0],
      real * pulses[1] + imaginary * pulses[0] + hiss * noise[1],
    )
    return self._inverted(spectrum, mask, shown)

  def _spectral(self, x: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """float32[B,T+1,bins] of frames around every hop, and their mask. Prepending the mirrored
    second frame makes the length of the sound exact.
    """
    shown = None if mask is None else jnp.concatenate([mask[:, :1], mask], axis=1)
    x = self.conv_post(jnp.concatenate([x[:, 1:2], x], axis=1))
    return x.astype(jnp.float32), shown

  def _inverted(
    self, spectrum: tuple[Array, Array], mask: Array | None, shown: Array | None
  ) -> Array:
    """Real and imaginary parts, float32[B,T+1,bins] -> float32[B,T*istft_hop]."""
    cfg = self.config
    wave = inverse_stft(spectrum, shown, cfg.istft_n_fft, cfg.istft_hop)
    return wave if mask is None else jnp.where(jnp.repeat(mask, cfg.istft_hop, axis=1), wave, 0)

  def synthesise(
    self,
    reduced: Int[Array, 'B R'],
    mask: Bool[Array, 'B R'],
    frame_budget: int,
    speaker: Int[Array, ' B'] | None = None,
  ) -> Synthesis:
    """Speaks reduced units with predicted durations.

    Args:
      reduced: units, consecutive repeats dropped.
      mask: real units.
      frame_budget: static number of frames; the excess is counted, not spoken.
      speaker: as in `generate`.
    """
    durations = self.durations(reduced, mask)
    units, shown, overflow = repeat_units(reduced, durations, frame_budget)
    return Synthesis(self.generate(units, shown, speaker), durations, shown.sum(1), overflow)


def sound_context(cfg: VocoderConfig) -> int:
  """Gives the frames on each side that the sound of a frame depends on."""

  def of_block(kernel, dilations):
    return sum((kernel - 1) * d // 2 + (kernel - 1) // 2 for d in dilations)

  reach, rate = 3.0, 1  # the first convolution has seven taps; `reach` is in frames
  if cfg.context_dilations:
    reach += of_block(cfg.context_kernel_size, cfg.context_dilations)
  for up, kernel in zip(cfg.upsample_rates, cfg.upsample_kernel_sizes):
    reach += kernel / up / rate
    rate *= up
    reach += max(map(of_block, cfg.resblock_kernel_sizes, cfg.resblock_dilation_sizes)) / rate
  reach += 3 / rate
  if cfg.istft_hop:
    reach += (cfg.istft_n_fft / cfg.istft_hop + 1) / rate
  if cfg.source_filter:  # pulses also depend on the pitch of the next frame
    reach += 1 + sum((cfg.pitch.kernel_size - 1) * d // 2 for d in cfg.pitch.dilations)
  return int(np.ceil(reach)) + 1


def init_vocoder(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of the generator and its predictors."""
  ids = jnp.zeros((1, 4), jnp.int32)
  return UnitVocoder(cfg.vocoder).init(key, ids, ids, ids == 0)['params']


def _magnitude(logs: Array, mask: Array | None) -> Array:
  return hide(jnp.exp(jnp.minimum(logs, _MAX_LOG_MAGNITUDE)), mask)
