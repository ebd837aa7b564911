"""One engine for all servers of a process: compiling is what takes time."""

import pytest

from tests.helpers import live_server


@pytest.fixture(scope='session')
def reader(tmp_path_factory):
  """The tiny model, which also speaks given texts."""
  return live_server.tiny_reader(tmp_path_factory.mktemp('tiny'))
