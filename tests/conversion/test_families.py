"""Qwen2 (and 2.5) and Qwen3 are imported, answer, and are exported as they came; relatives that
compute something else are refused in one sentence.
"""

import dataclasses
import json

import numpy as np
import pytest

import echox_jax
from echox_jax import errors, model_folder, tensor_files
from echox_jax.config import EngineConfig
from echox_jax.conversion import exporters, llm_config
from echox_jax.models.trees import flatten
from tests.helpers import families
from tests.helpers.imports import run, same


@pytest.fixture(scope='module', params=families.CONFIGS)
def family(request):
  return request.param


@pytest.fixture(scope='module')
def imported(family, tmp_path_factory):
  """(folder of transformers, our model folder)."""
  folder = tmp_path_factory.mktemp(family)
  run('llm', families.write(folder / 'theirs', family), folder / 'ours')
  return folder / 'theirs', folder / 'ours'


def test_config_and_parameters_are_those_of_the_family(family, imported):
  made, own = echox_jax.load(imported[1]), families.tensors(families.config(family))
  cfg, params = made.config.llm, flatten(dict(made.params))
  assert (cfg.qkv_bias, cfg.qk_norm) == ((True, False) if family == 'qwen2' else (False, True))
  assert cfg.head_dim == (8 if family == 'qwen2' else 12)
  assert cfg.tie_embeddings == (family == 'qwen2') == ('llm/lm_head/embedding' not in params)
  assert cfg.rope_theta == (1e6 if family == 'qwen2' else 5e6)
  attention = 'llm/trunk/layers/self_attn'
  for layer in range(2):
    names = {'q_proj/kernel': 'q_proj.weight', 'o_proj/kernel': 'o_proj.weight'}
    if family == 'qwen2':
      names |= {f'{letter}_proj/bias': f'{letter}_proj.bias' for letter in 'qkv'}
    else:
      names |= {f'{letter}_norm/scale': f'{letter}_norm.weight' for letter in 'qk'}
    for ours, theirs in names.items():
      expected = own[f'model.layers.{layer}.self_attn.{theirs}'].T
      np.testing.assert_array_equal(params[f'{attention}/{ours}'][layer], expected)
  size = sum(value.size for value in own.values())
  assert sum(np.size(value) for value in params.values()) == size


def test_it_is_spoken_to_as_its_template_says(family, imported):
  cfg = model_folder.read_config(imported[1])
  assert cfg.profile == ('chatml' if family == 'qwen2' else 'qwen3')
  assert ('Alibaba Cloud' in cfg.system_message) == (family == 'qwen2')


def test_it_comes_out_as_it_went_in(family, imported, tmp_path):
  theirs, ours = imported
  notes = exporters.export(ours, 'llm', tmp_path / 'out', max_shard_bytes=20_000)
  assert len(notes) == 1
  found, wanted = (dict(tensor_files.open_tensors(f)) for f in (tmp_path / 'out', theirs))
  same(found, wanted)
  values = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert values['model_type'] == family and values['architectures'] == [
    f'{family.capitalize()}ForCausalLM'
  ]
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (tmp_path / 'out' / name).read_bytes() == (theirs / name).read_bytes()
  run('llm', tmp_path / 'out', tmp_path / 'again')
  assert model_folder.read_config(tmp_path / 'again') == model_folder.read_config(ours)
  same(model_folder.load_params(tmp_path / 'again'), model_folder.load_params(ours))


def test_it_answers_written_questions_in_any_layout_of_its_weights(imported):
  """One at a time on a CPU, where layers lie apart and projections are joined; in a batch; and as
  int8, which is only near.
  """
  model = echox_jax.load(imported[1])
  budgets = EngineConfig(max_prompt_tokens=160, max_new_tokens=6, max_context=256, conversations=2)
  model = dataclasses.replace(model, engine=budgets)
  questions = ['Is it?', 'Why is it so?']
  together = [answer.text for answer in model.answer(questions)]
  assert [model.answer([question])[0].text for question in questions] == together
  assert dataclasses.replace(model, int8=True).answer(questions[:1])[0].text


@pytest.mark.parametrize(
  'name, changes, says',
  [
    ('qwen2', {'model_type': 'mistral'}, "'mistral', which is not supported: use an LLM of one of"),
    ('qwen2', {'use_sliding_window': True}, 'layers with a sliding window'),
    ('qwen3', {'layer_types': ['full_attention', 'sliding_attention']}, 'a sliding window'),
    ('qwen3', {'attention_bias': True}, 'has biases that its family lacks'),
    ('qwen2', {'hidden_act': 'gelu'}, 'an activation other than silu'),
    ('qwen2', {'rope_scaling': {'type': 'yarn', 'factor': 4.0}}, "only rope_type 'llama3'"),
    ('qwen3', {'num_hidden_layers': 3}, 'missing: model.layers.2.input'),
    ('qwen3', {'head_dim': 8}, r'wrong shape: .*k_norm.weight \[12\] for \[8\]'),
    ('qwen2', {'model_type': 'llama'}, 'not used: model.layers.0.self_attn.k_proj.bias'),
    ('qwen2', {'model_type': 'qwen3'}, 'missing: model.layers.0.self_attn.k_norm.weight'),
    ('qwen2', {'without': 'model.layers.1.self_attn.v_proj.bias'}, 'missing: .*1.*v_proj.bias'),
    ('qwen3', {'without': 'model.layers.0.self_attn.q_norm.weight'}, 'missing: .*q_norm.weight'),
  ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path, name, changes, says):
  folder = families.write(tmp_path / 'theirs', name, **changes)
  with pytest.raises(errors.EchoXError, match=says):
    run('llm', folder, tmp_path / 'ours')
  assert not (tmp_path / 'ours').exists()


def test_a_config_without_a_size_names_it(tmp_path):
  folder = families.write(tmp_path / 'theirs', 'qwen3')
  values = families.config('qwen3')
  del values['rms_norm_eps']
  (folder / 'config.json').write_text(json.dumps(values))
  with pytest.raises(errors.ConfigError, match="has no 'rms_norm_eps'"):
    run('llm', folder, tmp_path / 'ours')


def test_a_folder_that_is_no_export_is_not_replaced(imported):
  theirs, ours = imported
  with pytest.raises(errors.CheckpointError, match="is not an export of the format 'llm'"):
    exporters.export(ours, 'llm', theirs)


def test_no_family_has_biases_and_norms():
  cfg = llm_config.from_json(families.config('qwen2'))
  assert llm_config.family_of(cfg) == 'qwen2'
  assert llm_config.family_of(dataclasses.replace(cfg, qk_norm=True)) is None
