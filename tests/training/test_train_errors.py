import dataclasses
import json

import jax
import pytest

from echox_jax import config as config_lib
from echox_jax import errors
from echox_jax.training import loop, metrics, records, stages, step
from launch import cli
from launch import train as launch_train
from tests.helpers import training_jobs

CONFIG = '--config=configs/echox_nano.py:s2t'


def _message(*arguments):
  with pytest.raises(errors.EchoXError) as caught:
    launch_train.parse(['train', *arguments])
  message = str(caught.value)
  assert '\n' not in message
  return message


def test_command_line_sets_fields(tmp_path):
  job, values = launch_train.parse(
    ['train', CONFIG, f'--workdir={tmp_path}', '--config.train.steps=10']
  )
  assert job.stage == 's2t' and job.train.steps == 10 and values.workdir == str(tmp_path)
  job, _ = launch_train.parse(
    ['train', CONFIG, f'--workdir={tmp_path}', '--config.train.skip_batches=5,7']
  )
  assert job.train.skip_batches == (5, 7)


def test_bad_command_lines():
  assert 'stepss' in _message(CONFIG, '--workdir=x', '--config.train.stepss=10')
  assert 'nothing.py' in _message('--config=configs/nothing.py:s2t', '--workdir=x')
  assert "no stage 'dance'" in _message('--config=configs/echox_nano.py:dance', '--workdir=x')
  assert '--workdir is missing' in _message(CONFIG)
  assert '--config is missing' in _message('--workdir=x')
  assert 'wordir' in _message(CONFIG, '--wordir=x')
  assert 'ten' in _message(CONFIG, '--workdir=x', '--config.train.steps=ten')


def test_help_and_exit_code(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr('sys.argv', ['train', '--help'])
  assert launch_train.main() == 0
  assert '--config=configs/echox_nano.py:STAGE' in capsys.readouterr().out
  monkeypatch.setattr('sys.argv', ['train', CONFIG, f'--workdir={tmp_path}', '--config.nothing=1'])
  with pytest.raises(SystemExit) as caught:
    cli.run(launch_train.main)
  assert caught.value.code == 2
  assert capsys.readouterr().err.startswith('error: ')


@pytest.mark.parametrize('stage, before', [('s2t', 'text'), ('t2c', 'text'), ('echo', 's2t')])
def test_missing_predecessor(stage, before, tmp_path):
  with pytest.raises(errors.CheckpointError) as caught:
    loop.train(training_jobs.experiment(stage), tmp_path, training_jobs.text_rows)
  assert str(caught.value) == (
    f'stage `{stage}` starts from `{before}`, but {tmp_path} has no finished checkpoint of it: '
    f'run `python -m launch.train --config=...:{before} --workdir={tmp_path}` first.'
  )


def test_another_config_is_refused_and_more_steps_are_not(tmp_path):
  job = training_jobs.experiment(steps=6)
  file = tmp_path / 'config.json'
  file.write_text(json.dumps(config_lib.to_dict(job)))
  loop.check_config(file, job)
  loop.check_config(file, training_jobs.with_train(job, steps=7, log_every=1, checkpoint_every=1))
  before = config_lib.to_dict(job)
  del before['train']['loss']['ctc_weight']  # an option that came later: the run had its default
  file.write_text(json.dumps(before))
  loop.check_config(file, job)
  with pytest.raises(errors.CheckpointError, match='train.steps = 6, but the config has 5'):
    loop.check_config(file, training_jobs.with_train(job, steps=5))
  with pytest.raises(
    errors.CheckpointError, match='model.llm.vocab_size = 32, but the config has 64'
  ):
    loop.check_config(file, training_jobs.experiment(steps=6, vocab_size=64))


def test_a_repository_that_lies_elsewhere_today_is_no_other_config(tmp_path):
  def at(folder, centroids='kmeans.safetensors'):
    job = training_jobs.with_train(training_jobs.experiment(), init_from=(f'{folder}/pretrained',))
    given = dataclasses.replace(job.precompute, kmeans=f'{folder}/pretrained/{centroids}')
    words = dataclasses.replace(job.tokenizer, model=f'{folder}/pretrained/tokenizer.json')
    return dataclasses.replace(job, precompute=given, tokenizer=words)

  file = tmp_path / 'config.json'
  file.write_text(json.dumps(config_lib.to_dict(at('configs'))))
  loop.check_config(file, at('/home/me/echox/configs'))
  with pytest.raises(errors.CheckpointError, match='precompute.kmeans'):
    loop.check_config(file, at('configs', 'others.safetensors'))


def test_batch_that_the_mesh_does_not_divide(tmp_path, monkeypatch):
  monkeypatch.setattr(
    loop.sharding, 'make_mesh', lambda sizes: type('Mesh', (), {'shape': {'data': 3, 'fsdp': 1}})
  )
  with pytest.raises(
    errors.ConfigError, match='train.batch_size 8 is not a multiple of the 3 parts'
  ):
    loop.train(training_jobs.experiment(), tmp_path, training_jobs.text_rows)


def test_loss_that_is_not_finite_stops(tmp_path):
  log = metrics.Metrics(tmp_path / 'metrics.jsonl', 'text', 0, 10)
  log.add({'loss': float('nan'), 'grad_norm': 1.0}, 0.0)
  with pytest.raises(
    errors.EchoXError, match='loss is nan at step 1 .*the last good checkpoint is kept'
  ):
    log.flush(1)
  log.close()
  assert not records.read(tmp_path / 'metrics.jsonl')


def test_rows_beyond_the_positions_of_the_model_are_refused():
  mesh = jax.sharding.AbstractMesh((1, 1, 1, 1), loop.sharding.AXES)

  def check(stage, llm=256, trunk=256, **data):
    job = training_jobs.experiment(stage)
    model = job.model
    decoder = dataclasses.replace(
      model.unit_decoder, trunk=dataclasses.replace(model.unit_decoder.trunk, max_positions=trunk)
    )
    model = dataclasses.replace(
      model, llm=dataclasses.replace(model.llm, max_positions=llm), unit_decoder=decoder
    )
    job = dataclasses.replace(job, model=model, data=dataclasses.replace(job.data, **data))
    step.check(stages.get_stage(stage), job, mesh)

  check('text', llm=96)
  with pytest.raises(
    errors.ConfigError,
    match="stage 'text' take up to 96 positions "
    '.data.max_tokens 96., but model.llm.max_positions '
    'is 95',
  ):
    check('text', llm=95)
  check('s2t', llm=159)
  with pytest.raises(
    errors.ConfigError, match='159 positions .data.max_tokens 96 and adapter.shrink_budget 64'
  ):
    check('s2t', llm=158)
  with pytest.raises(
    errors.ConfigError,
    match="'t2c' take up to 300 .* model.unit_decoder.trunk.max_positions is 256",
  ):
    check('t2c', max_tokens=300)
  with pytest.raises(
    errors.ConfigError,
    match='streaming.max_slice_tokens 64 and '
    'data.max_unit_words 96.* '
    'model.unit_decoder.trunk.max_positions is 100',
  ):
    check('echo', trunk=100)
