"""What the server allows: how much, how long, and to whom."""

import dataclasses
import hmac
import ipaddress
import re
import time
from urllib.parse import urlsplit

from echox_jax import errors

_MIB = 2**20
_TOKEN = re.compile(r'[A-Za-z0-9._~-]{8,256}')
_LOOPBACK = ('localhost', '127.0.0.1', '::1')


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of a server.

  Attributes:
    sessions: connections at the same time.
    message_bytes: of a message of a client; 15 MiB of sound are 20 MiB of base64.
    uploads: questions and texts by HTTP at the same time.
    upload_bytes: of a recording that comes by HTTP.
    upload_seconds: that it may take to come.
    audio_seconds: of a question; a model may hear less.
    messages_per_second: that a client may send for long; `burst` of them at once.
    burst: see there.
    idle_seconds: without a message, after which a connection is closed.
    items: of a conversation.
    waiting: questions that wait for the engine, of all sessions together.
    unsent_bytes: that wait for a client that reads slowly.
    stall_seconds: that a client may take for one message.
    stop_seconds: that answers may take to end after the server was told to stop.
    speech_letters: of a text that is to be spoken.
  """

  sessions: int = 16
  message_bytes: int = 21 * _MIB
  uploads: int = 16
  upload_bytes: int = 32 * _MIB
  upload_seconds: float = 60.0
  audio_seconds: float = 120.0
  messages_per_second: float = 400.0
  burst: int = 2000
  idle_seconds: float = 600.0
  items: int = 1000
  waiting: int = 32
  unsent_bytes: int = 16 * _MIB
  stall_seconds: float = 15.0
  stop_seconds: float = 20.0
  speech_letters: int = 4096


class Rate:
  """Messages that a client may send: `burst` at once, and `per_second` for long."""

  def __init__(self, per_second: float, burst: int):
    self._per_second, self._burst = per_second, burst
    self._left, self._at = float(burst), time.monotonic()

  def allows(self) -> bool:
    """Whether there is room for another message; it counts."""
    now = time.monotonic()
    self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
    self._at = now
    if self._left < 1:
      return False
    self._left -= 1
    return True


@dataclasses.dataclass(frozen=True)
class Access:
  """Who may come in.

  Attributes:
    token: what a client has to show; None = nothing.
    origins: pages of other servers that may connect, such as `https://talk.example.org`.
  """

  token: str | None = None
  origins: tuple[str, ...] = ()

  def knows(self, shown: str | None) -> bool:
    """Whether a token is the right one; the time it takes does not depend on how wrong it is."""
    if self.token is None:
      return True
    return hmac.compare_digest((shown or '').encode('utf-8', 'replace'), self.token.encode())

  def welcomes(self, origin: str | None, host: str | None) -> bool:
    """Whether a page of `origin` may talk to the server that the browser calls `host`.

    Programs name no origin. A page must be of this server; without a token that server must be
    called by a loopback name too, for a foreign name may have been made to point here.
    """
    place = _place(f'//{host}')
    if self.token is None and (place is None or place[0] not in _LOOPBACK):
      return False
    if origin is None or origin in self.origins:
      return True
    return place is not None and _place(origin) == place


def check_host(host: str, token: str | None) -> None:
  """Checks where the server is to listen.

  Raises:
    EchoXError: others could reach it without a token, or the token is none.
  """
  if token is not None and not _TOKEN.fullmatch(token):
    raise errors.EchoXError(
      '--token must be 8 to 256 letters, digits or signs among . _ ~ -: choose another one, such '
      "as that of `python -c 'import secrets; print(secrets.token_urlsafe())'`."
    )
  if token is None and not is_loopback(host):
    raise errors.EchoXError(
      f'{host} can be reached from other machines: give a --token that clients must show, or '
      'listen on 127.0.0.1.'
    )


def is_loopback(host: str) -> bool:
  """Whether only programs of this machine reach a host."""
  if host == 'localhost':
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _place(address: str) -> tuple[str, int | None] | None:
  """The name and the port in an address; None where there is no name."""
  try:
    parts = urlsplit(address)
    return (parts.hostname, parts.port) if parts.hostname else None
  except ValueError:
    return None
