"""A connection to a server that is far away: what it is sent comes late, however much it is."""

import asyncio
from collections.abc import Iterator
import contextlib
import threading

_CHUNK = 1 << 18  # bytes
_ON_THE_WAY = 256  # chunks


@contextlib.contextmanager
def away(port: int, server: int, seconds: float) -> Iterator[None]:
  """Listens to `port` of this machine while the block runs, and hands everything on to the port
  `server`, `seconds` later. Answers come back at once, so `seconds` is the time of a round trip.
  """
  loop = asyncio.new_event_loop()

  async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
      there = await asyncio.open_connection('127.0.0.1', server)
    except ConnectionError:
      writer.close()
      return
    with contextlib.suppress(asyncio.CancelledError):  # at the end
      await asyncio.gather(_send(reader, there[1], seconds), _send(there[0], writer, 0.0))

  thread = threading.Thread(target=loop.run_forever, daemon=True)
  thread.start()
  start = asyncio.start_server(connect, '127.0.0.1', port, limit=_CHUNK)
  listener = asyncio.run_coroutine_threadsafe(start, loop).result()
  try:
    yield
  finally:
    asyncio.run_coroutine_threadsafe(_end(listener), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _end(listener: asyncio.Server) -> None:
  listener.close()
  connections = asyncio.all_tasks() - {asyncio.current_task()}
  for task in connections:
    task.cancel()
  await asyncio.gather(*connections, return_exceptions=True)


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
  """Hands on what is read, each piece `seconds` after it came, until the connection ends."""
  loop, pieces = asyncio.get_running_loop(), asyncio.Queue(_ON_THE_WAY)

  async def read() -> None:
    while data := await reader.read(_CHUNK):
      await pieces.put((loop.time() + seconds, data))
    await pieces.put(None)

  reading = asyncio.ensure_future(read())
  with contextlib.suppress(ConnectionError):
    while piece := await pieces.get():
      due, data = piece
      await asyncio.sleep(due - loop.time())
      writer.write(data)
      await writer.drain()
  reading.cancel()
  writer.close()
