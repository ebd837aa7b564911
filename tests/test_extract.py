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

WHISPER = WhisperConfig(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, max_positions=100)
HUBERT = HubertConfig(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, conv_dim=(8,) * 7,
                      num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)


@functools.cache
def make_encoder(kind):
  cfg = UnitsConfig(encoder=kind, layer=1, padding_seconds=0.1)
  if kind == 'whisper':
    model_cfg, model, example = WHISPER, whisper.WhisperEncoder(WHISPER), np.zeros((1, 20, 80), np.float32)
  else:
    model_cfg, model, example = HUBERT, hubert.HubertEncoder(HUBERT), np.zeros((1, 4000), np.float32)
  params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), example))['params']
  return extract.speech_encoder(cfg, model_cfg, params)


@pytest.fixture(scope='module')
def clips():
  rng = np.random.default_rng(0)
  return [rng.normal(size=n).astype(np.float32) * 0.1 for n in (9000, 18000, 4111, 14400, 12345)]


@pytest.mark.parametrize('kind', ['whisper', 'hubert'])
def test_states_do_not_depend_on_the_batch(kind, clips):
  encoder = make_encoder(kind)
  with jax.default_matmul_precision('highest'):
    together = list(extract.encode_clips(encoder, clips, batch_size=3))
    for clip, got in zip(clips[:2], together):
      alone = next(extract.encode_clips(encoder, [clip], batch_size=1))
      np.testing.assert_allclose(got.layer, alone.layer, atol=1e-4)
      np.testing.assert_allclose(got.final, alone.final, atol=1e-2)
      assert got.final.dtype == np.float16
  expected = [len(c) // 320 for c in clips] if kind == 'whisper' else [hubert.num_states(HUBERT, len(c)) for c in clips]
  assert [len(got.layer) for got in together] == expected


def test_only_what_is_asked_for(clips):
  encoder = make_encoder('whisper')
  both, layers = (list(extract.encode_clips(encoder, clips, 4, names)) for names in (('layer', 'final'), ('layer',)))
  for got, expected in zip(layers, both):
    np.testing.assert_allclose(got.layer, expected.layer, atol=1e-5)
    assert got.final is None


def test_long_clips_are_encoded_in_chunks():
  encoder = make_encoder('whisper')  # two seconds at most
  clip = np.random.default_rng(0).normal(size=70000).astype(np.float32)
  got = next(extract.encode_clips(encoder, [clip]))
  assert len(got.layer) == 70000 // 320
  first = next(extract.encode_clips(encoder, [clip[:32000 - 1600]]))
  np.testing.assert_allclose(got.layer[:len(first.layer)], first.layer, atol=1e-5)


def test_too_short_a_clip():
  with pytest.raises(errors.AudioError, match='100 samples'):
    list(extract.encode_clips(make_encoder('whisper'), [np.zeros(100, np.float32)]))


@pytest.mark.parametrize('cfg', [UnitsConfig(layer=3), UnitsConfig(encoder='other', layer=1)])
def test_unknown_layer_or_encoder(cfg):
  with pytest.raises(errors.ConfigError):
    extract.speech_encoder(cfg, WHISPER, {})
