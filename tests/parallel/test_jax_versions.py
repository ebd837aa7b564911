"""The installed JAX computes rightly, and versions that do not are refused in a sentence."""

import configparser
import importlib.metadata
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import echox_jax
from echox_jax import errors
from echox_jax.parallel import jax_versions
from launch import cli
from tests.helpers.paths import ROOT


def test_a_product_and_a_sum_over_many_rows_are_right():
  """The public reproducer of jax issue 39103: a vmapped matrix-vector product, then a reduction."""
  rows = np.zeros((32_769, 3), np.float32)
  rows[:, 0] = np.arange(len(rows))
  matrix = np.eye(3, dtype=np.float32)

  def squared_norm(row):
    return jnp.sum((matrix @ row) ** 2)

  found = np.asarray(jax.jit(jax.vmap(squared_norm))(rows))
  expected = np.sum((rows @ matrix.T) ** 2, axis=1)
  wrong = np.max(np.abs(found - expected) / np.maximum(expected, 1))
  assert wrong < 1e-6, (
    f'jaxlib {importlib.metadata.version("jaxlib")} computes sums wrongly on this machine, by '
    f'{wrong:.1%}: install the version that '
    'constraints.txt names.'
  )


@pytest.fixture
def installed(monkeypatch):
  """Sets the version that seems to be installed."""
  jax_versions.check.cache_clear()
  yield lambda version: monkeypatch.setattr(importlib.metadata, 'version', lambda package: version)
  jax_versions.check.cache_clear()


@pytest.mark.parametrize('version', [*jax_versions.BAD, '0.10.2+local'])
def test_bad_versions_are_refused_before_anything_is_computed(installed, version, tmp_path, capsys):
  installed(version)
  with pytest.raises(
    errors.ConfigError,
    match=f'jaxlib {re.escape(version)} cannot be used, since '
    'it .*: install another release with .pip',
  ):
    echox_jax.load(tmp_path)
  with pytest.raises(SystemExit) as left:
    cli.run(lambda: pytest.fail('work was begun'))
  assert left.value.code == 2 and 'cannot be used' in capsys.readouterr().err


@pytest.mark.parametrize('version', ['0.10.1', '0.11.2', '0.12.0.1', '0.13.0'])
def test_other_versions_pass(installed, version):
  installed(version)
  jax_versions.check()


def test_the_package_requires_none_of_the_bad_versions():
  file = configparser.ConfigParser()
  file.read(ROOT / 'setup.cfg')
  lines = file['options']['install_requires'].split()
  for package in ('jax', 'jaxlib'):
    (line,) = [line for line in lines if re.match(rf'{package}\W', line)]
    assert set(re.findall(r'!=([\w.]+)', line)) == set(jax_versions.BAD)
