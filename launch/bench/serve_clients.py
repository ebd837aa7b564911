"""Clients of a server, who speak in real time and listen as a loudspeaker does."""

import asyncio
import base64
import dataclasses
import json
import time
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

RATE = 24_000
_FRAME = RATE // 50  # 20 ms, as microphones deliver
_PATIENCE = 30.0  # seconds, after which a client counts as left alone


@dataclasses.dataclass
class Heard:
  """What a client heard of an answer.

  Attributes:
    first_s: from the end of the question to the first sound; None = there was none.
    gaps_s: between pieces of sound.
    underruns: moments at which a loudspeaker would have had nothing to play.
    stalled_s: how long it would have been silent.
    audio_s: how long the answer sounds.
    status: of the answer.
  """

  first_s: float | None = None
  gaps_s: list[float] = dataclasses.field(default_factory=list)
  underruns: int = 0
  stalled_s: float = 0.0
  audio_s: float = 0.0
  status: str = 'none'


class Caller:
  """A client in a call.

  Args:
    socket: open.
  """

  def __init__(self, socket: ClientConnection):
    self._socket = socket
    self._events: asyncio.Queue[tuple[float, dict[str, Any]]] = asyncio.Queue()
    self._reader = asyncio.create_task(self._read())
    self.errors: list[str] = []

  async def _read(self) -> None:
    async for text in self._socket:
      event = json.loads(text)
      if event['type'] == 'error':
        self.errors.append(event['error']['code'])
      self._events.put_nowait((time.perf_counter(), event))

  async def close(self) -> None:
    """Ends the call."""
    await self._socket.close()
    await asyncio.gather(self._reader, return_exceptions=True)

  async def send(self, name: str, **fields: Any) -> None:
    """Sends an event."""
    await self._socket.send(json.dumps({'type': name, **fields}))

  async def turns(self, rule: dict[str, Any] | None) -> None:
    """Sets when a turn ends; None = this client commits."""
    await self.send('session.update', session={'audio': {'input': {'turn_detection': rule}}})

  async def until(self, name: str) -> tuple[float, dict[str, Any]]:
    """Time and content of the next event of a name."""
    async with asyncio.timeout(_PATIENCE):
      while True:
        at, event = await self._events.get()
        if event['type'] == name:
          return at, event

  async def names_until(self, name: str) -> list[str]:
    """Names of the events that come up to one of that name."""
    names: list[str] = []
    async with asyncio.timeout(_PATIENCE):
      while not names or names[-1] != name:
        names.append((await self._events.get())[1]['type'])
    return names

  async def speak(self, wave: np.ndarray) -> float:
    """Sends float[samples] at 24 kHz as a microphone does; gives the time of its end."""
    data = (np.clip(wave, -1, 1) * 32767).astype('<i2').tobytes()
    began, size = time.perf_counter(), 2 * _FRAME
    for number, begin in enumerate(range(0, len(data), size)):
      await asyncio.sleep(max(0.0, began + (number + 1) * 0.02 - time.perf_counter()))
      piece = base64.b64encode(data[begin : begin + size]).decode()
      await self.send('input_audio_buffer.append', audio=piece)
    return time.perf_counter()

  async def write(self, text: str) -> None:
    """Adds a written question."""
    content = [{'type': 'input_text', 'text': text}]
    item = {'type': 'message', 'role': 'user', 'content': content}
    await self.send('conversation.item.create', item=item)

  async def ask(self, wave: np.ndarray) -> Heard:
    """Asks aloud, and commits."""
    await self.speak(wave)
    await self.send('input_audio_buffer.commit')
    await self.send('response.create')
    return await self.listen(time.perf_counter())

  async def ask_hands_free(self, wave: np.ndarray, silence_s: float) -> Heard:
    """Asks aloud, and stays silent until an answer comes; its delay counts from the last voice."""
    ended = await self.speak(wave)
    silence = asyncio.create_task(self.speak(np.zeros(round(RATE * (silence_s + 2)))))
    try:
      return await self.listen(ended)
    finally:
      silence.cancel()
      await asyncio.gather(silence, return_exceptions=True)

  async def listen(self, since: float) -> Heard:
    """Listens to an answer, as a loudspeaker that plays at once."""
    heard, last, empty_at = Heard(), 0.0, 0.0
    async with asyncio.timeout(_PATIENCE):
      while True:
        at, event = await self._events.get()
        if event['type'] == 'response.output_audio.delta':
          seconds = len(base64.b64decode(event['delta'])) / 2 / RATE
          if heard.first_s is None:
            heard.first_s, empty_at = at - since, at
          else:
            heard.gaps_s.append(at - last)
            if at > empty_at:
              heard.underruns += 1
              heard.stalled_s += at - empty_at
          last, empty_at = at, max(at, empty_at) + seconds
          heard.audio_s += seconds
        elif event['type'] == 'response.done':
          heard.status = event['response']['status']
          return heard


async def call(address: str) -> Caller:
  """Opens a call, and waits for its session."""
  caller = Caller(await connect(address, max_size=None, open_timeout=_PATIENCE, compression=None))
  await caller.until('session.created')
  return caller
