"""Tiny random models of every family that transformers makes on the spot: imported, they give its
logits and its greedy tokens; exported, transformers reads them back; and their prompts are those of
its template engine.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

import echox_jax
from echox_jax.config import EngineConfig
from echox_jax.conversion import exporters, importers
from echox_jax.decoding import generate
from echox_jax.inference.engine import Engine
from echox_jax.models.llama import Llama
from tests.helpers import chat_folders, crosscheck

pytestmark = pytest.mark.slow
LIMIT = 1e-4  # logits up to 60 in float32
NEW_TOKENS = 40
SIZES = dict(
  vocab_size=320,
  hidden_size=64,
  intermediate_size=96,
  num_hidden_layers=3,
  num_attention_heads=8,
  num_key_value_heads=2,
  max_position_embeddings=512,
)
SCALED = dict(
  rope_type='llama3',
  rope_theta=500000.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=64,
)


def turned(theta):
  return dict(rope_type='default', rope_theta=theta)


# Name -> (class of transformers without `Config`, template, fields).
CASES = {
  'llama': ('Llama', chat_folders.SMOLLM2, dict(rope_parameters=SCALED, head_dim=12)),
  'qwen2': ('Qwen2', chat_folders.QWEN_2, dict(rope_parameters=turned(1e6))),
  'qwen2.5, tied': (
    'Qwen2',
    chat_folders.QWEN_2_5,
    dict(rope_parameters=turned(1e4), tie_word_embeddings=True, rms_norm_eps=1e-5),
  ),
  'qwen3': ('Qwen3', chat_folders.QWEN_3, dict(rope_parameters=turned(1e6), head_dim=20)),
  'qwen3, tied': (
    'Qwen3',
    chat_folders.QWEN_3,
    dict(rope_parameters=turned(5e6), head_dim=4, tie_word_embeddings=True),
  ),
}


@pytest.fixture(scope='module', params=CASES)
def made(request, tmp_path_factory):
  """(model of transformers, its folder, our model folder)."""
  torch = pytest.importorskip('torch', reason='torch is not installed')
  transformers = pytest.importorskip('transformers', reason='transformers is not installed')
  family, template, fields = CASES[request.param]
  config = getattr(transformers, f'{family}Config')(**SIZES | fields)
  theirs = getattr(transformers, f'{family}ForCausalLM')(config).eval()
  torch.manual_seed(0)
  with torch.no_grad():
    for name, value in theirs.named_parameters():
      middle = 1.0 if 'norm' in name else 0.0
      value.copy_(middle + 0.25 * torch.randn_like(value))
  folder = tmp_path_factory.mktemp('family')
  theirs.save_pretrained(folder / 'theirs')
  cut = '' if family == 'Llama' else 'qwen2'
  chat_folders.write(folder / 'theirs', template, cut=cut)
  importers.write_model(
    importers.open_model('llm', folder / 'theirs'), folder / 'ours', progress=False
  )
  return theirs, folder / 'theirs', folder / 'ours'


@pytest.fixture(scope='module')
def rows():
  return np.random.default_rng(0).integers(8, 300, (4, 30)).astype(np.int32)


def their_logits(theirs, ids):
  import torch

  with torch.no_grad():
    return theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()


def test_logits_match_transformers(made, rows, record_property, request):
  model = echox_jax.load(made[2])
  with jax.default_matmul_precision('highest'):
    found = jax.jit(Llama(model.config.llm).apply)({'params': model.params['llm']}, rows)
  what = f'logits of {request.node.callspec.params["made"]}, against transformers'
  crosscheck.within(record_property, what, found, their_logits(made[0], rows), LIMIT)


def test_greedy_tokens_match_transformers(made, rows):
  import torch

  model = echox_jax.load(made[2])
  never = SIZES['vocab_size']  # no token
  endless = dataclasses.replace(model.config.special_ids, eot=never, pad=never)
  cfg = dataclasses.replace(model.config, special_ids=endless)
  with jax.default_matmul_precision('highest'):
    found = jax.jit(
      lambda params: generate.generate_text(params, cfg, rows, None, None, NEW_TOKENS)
    )(model.params)
  assert (found.lengths == NEW_TOKENS).all()
  asked = torch.tensor(rows, dtype=torch.long)
  made[0].generation_config.eos_token_id = None
  with torch.no_grad():
    whole = made[0].generate(
      asked,
      attention_mask=torch.ones_like(asked),
      do_sample=False,
      max_new_tokens=NEW_TOKENS,
      pad_token_id=0,
    )
  np.testing.assert_array_equal(found.ids, whole[:, rows.shape[1] :].numpy())


def test_transformers_reads_the_export(made, rows, tmp_path):
  import transformers

  exporters.export(made[2], 'llm', tmp_path / 'out')
  again = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / 'out')).eval()
  assert type(again) is type(made[0])
  np.testing.assert_array_equal(their_logits(again, rows), their_logits(made[0], rows))


def test_prompts_are_those_of_transformers(made):
  import transformers

  theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(made[1] / 'tokenizer.json'))
  template = json.loads((made[1] / 'tokenizer_config.json').read_text())['chat_template']
  budgets = EngineConfig(max_prompt_tokens=200, max_new_tokens=8, max_context=256)
  model = dataclasses.replace(echox_jax.load(made[2]), engine=budgets)
  engine = Engine(model, hears=False, speaks=False)
  for message in ('Is it?', '\n two\n\n', 'être 12345'):
    ids = theirs.apply_chat_template(
      [{'role': 'user', 'content': message}],
      chat_template=template,
      add_generation_prompt=True,
      enable_thinking=False,
      return_dict=False,
    )
    assert engine.questions.prompt(message, False) == ids
