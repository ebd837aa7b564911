"""What is kept between runs is found again only as it was made, and saves the work."""

import dataclasses

import jax
import pytest

from echox_jax import errors, kept, model_folder
from echox_jax.models import params as params_lib
from tests.helpers import tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path):
  """A cache folder of its own."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'cache'))
  yield tmp_path / 'cache'
  jax.config.update('jax_compilation_cache_dir', before)


def test_results_come_back_whole_or_not_at_all():
  path = kept.place('things', 1, 'a')
  assert kept.read(path) is None
  kept.write(path, b'result')
  assert kept.read(path) == b'result' and kept.place('things', 1, 'a') == path
  assert len({path, kept.place('things', 2, 'a'), kept.place('others', 1, 'a')}) == 3
  path.write_bytes(path.read_bytes()[:-1])
  assert kept.read(path) is None


def test_nothing_is_kept_where_it_cannot_be(cache, caplog):
  cache.write_text('a file where the folder should be')
  path = kept.place('things')
  kept.write(path, b'result')
  assert 'is not kept' in caplog.text and kept.read(path) is None
  jax.config.update('jax_compilation_cache_dir', None)
  assert kept.place('things') is None


def test_a_model_is_checked_by_kept_shapes_the_second_time(tmp_path, monkeypatch):
  cfg = tiny_model.tiny_config()
  folder = tmp_path / 'model'
  tiny_model.write_model(folder, cfg)
  first = model_folder.load_params(folder)

  def refuse(*_):
    raise AssertionError('shapes were found anew')

  monkeypatch.setattr(params_lib, 'param_shapes', refuse)
  second = model_folder.load_params(folder)
  assert jax.tree.structure(first) == jax.tree.structure(second)
  with pytest.raises(AssertionError, match='anew'):  # another config has shapes of its own
    other = dataclasses.replace(cfg, llm=dataclasses.replace(cfg.llm, vocab_size=321))
    model_folder.check_shapes(other, {'llm/x': (1,)}, 'it')
  monkeypatch.undo()
  shapes = params_lib.param_shapes(cfg, ('llm',))
  name = next(iter(shapes))
  for _ in range(2):
    with pytest.raises(errors.CheckpointError, match='wrong shape'):
      model_folder.check_shapes(cfg, shapes | {name: (1, 2, 3, 4)}, 'it')
