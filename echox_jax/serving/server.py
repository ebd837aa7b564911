"""Runs the application, and ends it without breaking off an answer."""

import asyncio
import logging
from pathlib import Path
from types import FrameType

import uvicorn

from echox_jax.serving.app import make_app
from echox_jax.serving.hub import Hub

_log = logging.getLogger('echox_jax.serving')


class Server(uvicorn.Server):
  """A server that lets answers end when it is told to stop; told once more, it stops at once.

  Args:
    hub: what it serves; its worker is started and stopped here.
    host, port: where it listens; port 0 = any free one.
    certificate, key: of TLS, PEM files; None = plain, as behind a proxy.
  """

  def __init__(
    self, hub: Hub, host: str, port: int, certificate: Path | None = None, key: Path | None = None
  ):
    self._hub, self._draining = hub, None
    super().__init__(
      uvicorn.Config(
        make_app(hub),
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ws='websockets-sansio',
        ws_max_size=hub.limits.message_bytes,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=64 * 1024,
        timeout_graceful_shutdown=5,
        lifespan='off',
        access_log=False,
        log_config=None,
        server_header=False,
      )
    )

  async def serve(self, sockets=None) -> None:
    """Serves until it is told to stop."""
    self._loop = asyncio.get_running_loop()
    self._hub.worker.start()
    try:
      await super().serve(sockets)
    finally:
      await asyncio.to_thread(self._hub.worker.stop)

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """Called on SIGTERM and SIGINT."""
    if self._hub.stopping:
      super().handle_exit(sig, frame)
    else:
      self._loop.call_soon_threadsafe(self.stop)

  def stop(self) -> None:
    """Lets answers end, and then stops; must be called on the event loop."""
    self._hub.stopping = True
    _log.info('stopping', extra={'sessions': len(self._hub.connections)})
    self._draining = self._loop.create_task(self._drain())

  async def _drain(self) -> None:
    await self._hub.drain()
    self.should_exit = True

  @property
  def address(self) -> tuple[str, int]:
    """Host and port where it listens, once it has started."""
    host, port, *_ = self.servers[0].sockets[0].getsockname()
    return host, port
