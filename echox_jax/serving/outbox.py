"""What waits to be sent to a client, in order and within bounds."""

import asyncio
import collections
import json
from typing import Any

_SOUND = 'response.output_audio.delta'


class Outbox:
  """Events on their way to a client that may read slowly.

  Args:
    most_bytes: that wait at most.
  """

  def __init__(self, most_bytes: int):
    self._most, self._bytes = most_bytes, 0
    self._held: collections.deque[tuple[bool, str]] = collections.deque()  # (is sound, JSON)
    self._changed = asyncio.Event()
    self._closed = False
    self.is_full = False

  def put(self, event: dict[str, Any]) -> None:
    """Adds an event; one too many is lost, and the box is full for good."""
    text = json.dumps(event)
    if self.is_full or self._bytes + len(text) > self._most:
      self.is_full = True
    else:
      self._held.append((event['type'] == _SOUND, text))
      self._bytes += len(text)
    self._changed.set()

  def drop_sound(self) -> None:
    """Takes back the sound that has not been sent."""
    self._held = collections.deque(own for own in self._held if not own[0])
    self._bytes = sum(len(text) for _, text in self._held)

  def close(self) -> None:
    """Lets `next` end when all is sent."""
    self._closed = True
    self._changed.set()

  async def next(self) -> str | None:
    """Gives the next event, when there is one; None = there will be none, or the box is full."""
    while not self._held and not self._closed and not self.is_full:
      self._changed.clear()
      await self._changed.wait()
    if self.is_full or not self._held:
      return None
    _, text = self._held.popleft()
    self._bytes -= len(text)
    return text
