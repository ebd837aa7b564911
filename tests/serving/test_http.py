"""Clients of plain HTTP that go, stall, come in crowds, or send what is larger than it looks."""

import contextlib
import io
import json
import socket
import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from echox_jax.serving import http_routes
from echox_jax.serving.limits import Limits
from echox_jax.serving.refusals import Refusal
from tests.helpers.live_server import serving

BODY = b'{"text": "What is two plus two?"}'


@pytest.fixture
def server(reader):
  with serving(reader, Limits(uploads=2, upload_seconds=1.0)) as live:
    yield live


@contextlib.contextmanager
def posting(server, body=BODY, size=None, path='/v1/respond'):
  """A socket on which `body` was sent, of which the head says that it has `size` bytes."""
  with socket.create_connection(('127.0.0.1', server.port)) as raw:
    raw.settimeout(30)
    raw.sendall(
      f'POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n'
      f'Content-Type: application/json\r\nContent-Length: {size or len(body)}\r\n\r\n'.encode()
      + body
    )
    yield raw


def answered(raw):
  """(status, JSON) of what comes."""
  data = b''
  while piece := raw.recv(65536):
    data += piece
  head, _, body = data.partition(b'\r\n\r\n')
  return int(head.split()[1]), json.loads(body)


def until(ready, seconds=20):
  deadline = time.monotonic() + seconds
  while not ready() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert ready()


@pytest.mark.parametrize(
  'path, body', [('/v1/respond', BODY), ('/v1/audio/speech', b'{"input": "%s"}' % (b'Yes. ' * 99))]
)
def test_nothing_is_made_for_who_has_gone(server, monkeypatch, path, body):
  engine = server.hub.worker.engine
  for name in ('pump', 'vocode'):
    whole = getattr(engine, name)
    slow = lambda *args, whole=whole: time.sleep(0.2) or whole(*args)
    monkeypatch.setattr(engine, name, slow)
  with posting(server, body, path=path):
    until(lambda: server.hub.worker.answering)
  until(lambda: not server.hub.worker.answering and not server.hub.uploads, 3)


def test_a_body_that_does_not_come_is_not_waited_for(server):
  with posting(server, size=1000) as raw:
    status, told = answered(raw)
  assert (status, told['error']['code']) == (408, 'too_slow')


def test_only_so_many_at_the_same_time(server):
  with posting(server, size=1000), posting(server, size=1000):
    until(lambda: server.hub.uploads == 2)
    with posting(server) as raw:
      status, told = answered(raw)
    assert (status, told['error']['code']) == (503, 'server_busy')
  until(lambda: not server.hub.uploads)
  with posting(server) as raw:
    assert answered(raw)[0] == 200


def flac(channels, rate, seconds):
  """Silence in a file, as small as it can be."""
  file = io.BytesIO()
  with soundfile.SoundFile(file, 'w', rate, channels, format='FLAC', subtype='PCM_16') as made:
    for _ in range(seconds):
      made.write(np.zeros((rate, channels), np.int16))
  return file.getvalue()


def test_a_small_file_of_many_samples_takes_little_memory():
  data = flac(8, 192_000, 10)
  tracemalloc.start()
  wave = http_routes.recording(data, 120.0)
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert len(data) < 200_000 and len(wave) == 160_000 and most < 30e6  # whole it is 60e6


def test_more_channels_and_samples_than_anybody_needs_are_refused():
  with pytest.raises(Refusal, match='8 of 192000 Hz'):
    http_routes.recording(flac(1, 384_000, 1), 120.0)
