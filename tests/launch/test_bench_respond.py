"""`launch.bench respond` does all its parts, at sizes that take seconds."""

import json

import pytest

from echox_jax.errors import EchoXError
from echox_jax.tokenizer import train_tokenizer
from launch.bench import respond, respond_start
from tests.helpers import tiny_model
from tests.helpers.bench_jobs import measure
from tests.helpers.paths import ROOT

SMALL = f"""
import runpy
from ml_collections import ConfigDict

def get_config():
  config = runpy.run_path({str(ROOT / 'configs' / 'bench_mid.py')!r})['get_config']()
  trunk = dict(hidden_size=64, intermediate_size=64, num_heads=2, num_kv_heads=2, head_dim=32)
  config.model.whisper.update(dict(hidden_size=32, intermediate_size=32, num_layers=1, num_heads=2))
  config.model.adapter.update(dict(num_heads=2, intermediate_size=64))
  config.model.llm.update(dict(trunk, num_layers=1))
  config.model.unit_decoder.update(dict(trunk=dict(trunk, num_layers=1)))
  config.model.vocoder.update(dict(upsample_initial_channel=32))
  config.train.batch_size = 1
  return config
"""


@pytest.mark.slow
def test_all_parts(tmp_path):
  (tmp_path / 'small.py').write_text(SMALL)
  found = measure('respond', '--config', tmp_path / 'small.py', '--runs', 1)
  job = respond.read_job(tmp_path / 'small.py')
  samples = job.engine.max_new_tokens * job.engine.words_per_token * 2 * 2 * 320
  assert found['audio_s'] == pytest.approx(samples / 16000)
  assert 0 < found['first_text_s'] < found['first_sound_s'] < found['total_s']
  assert 0 < found['forward_s'] < found['train_step_s'] and found['cores'] > 0
  assert found['tokens_per_s_16'] > found['tokens_per_s']
  assert json.dumps(found)


@pytest.mark.slow
def test_a_second_start_is_quicker(tmp_path):
  tokenizer, language = tmp_path / 'tokenizer.model', tmp_path / 'unit_language.json'
  train_tokenizer([tiny_model.WORDS] * 3, tokenizer, 320)
  tiny_model.pairs().save(language)
  tiny_model.write_model(
    tmp_path / 'model',
    tiny_model.tiny_config(),
    {file.name: file for file in (tokenizer, language)},
  )
  found = respond_start.measure(tmp_path / 'model', tiny_model.question(), 1)
  assert 0 < found['second_start_s'] < found['first_start_s']


def test_a_start_that_fails_is_told(tmp_path):
  with pytest.raises(EchoXError, match=r'exit code 2 \(error: .*give --checkpoint a model folder'):
    respond_start.measure(tmp_path, tiny_model.question(), 1)
