"""What `launch.beam` says before Beam is asked."""

import importlib.util
import sys

import pytest

from echox_jax.errors import ConfigError, MissingExtraError
from launch import beam


def test_beam_is_an_extra(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  options = ['--manifest', str(tmp_path / 'm.tsv'), '--data', str(tmp_path / 'data')]
  monkeypatch.setattr(sys, 'argv', ['beam', 'corpus', *options, '--', '--runner=DirectRunner'])
  with pytest.raises(MissingExtraError, match=r'apache_beam.*echox-jax\[beam\]'):
    beam.main()
  assert not list(tmp_path.iterdir())


def test_the_job_is_named_first(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['beam', '--runner=DirectRunner'])
  with pytest.raises(ConfigError, match='write corpus or precompute first'):
    beam.main()
  monkeypatch.setattr(sys, 'argv', ['beam', '--help'])
  beam.main()
  assert 'launch.beam precompute' in capsys.readouterr().out
