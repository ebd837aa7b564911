"""Where compiled programs are kept."""

import jax
import pytest

from launch import cli
from tests.helpers.processes import run_python


@pytest.fixture
def options():
  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_compiled_programs_are_kept_below_the_cache_folder(options, monkeypatch, tmp_path):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  cli.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'echox-jax' / 'programs')


def test_a_folder_that_the_user_chose_stays(options, monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  cli.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir == before


def test_commands_silence_the_false_alarm_of_the_cache(monkeypatch):
  """In a process of its own, since JAX sets the level where nobody has."""
  monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL', raising=False)
  code = "import launch, os, jax; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
  assert run_python('-c', code).split() == ['3']
