"""Clips -> states -> units: batching and padding must not show."""

import functools

from flax import linen as nn
import jax
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import HubertConfig, UnitsConfig, WhisperConfig
from echox_jax.models import hubert, whisper
from echox_jax.units import extract

WHISPER = WhisperConfig(
  hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, max_positions=100
)
HUBERT = HubertConfig(
  hidden_size=16,
  intermediate_size=32,
  num_layers=2,
  num_heads=2,
  conv_dim=(8,) * 7,
  num_conv_pos_embeddings=16,
  num_conv_pos_embedding_groups=2,
)


@functools.cache
def make_encoder(kind):
  cfg = UnitsConfig(encoder=kind, layer=1, padding_seconds=0.1)
  if kind == 'whisper':
    model_cfg, model, example = (
      WHISPER,
      whisper.WhisperEncoder(WHISPER),
      np.zeros((1, 20, 80), np.float32),
    )
  else:
    model_cfg, model, example = (
      HUBERT,
      hubert.HubertEncoder(HUBERT),
      np.zeros((1, 4000), np.float32),
    )
  params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), example))['params']
  return extract.speech_encoder(params, model_cfg, cfg)


@pytest.fixture(scope='module')
def clips():
  rng = np.random.default_rng(0)
  return [rng.normal(size=n).astype(np.float32) * 0.1 for n in (9000, 18000, 4111, 14400, 12345)]


@pytest.mark.parametrize('kind', ['whisper', 'hubert'])
def test_states_do_not_depend_on_the_batch(kind, clips):
  encoder = make_encoder(kind)
  with jax.default_matmul_precision('highest'):
    together = list(extract.encode_clips(encoder, clips, batch_seconds=3.0))
    for clip, got in zip(clips[:2], together):
      alone = next(extract.encode_clips(encoder, [clip], batch_seconds=0.0))
      np.testing.assert_allclose(got.layer, alone.layer, atol=1e-4)
      np.testing.assert_allclose(got.final, alone.final, atol=1e-2)
      assert got.final.dtype == np.float16
  expected = (
    [len(c) // 320 for c in clips]
    if kind == 'whisper'
    else [hubert.num_states(HUBERT, len(c)) for c in clips]
  )
  assert [len(got.layer) for got in together] == expected


def test_only_what_is_asked_for(clips):
  encoder = make_encoder('whisper')
  both, layers = (
    list(extract.encode_clips(encoder, clips, 4.0, names))
    for names in (('layer', 'final'), ('layer',))
  )
  for got, expected in zip(layers, both):
    np.testing.assert_allclose(got.layer, expected.layer, atol=1e-5)
    assert got.final is None


def test_long_clips_are_encoded_in_chunks():
  encoder = make_encoder('whisper')  # two seconds at most
  clip = np.random.default_rng(0).normal(size=70000).astype(np.float32)
  got = next(extract.encode_clips(encoder, [clip]))
  assert len(got.layer) == 70000 // 320
  first = next(extract.encode_clips(encoder, [clip[: 32000 - 1600]]))
  np.testing.assert_allclose(got.layer[: len(first.layer)], first.layer, atol=1e-5)


@pytest.mark.parametrize('devices', [1, 2])
def test_batches_are_of_like_length_and_nearly_full(devices):
  shapes = []

  def apply(audio, samples, names):
    shapes.append(audio.shape)
    assert (samples <= audio.shape[1]).all()
    return (np.repeat(audio[:, ::320, None], 4, axis=-1),)

  encoder = extract.SpeechEncoder(
    apply,
    num_states=lambda samples: samples // 320,
    padding=1600,
    max_samples=480000,
    width=4,
    devices=devices,
  )
  rng = np.random.default_rng(0)
  clips = [np.full(n, i + 1, np.float32) for i, n in enumerate(rng.integers(8000, 200000, 100))]
  for i, got in enumerate(extract.encode_clips(encoder, iter(clips), 12.0, ('layer',))):
    np.testing.assert_array_equal(got.layer, np.full((len(clips[i]) // 320, 4), i + 1))
  assert len(set(shapes)) == len({samples for _, samples in shapes})  # one program for a length
  assert all(
    rows % devices == 0 and (rows == devices or rows * samples <= 12 * 16000 * devices)
    for rows, samples in shapes
  )
  assert sum(map(np.prod, shapes)) < 1.3 * sum(len(clip) + 1600 for clip in clips)


def test_what_reading_raises_is_raised():

  def clips():
    yield np.zeros(16000, np.float32)
    raise errors.DataError('that clip is damaged')

  with pytest.raises(errors.DataError, match='damaged'):
    list(extract.encode_clips(make_encoder('whisper'), clips()))


def test_too_short_a_clip():
  with pytest.raises(errors.AudioError, match='100 samples'):
    list(extract.encode_clips(make_encoder('whisper'), [np.zeros(100, np.float32)]))


@pytest.mark.parametrize('cfg', [UnitsConfig(layer=3), UnitsConfig(encoder='other', layer=1)])
def test_unknown_layer_or_encoder(cfg):
  with pytest.raises(errors.ConfigError):
    extract.speech_encoder({}, WHISPER, cfg)
