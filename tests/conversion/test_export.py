"""Models leave in the released layout and come back as they were; what is in the way is named and
nothing else is touched.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from echox_jax import errors, model_folder, tensor_files
from echox_jax.conversion import exporters, importers, released_config, released_export, torch_file
from echox_jax.conversion import source as source_lib
from echox_jax.models import lora
from echox_jax.models.trees import flatten
from echox_jax.units import unit_language
from launch import convert
from tests.helpers import released_folder, tiny_model
from tests.helpers.released_folder import CONFIG

WEIGHTS = released_folder.weights('echox/')


def run(command: str, **options) -> None:
  convert.main(
    [
      command,
      *(
        text
        for name, value in options.items()
        for text in (f'--{name.replace("_", "-")}', str(value))
      ),
    ]
  )


def same(found, wanted):
  found, wanted = dict(found), dict(wanted)
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def come_back(export, folder, vocoder):
  """Imports an export again and returns (config, parameters)."""
  importers.write_model(
    importers.open_model('echox', export, whisper=export / 'whisper', vocoder=vocoder),
    folder,
    progress=False,
  )
  return model_folder.read_config(folder), dict(tensor_files.open_tensors(folder))


@pytest.fixture(scope='module')
def released(tmp_path_factory):
  """The golden checkpoints as the folders of their authors, and the model folder that they
  become.
  """
  folder = tmp_path_factory.mktemp('released')
  released_folder.write(folder, WEIGHTS, released_folder.echox_config())
  released_folder.write_tokenizer(folder)
  released_folder.write(
    folder / 'whisper', released_folder.weights('whisper/'), CONFIG['whisper_encoder']
  )
  (folder / 'vocoder').mkdir()
  torch_file.write_torch(
    folder / 'vocoder' / 'g_00500000',
    {'generator': released_folder.weights('w/', 'golden_vocoder.npz')},
  )
  (folder / 'vocoder' / 'config.json').write_text(json.dumps(CONFIG['vocoder']['']))
  run(
    'import',
    kind='echox',
    source=folder,
    whisper=folder / 'whisper',
    vocoder=folder / 'vocoder' / 'g_00500000',
    out=folder / 'model',
  )
  return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A model folder of a tiny model as it is trained here: LoRA, its own ids, profile `paper`, a
  vocoder that ends in an inverse STFT.
  """
  folder = tmp_path_factory.mktemp('trained')
  cfg = tiny_model.tiny_config()
  cfg = dataclasses.replace(
    cfg, llm=dataclasses.replace(cfg.llm, lora=dataclasses.replace(cfg.llm.lora, rank=2))
  )
  units = [[1, 2, 3, 4, 1, 2, 3, 4], [5, 1, 2, 3, 6]] * 3
  language = unit_language.fit(units, dataclasses.replace(cfg.units, vocab_size=30))
  language.save(folder / 'language.json')
  tiny_model.train_tokenizer([tiny_model.WORDS] * 3, folder / 'text.model', 320)
  tiny_model.write_model(
    folder / 'model',
    cfg,
    {'tokenizer.model': folder / 'text.model', 'unit_language.json': folder / 'language.json'},
  )
  return folder


@pytest.fixture(scope='module')
def trained_export(trained):
  notes = exporters.export(trained / 'model', 'echox', trained / 'echox', dtype='float32')
  return trained / 'echox', ' '.join(notes)


def test_released_files_come_out_as_they_went_in(released):
  run(
    'export',
    checkpoint=released / 'model',
    to='echox',
    dtype='float32',
    max_shard_bytes=500_000,
    out=released / 'out',
  )
  out = released / 'out'
  assert len(list(out.glob('model-0000*-of-0000*.safetensors'))) > 2
  same(tensor_files.open_tensors(out), WEIGHTS)
  whisper = {
    name.removeprefix('model.encoder.'): value
    for name, value in tensor_files.open_tensors(out / 'whisper').items()
  }
  same(
    whisper,
    {
      name.removeprefix('model.').removeprefix('encoder.'): value
      for name, value in released_folder.weights('whisper/').items()
    },
  )
  vocoder = torch_file.tensors_of(
    out / 'vocoder', torch_file.load_torch(out / 'vocoder' / 'g_00000000'), 'generator'
  )
  wanted = released_folder.weights('w/', 'golden_vocoder.npz')
  assert {name: value.shape for name, value in vocoder.items()} == {
    name: value.shape for name, value in wanted.items()
  }
  assert (out / 'tokenizer.json').read_bytes() == (released / 'tokenizer.json').read_bytes()
  values = json.loads((out / 'config.json').read_text())
  assert {name: values[name] for name in CONFIG['echox']} == CONFIG['echox']
  assert {name: values['unit_translator'][name] for name in CONFIG['unit_translator']} == CONFIG[
    'unit_translator'
  ]


def test_importing_the_export_of_an_import_changes_nothing(released):
  out = released / 'again'
  exporters.export(released / 'model', 'echox', out, dtype='float32')
  config, params = come_back(out, released / 'model2', out / 'vocoder' / 'g_00000000')
  assert config == model_folder.read_config(released / 'model')
  same(params, tensor_files.open_tensors(released / 'model'))
  for name in ('unit_language.json', 'tokenizer.json'):
    assert (released / 'model2' / name).read_bytes() == (released / 'model' / name).read_bytes()


def test_a_trained_model_comes_back_with_its_lora_folded_in(trained, trained_export):
  export, notes = trained_export
  model = model_folder.load(trained / 'model')
  config, params = come_back(export, trained / 'model2', export / 'vocoder')
  assert config == lora.merged_config(model.config)
  assert set(model.params['llm']['trunk']['layers']['self_attn']['q_proj']) > {'lora_a'}
  merged = flatten(lora.merge(dict(model.params), model.config.llm.lora))
  same(params, {name: np.asarray(value) for name, value in merged.items()})
  assert model_folder.load(trained / 'model2').unit_language == model.unit_language
  for text in (
    "profile 'paper'",
    "variant 'paper'",
    'other special ids',
    'a unit decoder of another size',
    'inverse STFT',
  ):
    assert text in notes


def test_the_unit_vocabulary_is_the_released_kind_of_file(trained, trained_export):
  lines = [
    line.split() for line in (trained_export[0] / 'unit_vocab.txt').read_text('utf-8').splitlines()
  ]
  language = model_folder.UnitLanguage.load(trained / 'model' / 'unit_language.json')
  assert [word for word, _ in lines[: language.vocab_size]] == language.vocabulary
  assert len(lines) == 40 and all(
    word.startswith('unused_') for word, _ in lines[language.vocab_size :]
  )
  again = unit_language.from_words(
    [word for word, _ in lines], [float(count) for _, count in lines], language.num_units
  )
  assert again.encode([1, 2, 3, 4, 9]).tolist() == language.encode([1, 2, 3, 4, 9]).tolist()


def test_two_bytes_a_value_unless_asked_otherwise(trained, tmp_path):
  run('export', checkpoint=trained / 'model', to='echox', out=tmp_path / 'echox')
  assert {
    dtype.name for dtype in tensor_files.open_tensors(tmp_path / 'echox').dtypes.values()
  } == {'float16'}
  assert json.loads((tmp_path / 'echox' / 'config.json').read_text())['torch_dtype'] == 'float16'


def test_a_value_that_half_precision_cannot_hold_is_named(trained, tmp_path):
  source = source_lib.open_source(trained / 'model')
  large = {**source.tensors, 'llm/trunk/norm/scale': np.full(32, 1e6, np.float32)}
  (tmp_path / 'out').mkdir()
  with pytest.raises(
    errors.CheckpointError, match="'model.norm.weight' holds 1e\\+06, more than float16 can"
  ):
    released_export.write(
      tmp_path / 'out', dataclasses.replace(source, tensors=large), 'float16', 10**9
    )


@pytest.mark.parametrize(
  'kind, sizes',
  [
    (None, (6, 512, 8, 4, 64, 2048)),
    ('small', (4, 512, 8, 4, 64, 2048)),
    ('medium', (8, 768, 12, 12, 64, 2048)),
    ('large', (2, 1024, 16, 4, 64, 3072)),
  ],
)
def test_unit_decoders_of_the_table_are_called_by_their_name(kind, sizes):
  base = tiny_model.tiny_config()
  llm = dataclasses.replace(
    base.llm, hidden_size=1024, num_heads=16, num_kv_heads=4, head_dim=64, intermediate_size=3072
  )
  layers, width, heads, kv_heads, head_dim, mlp = sizes
  trunk = dataclasses.replace(
    llm,
    num_layers=layers,
    hidden_size=width,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    intermediate_size=mlp,
  )
  decoder = dataclasses.replace(base.unit_decoder, trunk=trunk, denoising_intermediate_size=3072)
  cfg = dataclasses.replace(base, llm=llm, unit_decoder=decoder)
  assert released_config.unit_model(cfg) == (True, kind)
  values = released_export.config_json(cfg, tiny_model.ENGINE, 'echo', 'float16')
  assert values.get('unit_model') == kind and 'unit_translator' not in values
  changed = dataclasses.replace(
    cfg, unit_decoder=dataclasses.replace(decoder, denoising_intermediate_size=5)
  )
  assert (
    released_export.config_json(changed, tiny_model.ENGINE, 'echo', 'float16')['unit_translator'][
      'aligner_intermediate_size'
    ]
    == 5
  )


def test_what_cannot_be_exported_is_said_and_nothing_is_touched(trained, tmp_path):
  (tmp_path / 'thesis.txt').write_text('precious')
  model = trained / 'model'
  refused = {
    "no export format 'onnx'": (model, 'onnx', tmp_path / 'new', {}),
    'does not accept --dtype': (model, 'stablehlo', tmp_path / 'new', {'dtype': 'float32'}),
    "no dtype 'int8'": (model, 'echox', tmp_path / 'new', {'dtype': 'int8'}),
    'neither a model folder': (tmp_path, 'safetensors', tmp_path / 'new', {}),
    'is not a folder': (tmp_path / 'nowhere', 'safetensors', tmp_path / 'new', {}),
    "not an export of the format 'stablehlo'": (model, 'stablehlo', model, {}),
    "not an export of the format 'echox'": (model, 'echox', tmp_path, {}),
  }
  for reason, (checkpoint, to, out, options) in refused.items():
    with pytest.raises(errors.EchoXError, match=reason):
      exporters.export(checkpoint, to, out, **options)
  assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt'] and model_folder.is_model(
    model
  )


def test_an_adapter_that_hears_with_the_llm_leaves_in_our_layout_alone(tmp_path):
  made = tiny_model.tiny_config()
  cfg = dataclasses.replace(made, adapter=dataclasses.replace(made.adapter, tied_ctc=True))
  tiny_model.write_model(tmp_path / 'model', cfg)
  with pytest.raises(errors.CheckpointError, match='export to safetensors'):
    exporters.export(tmp_path / 'model', 'echox', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  exporters.export(tmp_path / 'model', 'safetensors', tmp_path / 'out')
  assert model_folder.read_config(tmp_path / 'out') == cfg
  found, wanted = (tensor_files.open_tensors(tmp_path / name) for name in ('out', 'model'))
  assert 'adapter/ctc_blank' in found and 'adapter/ctc_head/embedding' not in found
  same(found, wanted)


@pytest.mark.parametrize('choice', [dict(text_stride=5), dict(text_fusion=True)])
def test_unit_decoders_that_the_released_code_would_misread_stay_here(tmp_path, choice):
  made = tiny_model.tiny_config()
  cfg = dataclasses.replace(made, unit_decoder=dataclasses.replace(made.unit_decoder, **choice))
  tiny_model.write_model(tmp_path / 'model', cfg)
  with pytest.raises(errors.CheckpointError, match=f'unit_decoder.{next(iter(choice))}'):
    exporters.export(tmp_path / 'model', 'echox', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_a_missing_group_is_named(trained, tmp_path):
  source = source_lib.open_source(trained / 'model')
  part = {
    path: value
    for path, value in source.tensors.items()
    if path.split('/')[0] not in ('adapter', 'whisper')
  }
  with pytest.raises(
    errors.CheckpointError, match='lacks the parameters of adapter, which the released layout needs'
  ):
    released_export.write(tmp_path, dataclasses.replace(source, tensors=part), 'float32', 10**9)


def test_loading_needs_neither_training_packages_nor_other_folders(trained):
  """In a process where they cannot be imported, three lines open a model and the engine takes
  it.
  """
  run('export', checkpoint=trained / 'model', to='safetensors', out=trained / 'copy')
  same(tensor_files.open_tensors(trained / 'copy'), tensor_files.open_tensors(trained / 'model'))
  code = f"""
import sys
for name in ('launch', 'data_pipeline', 'configs', 'optax', 'orbax', 'grain', 'ml_collections',
             'tensorflow_datasets', 'array_record', 'librosa', 'torch', 'transformers',
             'tensorflow'):
  sys.modules[name] = None
import echox_jax
model = echox_jax.load({str(trained / 'copy')!r})
from echox_jax.inference.engine import Engine
print(len(Engine(model).questions.prompt('Paris?', False)), model.unit_language.vocab_size)
"""
  made = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
  assert made.returncode == 0, made.stderr
  assert made.stdout.split()[1] == '30'
