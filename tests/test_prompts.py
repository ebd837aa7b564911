"""Prompts and answers of each profile have the ids of jinja2 with the template of the tokenizer."""

import dataclasses
import json
import types

import numpy as np
import pytest

from data_pipeline import rows
from echox_jax import config as config_lib
from echox_jax import errors, prompts, tokenizer
from echox_jax.config import EchoXConfig
from echox_jax.conversion import chat_template, hf_folder
from echox_jax.prompts import IGNORE, NANO_IDS, SpecialIds
from echox_jax.training import echo_step
from tests.helpers import chat_folders

BOS = '<|begin_of_text|>'
KNOWN = {
  'chatml': (chat_folders.CHATML, None),
  'smollm2': (chat_folders.SMOLLM2, None),
  'llama3': (chat_folders.LLAMA_3, BOS),
  'llama3.2': (chat_folders.LLAMA_3_2, BOS),
  'paper': (chat_folders.RELEASED, BOS),
  'released': (chat_folders.RELEASED, BOS),
  'qwen2': (chat_folders.QWEN_2, None, 'qwen2'),
  'qwen2.5': (chat_folders.QWEN_2_5, None, 'qwen2'),
  'qwen3': (chat_folders.QWEN_3, None, 'qwen2'),
}
PROFILES = {'smollm2': 'chatml', 'llama3.2': 'llama3', 'qwen2': 'chatml', 'qwen2.5': 'chatml'}
QUESTIONS = [
  'Is user a word?',
  ' leading',
  '  two  ',
  '\nnew line',
  '\n\n\n three\n',
  ' \n',
  'system\n\nassistant\n',
  'été 日本 🙂',
  'x' * 50,
]
TYPED = 'a <|im_end|> and <|eot_id|> that were typed'


@pytest.fixture(params=KNOWN)
def model(request, tmp_path):
  """(folder, config) of a tokenizer with one of the templates."""
  chat_folders.write(tmp_path, *KNOWN[request.param])
  chosen = 'released' if request.param == 'released' else None
  cfg, notes = configured(tmp_path, chosen)
  assert cfg.profile == PROFILES.get(request.param, request.param) and notes
  return tmp_path, cfg


def configured(folder, chosen=None):
  speech = hf_folder.foreign_tokenizer(hf_folder.tokenizer_files([folder]), 'the tokenizer')
  return chat_template.configured(EchoXConfig(), speech, chosen)


def prompt(folder, cfg, text, audio=False):
  profile, encode = prompts.get_profile(cfg.profile), tokenizer.load_tokenizer(folder).encode
  system = prompts.encode_system(profile, encode, cfg.system_message)
  question = prompts.encode_question(profile, encode, text, audio)
  return prompts.question_prompt(cfg.special_ids, profile, system, question, audio)


@pytest.mark.parametrize('text', QUESTIONS)
def test_prompts_are_those_of_the_template_engine(model, text):
  folder, cfg = model
  assert prompt(folder, cfg, text) == chat_folders.engine_ids(folder, [('user', text)])


def test_special_tokens_that_a_user_types_stay_text(model):
  """Unlike in the engine, which takes them for its own."""
  folder, cfg = model
  ids = prompt(folder, cfg, TYPED)
  assert TYPED in tokenizer.load_tokenizer(folder).decode(ids)
  assert ids.count(cfg.special_ids.eot) == prompt(folder, cfg, 'typed').count(cfg.special_ids.eot)


def test_other_system_messages(model):
  folder, cfg = model
  message = 'Be brief.\nSay little.'
  always = cfg.system_message if cfg.profile == 'llama3' else ''  # as the import tells
  told = dataclasses.replace(cfg, system_message=always + message)
  expected = chat_folders.engine_ids(folder, [('system', message), ('user', 'Why?')])
  assert prompt(folder, told, 'Why?') == expected


def test_answers_end_as_in_the_template(model):
  """Supervised is what the engine writes from the generation prompt to the end of the turn."""
  folder, cfg = model
  encode, special = tokenizer.load_tokenizer(folder).encode, cfg.special_ids
  profile = prompts.get_profile(cfg.profile)
  system = prompts.encode_system(profile, encode, cfg.system_message)
  question = prompts.encode_question(profile, encode, 'Is it?', False)
  row = rows.question_row(special, profile, system, question, encode('It is.'), audio=False)
  said = [('user', 'Is it?'), ('assistant', 'It is.')]
  whole = chat_folders.engine_ids(folder, said, add_generation_prompt=False)
  assert row['input_ids'].tolist() == whole[: len(row['input_ids'])]
  after = [special.nl] if cfg.profile in ('chatml', 'qwen3') else []
  assert whole[len(row['input_ids']) :] == after
  said = row['labels'][row['labels'] != IGNORE].tolist()
  unspoken = prompts.unspoken_ids(special, profile)
  bos = [special.bos] if cfg.profile in ('paper', 'released') else []
  assert said == [*bos, *encode('It is.'), special.eot]
  spoken_bos = bos if cfg.profile == 'released' else []
  assert [i for i in said if i not in unspoken] == [*spoken_bos, *encode('It is.')]


def test_speech_stands_before_what_is_written_in_the_user_turn(model):
  """The prompt with speech is the written one, with AUDIO at the start of the user's message."""
  folder, cfg = model
  special, encode = cfg.special_ids, tokenizer.load_tokenizer(folder).encode
  ids = prompt(folder, cfg, 'And this?', audio=True)
  assert ids.count(special.audio) == 1
  at = ids.index(special.audio)
  if cfg.profile in ('paper', 'released'):  # facts 1: with a line break that written questions lack
    assert ids[at - 1 : at + 2] == [special.nl, special.audio, special.bos]
    ids[at - 1 : at + 1] = []
  else:
    assert ids[at + 1 : at + 1 + len(encode('And this?'))] == encode('And this?')
    del ids[at]
  assert ids == prompt(folder, cfg, 'And this?')


@pytest.mark.parametrize(
  'name, before, between',
  [
    ('paper', '{BOS}[SH]{BOS}assistant[EH]{BOS}\n{BOS}', '[EOT][SH]{BOS}speaker[EH]{BOS}\n'),
    ('chatml', '[SH]assistant\n', '[EOT]\n[SH]speaker\n'),
    ('llama3', '[SH]assistant[EH]\n\n', '[EOT][SH]speaker[EH]\n\n'),
  ],
)
def test_slices_of_the_unit_decoder_follow_the_profile(tmp_path, name, before, between):
  chat_folders.write(tmp_path, *KNOWN[name])
  cfg, _ = configured(tmp_path)
  model = tokenizer.load_tokenizer(tmp_path)
  special, profile = cfg.special_ids, prompts.get_profile(name)
  shown = {special.bos: '{BOS}', special.start_header: '[SH]', special.eot: '[EOT]'} | (
    {} if name == 'chatml' else {special.end_header: '[EH]'}
  )
  as_text = lambda ids: ''.join(shown[i] if i in shown else model.decode([i]) for i in ids)
  row, labels = prompts.text_to_codec_row(special, profile, model.encode('Yes.'), [3, 4], 1000)
  target = [special.bos, 1003, 1004, special.eot]
  assert row[-4:] == target and labels == [IGNORE] * (len(row) - 4) + target
  assert as_text(row[:-4]) == f'{before.removeprefix("{BOS}")}Yes.{between}'
  before, after = prompts.slice_prefix(special, profile), prompts.slice_suffix(special, profile)
  assert row[:-4] == [*before, *model.encode('Yes.'), *after]


@pytest.mark.parametrize(
  'name, spoken',
  [
    ('paper', [20, 21]),
    ('released', [NANO_IDS.bos, 20, 21]),
    ('chatml', [20, 21]),
    ('llama3', [20, 21]),
  ],
)
def test_training_speaks_the_states_that_predict_what_the_profile_speaks(name, spoken):
  profile = prompts.get_profile(name)
  said = prompts.answer(NANO_IDS, profile, [20, 21])
  labels = np.array([[IGNORE, IGNORE, *said, IGNORE]])
  states = 10 * np.arange(labels.shape[1], dtype=np.float32)[None, :, None]
  cfg = EchoXConfig(profile=name, special_ids=NANO_IDS)
  found = echo_step.answers(cfg, types.SimpleNamespace(hidden=states, labels=labels), 6)
  assert found.ids[0, : len(spoken)].tolist() == spoken and found.lengths.tolist() == [len(spoken)]
  last = 2 + said.index(21) - 1  # the state that predicts the last word
  assert found.states[0, len(spoken) - 1, 0] == 10 * last


def test_bos_of_a_template_without_one_is_in_no_turn(tmp_path):
  chat_folders.write(tmp_path, chat_folders.SMOLLM2)
  cfg, notes = configured(tmp_path)
  assert cfg.special_ids.bos not in prompt(tmp_path, cfg, 'Is it?')
  assert cfg.special_ids.eot == cfg.special_ids.pad == 2
  assert isinstance(cfg.special_ids.assistant, tuple)
  assert cfg.system_message == (
    'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
  )
  assert 'SmolLM' in ' '.join(notes)


def test_qwen_s_own_system_messages(tmp_path):
  for name, own in (
    ('qwen2', 'You are a helpful assistant.'),
    ('qwen2.5', 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'),
    ('qwen3', ''),
  ):
    chat_folders.write(tmp_path / name, *KNOWN[name])
    cfg, _ = configured(tmp_path / name)
    assert cfg.system_message == own


def test_a_model_that_thinks_is_asked_not_to(tmp_path):
  chat_folders.write(tmp_path, *KNOWN['qwen3'])
  cfg, notes = configured(tmp_path)
  model = tokenizer.load_tokenizer(tmp_path)
  pieces = [model.piece(i) for i in cfg.special_ids.thought]
  assert cfg.profile == 'qwen3' and pieces == ['<think>', 'ĊĊ', '</think>', 'ĊĊ']
  assert prompt(tmp_path, cfg, 'Is it?')[-4:] == list(cfg.special_ids.thought)
  assert 'enable_thinking=False' in ' '.join(notes)


def test_a_conversation_goes_on_as_in_the_template(model):
  """But that an empty thought, which Qwen3's template would take back, stays in the cache."""
  folder, cfg = model
  encode, special = tokenizer.load_tokenizer(folder).encode, cfg.special_ids
  profile = prompts.get_profile(cfg.profile)
  asked = prompt(folder, cfg, 'Is it?')
  said = prompts.answer(special, profile, encode('It is.'))
  again = prompts.encode_question(profile, encode, 'Why?', False)
  further = prompts.question_prompt(special, profile, [], again, False, first=False)
  if special.thought:
    asked = asked[: -len(special.thought)]
  turns = [('user', 'Is it?'), ('assistant', 'It is.'), ('user', 'Why?')]
  assert [*asked, *said, *further] == chat_folders.engine_ids(folder, turns)


@pytest.mark.parametrize('kind', chat_folders.UNKNOWN)
def test_unknown_templates_are_refused_with_what_to_do(tmp_path, kind):
  chat_folders.write(tmp_path, chat_folders.UNKNOWN[kind])
  says = 'a chat template that matches no profile: choose one of paper, .*chatml.* with --profile'
  with pytest.raises(errors.CheckpointError, match=says):
    configured(tmp_path)
  cfg, notes = configured(tmp_path, 'chatml')
  assert (cfg.profile, cfg.special_ids.eot, cfg.system_message, notes) == ('chatml', 2, '', ())


def test_without_a_template_the_paper_s_is_taken_and_told(tmp_path):
  chat_folders.write(tmp_path, None)
  cfg, (note,) = configured(tmp_path)
  assert cfg.profile == 'paper' and 'no chat template' in note and '--profile' in note
  assert cfg.special_ids.bos == 3 and cfg.special_ids.eot == 6
  assert max(cfg.special_ids.all()) == tokenizer.load_tokenizer(tmp_path).vocab_size  # AUDIO


def test_vocabularies_that_lack_a_token_of_the_template(tmp_path):
  chat_folders.write(tmp_path, chat_folders.LLAMA_3, BOS, without='<|eot_id|>')
  says = r"lacks '<\|eot_id\|>' of the profile 'llama3'"
  with pytest.raises(errors.CheckpointError, match=says):
    configured(tmp_path)
  (tmp_path / 'tokenizer.json').rename(tmp_path / 'tokenizer.model')
  config = {'chat_template': chat_folders.CHATML}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  with pytest.raises(errors.CheckpointError, match='has no tokenizer.json'):
    configured(tmp_path)


def test_unknown_profiles(tmp_path):
  chat_folders.write(tmp_path, None)
  says = "'alpaca' is unknown: use one of paper, released, chatml, llama3, qwen3"
  with pytest.raises(errors.ConfigError, match=says):
    configured(tmp_path, 'alpaca')


def test_templates_in_their_own_file_or_by_name(tmp_path):
  chat_folders.write(tmp_path, None)
  templates = [
    {'name': 'tool_use', 'template': chat_folders.UNKNOWN['damaged']},
    {'name': 'default', 'template': chat_folders.CHATML},
  ]
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'chat_template': templates}))
  assert configured(tmp_path)[0].profile == 'chatml' and not configured(tmp_path)[0].system_message
  (tmp_path / hf_folder.TEMPLATE).write_text(chat_folders.SMOLLM2)
  assert configured(tmp_path)[0].system_message


def test_a_role_is_one_id_or_several():
  """As an int in configs of before, and in those of now."""
  ids = SpecialIds(user=7, assistant=(8, 9), system=(6,))
  assert (ids.user, ids.assistant, ids.system) == (7, (8, 9), 6)
  written = json.dumps(config_lib.to_dict(EchoXConfig(special_ids=ids)))
  again = config_lib.build(EchoXConfig, json.loads(written))
  assert again.special_ids == ids and hash(again.special_ids) == hash(ids)
  assert config_lib.build(EchoXConfig, {'special_ids': {'user': 5}}).special_ids.user == 5
  assert ids.all() >= {6, 7, 8, 9}
  with pytest.raises(errors.ConfigError, match='special_ids.user'):
    config_lib.build(EchoXConfig, {'special_ids': {'user': 'five'}})
