"""A real server on loopback, in a thread of this process, and clients of its socket."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import threading
import time

import numpy as np
from websockets.asyncio.client import connect

from echox_jax.inference.engine import Engine
from echox_jax.inference.reading import Reader
from echox_jax.serving.hub import Hub, hub_of
from echox_jax.serving.limits import Access, Limits
from echox_jax.serving.server import Server
from tests.helpers import tiny_model


class LiveServer:
  """A server that runs.

  Attributes:
    hub: what it serves.
    port: where it listens.
  """

  def __init__(self, hub: Hub, **tls):
    self.hub = hub
    self._server = Server(hub, '127.0.0.1', 0, **tls)
    self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))

  def start(self) -> None:
    self._thread.start()
    assert self.hub.worker.warm.wait(300) and not self.hub.worker.failed
    while not self._server.started:
      time.sleep(0.01)
    self.port = self._server.address[1]

  def begin_stop(self) -> None:
    self._server._loop.call_soon_threadsafe(self._server.stop)

  def stop(self) -> None:
    if self._thread.is_alive():
      self.begin_stop()
    self._thread.join(60)
    assert not self._thread.is_alive()

  @property
  def http(self) -> str:
    return f'http://127.0.0.1:{self.port}'

  def connect(self, **options):
    """A socket, not opened yet."""
    address = f'ws://127.0.0.1:{self.port}/v1/realtime?model=m'
    return connect(address, subprotocols=['realtime'], max_size=None, **options)


@contextlib.contextmanager
def serving(reader: Reader, limits: Limits | None = None, access: Access | None = None, **tls):
  """Yields a server of a model; its engine outlives it, so that the next one starts at once.

  `tls`: `certificate` and `key` of `Server`.
  """
  hub = hub_of(reader.engine, reader, 'm', limits or Limits(), access or Access())
  server = LiveServer(hub, **tls)
  server.start()
  try:
    yield server
  finally:
    server.stop()


def tiny_reader(folder, **budgets) -> Reader:
  """The tiny model, with a text-to-codec model, and its engine; `budgets`: of its answers."""
  bundle = tiny_model.tiny_bundle(folder)
  params = dict(bundle.params) | {'t2c': bundle.params['echo']}
  engine = dataclasses.replace(bundle.engine, **budgets)
  return Reader(Engine(dataclasses.replace(bundle, params=params, engine=engine), reads=True))


class Client:
  """A client of a socket that is open.

  Attributes:
    events: that have come.
  """

  def __init__(self, socket):
    self.socket, self.events = socket, []

  async def send(self, name: str, **fields) -> None:
    await self.socket.send(json.dumps({'type': name, **fields}))

  async def until(self, name: str, seconds: float = 30) -> dict:
    """The next event of a name."""
    async with asyncio.timeout(seconds):
      while True:
        event = json.loads(await self.socket.recv())
        self.events.append(event)
        if event['type'] == name:
          return event

  async def write(self, text: str) -> None:
    """Adds a written question."""
    content = [{'type': 'input_text', 'text': text}]
    await self.send(
      'conversation.item.create', item={'type': 'message', 'role': 'user', 'content': content}
    )

  async def ask(self, text: str = 'Paris?', **response) -> dict:
    """Asks in writing, and waits for the end of the answer."""
    await self.write(text)
    await self.send('response.create', response=response)
    return (await self.until('response.done'))['response']

  async def say(self, wave: np.ndarray) -> dict:
    """Asks aloud, float[samples] at 24 kHz, and waits for the end of the answer."""
    rule = {'audio': {'input': {'turn_detection': None}}}
    await self.send('session.update', session=rule)
    data = (np.clip(wave, -1, 1) * 32767).astype('<i2').tobytes()
    for at in range(0, len(data), 9600):
      await self.send(
        'input_audio_buffer.append', audio=base64.b64encode(data[at : at + 9600]).decode()
      )
    await self.send('input_audio_buffer.commit')
    await self.send('response.create')
    return (await self.until('response.done'))['response']

  def heard(self) -> bytes:
    """All sound that has come."""
    return b''.join(
      base64.b64decode(event['delta'])
      for event in self.events
      if event['type'] == 'response.output_audio.delta'
    )
