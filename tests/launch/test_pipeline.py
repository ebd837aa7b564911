"""The whole way at tiny size: manifest -> precompute -> five stages -> exported folder -> a spoken
answer.
"""

import jax
import numpy as np
import pytest

from data_pipeline.shards import SCRATCH
import echox_jax
from echox_jax import audio, storage
from echox_jax.conversion import exporters
from echox_jax.errors import CheckpointError
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done
from echox_jax.training import checkpoint
from tests.helpers.pipeline_jobs import STAGES, job, run, write_recordings


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A working folder with all stages trained."""
  folder = tmp_path_factory.mktemp('pipeline')
  write_recordings(folder)
  run(folder)
  return folder


def test_an_exported_model_answers_in_speech(workdir):
  model = echox_jax.load(workdir / 'model')
  assert model.config == job('echo').model
  engine = Engine(model)
  for asked in (dict(audio=audio.load_audio(workdir / 'q0.wav')), dict(text='What is red?')):
    *_, done = engine.answer(**asked)
    assert isinstance(done, Done) and done.finished_at > 0 and len(done.waveform) % 320 == 0


def test_stages_leave_the_frozen_parts_alone(workdir):
  model = echox_jax.load(workdir / 'model').params
  table = model['unit_text_embedding']['embedding']
  np.testing.assert_array_equal(table, model['llm']['embed_tokens']['embedding'])
  assert np.abs(model['llm']['trunk']['layers']['self_attn']['q_proj']['lora_b']).max() > 0


@pytest.mark.parametrize(
  'damage, named',
  [
    (
      lambda f: (f / 'model.safetensors').write_bytes(
        (f / 'model.safetensors').read_bytes()[:-100]
      ),
      'model.safetensors is cut short',
    ),
    (lambda f: (f / 'config.json').write_text('{"llm": '), 'not valid JSON'),
    (lambda f: (f / 'tokenizer.model').unlink(), 'the model lacks tokenizer'),
  ],
)
def test_a_damaged_export_is_named(workdir, tmp_path, damage, named):
  for file in (workdir / 'model').iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  damage(tmp_path)
  with pytest.raises(CheckpointError, match=named):
    Engine(echox_jax.load(tmp_path))


def test_a_folder_of_something_else_is_not_replaced(workdir, tmp_path):
  (tmp_path / 'thesis.txt').write_text('precious')
  with pytest.raises(CheckpointError, match='choose another folder'):
    exporters.export(workdir / 'model', 'safetensors', tmp_path)
  assert (tmp_path / 'thesis.txt').read_text() == 'precious'


def same_parameters(one, other, stage):
  trees = [checkpoint.load_groups(folder / stage, GROUPS[stage]) for folder in (one, other)]
  assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
  jax.tree.map(np.testing.assert_array_equal, *trees)


GROUPS = {
  'text': ('llm',),
  's2t': ('llm', 'adapter'),
  't2c': ('t2c',),
  'echo': ('llm', 'adapter', 'unit_text_embedding', 't2c', 'echo', 'denoising_adapter'),
  'vocoder': ('vocoder',),
}


@pytest.mark.parametrize('stages', [('text',), pytest.param(STAGES, marks=pytest.mark.slow)])
def test_a_bucket_gives_the_same_as_local_disk(workdir, bucket_folder, stages):
  folder = storage.path(bucket_folder)
  write_recordings(folder)
  run(folder, stages)
  derived = {'unit_language.json', 'kmeans.safetensors', 'tokenizer.model', 'features.json'}
  made = [file for file in storage.tree(workdir / 'precomputed') if file.name in derived]
  records = storage.tree(workdir / 'data', '*.array_record*')
  made += [file for file in records if SCRATCH not in file.parts]  # notes hold times
  assert len(made) > 7
  for file in made:
    assert (folder / file.relative_to(workdir)).read_bytes() == file.read_bytes()
  for stage in stages:
    same_parameters(workdir, folder, stage)
  names = {path.name for path in storage.tree(folder)}
  assert not any(name.endswith('.tmp') for name in names)


def test_a_model_in_a_bucket_answers(workdir, bucket_folder):
  folder = storage.path(bucket_folder) / 'model'
  exporters.export(workdir / 'model', 'safetensors', folder)
  ours, local = (echox_jax.load(place) for place in (folder, workdir / 'model'))
  jax.tree.map(np.testing.assert_array_equal, ours.params, local.params)
  audio.write_wav(folder / 'q.wav', audio.load_audio(workdir / 'q0.wav'))
  asked = audio.load_audio(f'{bucket_folder}/model/q.wav')
  said = [list(Engine(model).answer(audio=asked))[-1] for model in (ours, local)]
  assert said[0].text == said[1].text
  np.testing.assert_array_equal(said[0].waveform, said[1].waveform)
  exporters.export(folder, 'safetensors', folder)  # over itself: it is a model
  (folder / 'config.json').unlink()
  with pytest.raises(CheckpointError, match='is not an exported model'):
    echox_jax.load(folder)
  with pytest.raises(CheckpointError, match='choose another folder'):
    exporters.export(workdir / 'model', 'safetensors', folder)
