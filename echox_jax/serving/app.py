"""The server as a Starlette application: a socket, plain HTTP, and the page."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from echox_jax.serving import connection, http_routes
from echox_jax.serving.hub import Hub

STATIC = Path(__file__).parent / 'static'
_POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  "media-src 'self' blob:; img-src 'self' data:; worker-src 'self'; frame-ancestors 'none'; "
  "base-uri 'none'; form-action 'none'"
)
_HEADERS = {
  'Content-Security-Policy': _POLICY,
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Permissions-Policy': 'microphone=(self)',
  'Cache-Control': 'no-cache',
}
Message = MutableMapping[str, Any]


class SafeHeaders:
  """Adds headers that keep a browser from loading or showing the page elsewhere."""

  def __init__(self, app: Callable[..., Awaitable[None]]):
    self._app = app

  async def __call__(self, scope: Message, receive: Any, send: Callable[..., Any]) -> None:
    async def send_with(message: Message) -> None:
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
          headers.setdefault(name, value)
      await send(message)

    await self._app(scope, receive, send_with)


def make_app(hub: Hub) -> Starlette:
  """Makes the application of a hub."""
  guarded = http_routes.guarded
  app = Starlette(
    routes=[
      WebSocketRoute('/v1/realtime', connection.talk),
      Route('/v1/respond', guarded(http_routes.respond), methods=['POST']),
      Route('/v1/audio/speech', guarded(http_routes.speech), methods=['POST']),
      Route('/metrics', guarded(http_routes.metrics)),
      Route('/openapi.json', http_routes.openapi),
      Route('/healthz', http_routes.health),
      Route('/readyz', http_routes.ready),
      Mount('/', StaticFiles(directory=STATIC, html=True)),
    ],
    middleware=[Middleware(SafeHeaders)],
  )
  app.state.hub = hub
  return app
