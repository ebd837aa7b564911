"""The released folder, imported."""

import pytest

from echox_jax import model_folder
from tests.helpers import released_folder
from tests.helpers.imports import WEIGHTS, run
from tests.helpers.released_folder import CONFIG


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = released_folder.write(
    tmp_path_factory.mktemp('released'), WEIGHTS, released_folder.echox_config()
  )
  released_folder.write_tokenizer(folder)
  released_folder.write(
    folder / 'whisper', released_folder.weights('whisper/'), CONFIG['whisper_encoder']
  )
  assert len(list(folder.glob('*.safetensors'))) > 2
  return folder


@pytest.fixture(scope='module')
def imported(source, tmp_path_factory):
  out = tmp_path_factory.mktemp('imported') / 'model'
  run('echox', source, out, '--whisper', source / 'whisper')
  return out


@pytest.fixture(scope='module')
def model(imported):
  return model_folder.Bundle(model_folder.read_config(imported), model_folder.load_params(imported))
