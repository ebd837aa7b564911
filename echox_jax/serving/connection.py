"""A socket and its session: messages come in, events go out, and neither waits for the other.

Time limits are `asyncio.timeout`: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes
as what it waits for has just ended, so that a connection would stay when its client has gone.
"""

import asyncio
from collections.abc import Iterable, Sequence
import dataclasses
import logging
import time

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from echox_jax.inference.events import Event
from echox_jax.serving import refusals
from echox_jax.serving.commands import DropSound, Failed, Ticket, Transcribe, Transcript
from echox_jax.serving.hub import Hub
from echox_jax.serving.limits import Rate
from echox_jax.serving.outbox import Outbox
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.session import Output, Session
from echox_jax.serving.worker import Seat

PROTOCOL = 'realtime'
# A browser cannot set headers of a socket: the token comes as a subprotocol, as OpenAI has it.
_TOKEN_PROTOCOL = 'openai-insecure-api-key.'
_log = logging.getLogger('echox_jax.serving')


@dataclasses.dataclass(frozen=True)
class Ending:
  """Why a connection ends.

  Attributes:
    code: of RFC 6455, section 7.4.1.
    reason: one sentence.
    name: for logs and metrics.
  """

  code: int
  reason: str
  name: str


GONE = Ending(1000, '', 'gone')
IDLE = Ending(1001, 'The session was idle for too long.', 'idle')
STOPS = Ending(1001, 'The server stops.', 'server_stops')
SLOW = Ending(1008, 'The client reads too slowly.', 'slow_reader')


class Connection:
  """An accepted socket.

  Args:
    websocket: the socket.
    hub: of the server.
  """

  def __init__(self, websocket: WebSocket, hub: Hub):
    self._socket, self._hub = websocket, hub
    self._session = Session(hub.abilities, hub.limits)
    self._outbox = Outbox(hub.limits.unsent_bytes)
    self._rate = Rate(hub.limits.messages_per_second, hub.limits.burst)
    self._loop = asyncio.get_running_loop()
    self._seat = Seat(self._deliver)
    self._leaving = self._has_left = False

  async def run(self) -> None:
    """Serves it until it ends."""
    began, ending = time.monotonic(), GONE
    name = self._session.session_id
    _log.info('session_opened', extra={'session': name})
    self._handle(self._session.open())
    tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send())]
    try:
      done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
      ending = next(iter(done)).result()
    finally:
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)
      self._has_left = True  # what is still on its way from the engine must not ask it anything
      self._hub.worker.leave(self._seat)
      seconds = round(time.monotonic() - began, 1)
      _log.info('session_closed', extra={'session': name, 'why': ending.name, 'seconds': seconds})
      self._hub.metrics.connections.labels(ending.name).inc()
    if ending is not GONE:
      await self._close(ending)

  def leave_after_answer(self) -> None:
    """Ends it when the answer that is being made is sent."""
    self._leaving = True
    self._close_if_idle()

  def leave_now(self) -> None:
    """Ends it, and the answer that is being made."""
    self._handle(self._session.stop())
    self._outbox.close()

  async def _receive(self) -> Ending:
    """Takes messages."""
    while True:
      try:
        async with asyncio.timeout(self._hub.limits.idle_seconds):
          message = await self._socket.receive()
      except TimeoutError:
        return IDLE
      if message['type'] == 'websocket.disconnect':
        return GONE
      if not self._rate.allows():
        self._refuse(_TOO_FAST)
      elif message.get('text') is None:
        self._refuse(_BINARY)
      else:
        for outputs in self._session.client(message['text']):
          self._handle(outputs)
          await asyncio.sleep(0)

  async def _send(self) -> Ending:
    """Sends what there is."""
    while (text := await self._outbox.next()) is not None:
      try:
        async with asyncio.timeout(self._hub.limits.stall_seconds):
          await self._socket.send_text(text)
      except TimeoutError:
        return SLOW
      except (WebSocketDisconnect, RuntimeError):  # it has been closed in the meantime
        return GONE
    return SLOW if self._outbox.is_full else STOPS

  async def _close(self, ending: Ending) -> None:
    try:
      async with asyncio.timeout(1.0):
        await self._socket.close(ending.code, ending.reason)
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
      _log.info('session_lost', extra={'session': self._session.session_id})

  def _refuse(self, refusal: tuple[str, str, str]) -> None:
    self._handle([self._session.refused(Refusal(*refusal))])

  def _handle(self, outputs: Iterable[Output]) -> None:
    """Sends events, and passes on commands."""
    for output in outputs:
      if isinstance(output, DropSound):
        self._outbox.drop_sound()
      elif isinstance(output, dict):
        if output['type'] == 'error':
          self._hub.metrics.errors.labels(output['error']['code']).inc()
        self._outbox.put(output)
      else:
        self._hub.worker.command(self._seat, output)
    self._close_if_idle()

  def _close_if_idle(self) -> None:
    """Ends a connection that is to end, unless an answer is being made."""
    if self._leaving and not self._session.is_answering:
      self._outbox.close()

  def _deliver(
    self, cause: Ticket | Transcribe, events: Sequence[Event | Transcript | Failed]
  ) -> None:
    """Called in the thread of the engine."""
    self._loop.call_soon_threadsafe(self._take, cause, events)

  def _take(
    self, cause: Ticket | Transcribe, events: Sequence[Event | Transcript | Failed]
  ) -> None:
    for event in () if self._has_left else events:
      self._handle(self._session.engine(cause, event))


_TOO_FAST = (
  'too many messages come at once: this one was not read, so send fewer and longer ones.',
  'rate_limit_exceeded',
  refusals.BUSY,
)
_BINARY = (
  'the message is binary: send JSON as text, with audio in base64.',
  'invalid_message',
  refusals.INVALID,
)


async def talk(websocket: WebSocket) -> None:
  """The route `/v1/realtime`: lets a client in, or says why not."""
  hub: Hub = websocket.app.state.hub
  offered = websocket.scope.get('subprotocols', [])
  refusal = _refusal(hub, websocket, offered)
  if refusal is not None:
    status, code, sentence = refusal
    hub.metrics.refused.labels(code).inc()
    _log.info('session_refused', extra={'why': code})
    error = {'type': refusals.INVALID, 'code': code, 'message': sentence, 'param': None}
    headers = {'Retry-After': '5'} if status == 503 else {}
    await websocket.send_denial_response(JSONResponse({'error': error}, status, headers))
    return
  # taken before the first await, so that many clients at once find no gap
  connection = Connection(websocket, hub)
  hub.connections.add(connection)
  hub.metrics.sessions.set(len(hub.connections))
  try:
    await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
    await connection.run()
  finally:
    hub.connections.discard(connection)
    hub.metrics.sessions.set(len(hub.connections))


def bearer(authorization: str | None) -> str | None:
  """Gives the token of an Authorization header."""
  kind, _, token = (authorization or '').partition(' ')
  return token.strip() if kind.lower() == 'bearer' else None


def _refusal(hub: Hub, websocket: WebSocket, offered: list[str]) -> tuple[int, str, str] | None:
  """Why a client cannot come in: (status, code, sentence)."""
  headers = websocket.headers
  if not hub.access.welcomes(headers.get('origin'), headers.get('host')):
    return (
      403,
      'wrong_origin',
      'Pages of this origin may not connect: open the page of this server.',
    )
  shown = [own.removeprefix(_TOKEN_PROTOCOL) for own in offered if own.startswith(_TOKEN_PROTOCOL)]
  token = bearer(headers.get('authorization')) or (shown[0] if shown else None)
  if not hub.access.knows(token):
    return (401, 'wrong_token', 'The token is missing or wrong: send it as Authorization: Bearer.')
  if not hub.is_ready:
    return (503, 'not_ready', 'The server is starting or stopping: connect again in a moment.')
  if len(hub.connections) >= hub.limits.sessions:
    return (503, 'too_many_sessions', 'The server has no room for another session: try later.')
  return None
