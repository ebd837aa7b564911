"""One engine for all servers of a process, since compiling is what takes time; and sessions."""

import pytest

from tests.helpers import live_server
from tests.helpers import serving as helpers


@pytest.fixture(scope='session')
def reader(tmp_path_factory):
  """The tiny model, which also speaks given texts."""
  return live_server.tiny_reader(tmp_path_factory.mktemp('tiny'))


@pytest.fixture
def session():
  """A session without a server."""
  return helpers.session()


@pytest.fixture
def manual(session):
  """A session whose client says when a turn ends."""
  helpers.send(session, 'session.update', **helpers.MANUAL)
  return session
