"""LLMs of others, and their chat templates -> model folders."""

import json
import sys

import numpy as np
import pytest

import echox_jax
from echox_jax import audio, errors, model_folder
from echox_jax.config import EchoXConfig
from echox_jax.conversion import released, released_config
from launch import respond
from tests.helpers import chat_folders, released_folder, tiny_model
from tests.helpers.imports import LLAMA_CONFIG, LLAMA_WEIGHTS, WEIGHTS, llama_folder, run, same
from tests.helpers.released_folder import CONFIG


def test_llama(source, tmp_path):
  config = {
    k: v for k, v in LLAMA_CONFIG.items() if k not in ('head_dim', 'rope_scaling', 'rope_theta')
  }
  config['rope_parameters'] = LLAMA_CONFIG['rope_scaling'] | {'rope_theta': 500000.0}
  table = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(8)}
  folder = released_folder.write(tmp_path / 'llama', LLAMA_WEIGHTS | table, config)
  run('llm', folder, tmp_path / 'model')
  made = echox_jax.load(tmp_path / 'model')
  cfg = released_config.config_from_json(CONFIG)
  assert made.config.llm == cfg.llm and made.tokenizer is None
  same(made.params, {'llm': released.import_s2t(WEIGHTS, cfg)['llm']})
  tied = {name: value for name, value in LLAMA_WEIGHTS.items() if name != 'lm_head.weight'}
  run(
    'llm',
    released_folder.write(tmp_path / 'tied', tied, config | {'tie_word_embeddings': True}),
    tmp_path / 'model',
  )
  assert 'lm_head' not in model_folder.load_params(tmp_path / 'model')['llm']


def test_the_name_that_earlier_versions_gave_the_kind(tmp_path):
  folder = llama_folder(tmp_path / 'llama')
  for kind in ('llm', 'llama'):
    run(kind, folder, tmp_path / f'as_{kind}')
  same(*(model_folder.load_params(tmp_path / f'as_{kind}') for kind in ('llama', 'llm')))


def test_a_llama_is_spoken_to_as_its_tokenizer_says(tmp_path, capsys):
  folder = chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.SMOLLM2)
  run('llm', folder, tmp_path / 'model')
  cfg = model_folder.read_config(tmp_path / 'model')
  assert (
    cfg.profile == 'chatml'
    and 'SmolLM' in cfg.system_message
    and isinstance(cfg.special_ids.assistant, tuple)
  )
  assert "the profile 'chatml'" in capsys.readouterr().out
  run('llm', folder, tmp_path / 'model', '--profile', 'paper')
  cfg = model_folder.read_config(tmp_path / 'model')
  assert cfg.profile == 'paper' and cfg.special_ids.bos == 3 and not cfg.system_message
  run('llm', llama_folder(tmp_path / 'bare'), tmp_path / 'bare_model')
  # there is no vocabulary to look into
  assert model_folder.read_config(tmp_path / 'bare_model').special_ids == EchoXConfig().special_ids
  assert 'no chat template' in capsys.readouterr().out


def test_an_unknown_chat_template_is_told_before_anything_is_written(tmp_path):
  folder = chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.UNKNOWN['separator'])
  for more, says in (
    ((), 'matches no profile: choose one of paper, released, chatml, llama3, qwen3 with --profile'),
    (('--profile', 'alpaca'), "profile 'alpaca' is unknown: use one of paper"),
  ):
    with pytest.raises(errors.EchoXError, match=says):
      run('llm', folder, tmp_path / 'model', *more)
  with pytest.raises(errors.EchoXError, match="kind 'echox' does not accept --profile"):
    run('echox', folder, tmp_path / 'model', '--profile', 'chatml')
  assert not (tmp_path / 'model').exists()


def test_chat_templates_take_a_package_that_is_named(tmp_path, monkeypatch):
  folder = chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.SMOLLM2)
  monkeypatch.setitem(sys.modules, 'jinja2', None)
  with pytest.raises(errors.MissingExtraError, match=r'echox-jax\[bpe\]'):
    run('llm', folder, tmp_path / 'model')


def test_an_imported_llama_answers_written_questions(tmp_path, capsys):
  run(
    'llm',
    chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.SMOLLM2),
    tmp_path / 'model',
  )
  file = tmp_path / 'model' / 'engine.json'
  values = json.loads(file.read_text())
  values['max_prompt_tokens'], values['max_new_tokens'] = 128, 4
  file.write_text(json.dumps(values))
  capsys.readouterr()
  ask = lambda *more: respond.main(['--checkpoint', str(tmp_path / 'model'), *map(str, more)])
  ask('--text', 'Is it?', '--text', 'Why?', '--json', tmp_path / 'reply.json')
  reply = json.loads((tmp_path / 'reply.json').read_text())
  model = echox_jax.load(tmp_path / 'model')
  batched = [answer.text for answer in model.answer(['Is it?', 'Why?'])]
  assert [reply['text'], reply['further'][0]['text']] == batched
  assert reply['text'] in capsys.readouterr().out
  assert (
    reply['audio'] is None
    and reply['slices'] == []
    and len(reply['scores']) == reply['overflow']['answer_tokens'] * 4
  )
  with pytest.raises(errors.CheckpointError, match='so it cannot speak: leave out -o'):
    ask('--text', 'Is it?', '-o', tmp_path / 'reply.wav')
  audio.write_wav(tmp_path / 'question.wav', tiny_model.question())
  with pytest.raises(
    errors.CheckpointError, match='lacks whisper, adapter .* so it cannot hear: ask with --text'
  ):
    ask(tmp_path / 'question.wav')
