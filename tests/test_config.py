"""Configs: what is refused, and files of earlier versions."""

import json
import shutil

import pytest

from configs import echox_nano
import echox_jax
from echox_jax import config as config_lib
from echox_jax import errors
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.training import loop
from echox_jax.training.experiment import ExperimentConfig
from tests.helpers import tiny_model
from tests.helpers.paths import GOLDEN

# Stage echo of EchoX-nano as version 0.1 wrote it into a working folder: serving, training and
# precompute choices in the config of the model.
OLD_JOB = GOLDEN / 'files' / 'job_0.1.json'


@pytest.fixture
def old():
  values = json.loads(OLD_JOB.read_text())
  values['precompute']['kmeans'] = str(echox_nano.PRETRAINED / 'kmeans.safetensors')
  return values


@pytest.fixture(scope='module')
def job():
  return config_lib.build(ExperimentConfig, echox_nano.get_config('echo').to_dict())


def test_a_job_of_an_earlier_version_is_the_same_job(old, job):
  model = old['model']  # another attention is chosen since
  trunk = model['unit_decoder']['trunk']
  for part in (model['whisper'], model['hubert'], model['llm'], trunk):
    assert part['attention'] == 'xla'
    part['attention'] = 'auto'
  assert config_lib.build(ExperimentConfig, config_lib.upgrade_experiment(old)) == job
  assert old['model']['streaming']['max_new_tokens'] == 40, 'the file itself is left as it was'


def test_a_job_of_this_version_is_left_as_it_is(job):
  values = json.loads(json.dumps(config_lib.to_dict(job)))
  assert config_lib.upgrade_experiment(values) == values


def test_a_run_of_an_earlier_version_goes_on(tmp_path, old, job):
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(old))
  loop.check_config(file, job)
  old['model']['streaming']['max_slices'] = 4
  file.write_text(json.dumps(old))
  with pytest.raises(errors.CheckpointError, match=r'train.loss.max_slices = 4, but .* has 3'):
    loop.check_config(file, job)


def test_what_decides_on_the_unit_language_has_the_same_fingerprint(old, job):
  """Else precompute would make every working folder anew."""
  units, fit = job.model.units, job.precompute.fit
  assert config_lib.to_dict(units) | config_lib.to_dict(fit) == old['model']['units']


def test_a_model_folder_of_an_earlier_version_loads(tmp_path):
  cfg = tiny_model.tiny_config()
  tiny_model.write_model(tmp_path / 'new', cfg)
  shutil.copytree(tmp_path / 'new', tmp_path / 'old')
  (tmp_path / 'old' / 'engine.json').unlink()
  values = json.loads((tmp_path / 'old' / 'config.json').read_text())
  names = ('max_prompt_tokens', 'max_new_tokens', 'max_unit_words', 'max_frames')
  budgets = {name: getattr(tiny_model.ENGINE, name) for name in names}
  wanted = {'new': tiny_model.ENGINE, 'old': EngineConfig(**budgets)}
  values['max_prompt_tokens'] = budgets.pop('max_prompt_tokens')
  values['streaming'] |= budgets | {'max_slices': 8}
  values['units'] |= {'ngram_order': 1, 'em_iterations': 6, 'kmeans_iterations': 30, 'seed': 0}
  values['discriminators'] = {'periods': [2, 3]}
  (tmp_path / 'old' / 'config.json').write_text(json.dumps(values))
  for folder, engine in wanted.items():
    model = echox_jax.load(tmp_path / folder)
    assert (model.config, model.engine) == (cfg, engine)


@pytest.mark.parametrize(
  'text, error, reason',
  [
    ('{"max_frames": 100, "frames": 3}', errors.ConfigError, "engine has no field 'frames'"),
    ('{"max_frames": "many"}', errors.ConfigError, "engine.max_frames is 'many': it must be of"),
    ('{', errors.CheckpointError, 'engine.json is not valid JSON'),
    ('[]', errors.CheckpointError, 'engine.json is not a config'),
  ],
)
def test_bad_budgets_are_one_sentence(tmp_path, text, error, reason):
  tiny_model.write_model(tmp_path / 'model', tiny_model.tiny_config())
  (tmp_path / 'model' / 'engine.json').write_text(text)
  with pytest.raises(error, match=reason):
    echox_jax.load(tmp_path / 'model')


def test_what_is_exported_holds_sizes_of_the_model_alone():
  fields = EchoXConfig.__dataclass_fields__.keys() | EngineConfig.__dataclass_fields__.keys()
  assert not fields & {'discriminators', 'seed', 'fit', 'optimizer'}
