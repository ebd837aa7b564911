"""The items of a session: what was asked and answered, as the client sees it."""

from collections.abc import Iterator
import dataclasses
from typing import Any

import numpy as np

from echox_jax.serving import server_events
from echox_jax.serving.commands import Ticket
from echox_jax.serving.refusals import Refusal


@dataclasses.dataclass(eq=False)
class Item:
  """A message of the conversation.

  Attributes:
    item_id: its name.
    role: `user`, `assistant` or `system`.
    spoken: whether it was said rather than written.
    text: what is written (beside speech, too), or the transcript of what the model says.
    wave: float32[samples] at 16 kHz of a question that waits for its answer; None afterwards.
    transcript: words of a question that was said; None = nobody asked for them, or not known yet.
    status: `in_progress`, `completed` or `incomplete`.
    ticket: the turn it is a part of; None = no answer was asked for yet.
    samples: of an answer, sound at 16 kHz that was made so far.
    whole: of an answer, whether its text is still all of what the client knows.
  """

  item_id: str
  role: str
  spoken: bool
  text: str = ''
  wave: np.ndarray | None = None
  transcript: str | None = None
  status: str = 'completed'
  ticket: Ticket | None = None
  samples: int = 0
  whole: bool = True

  def to_json(self) -> dict[str, Any]:
    """The item as the protocol shows it; sound is not sent twice."""
    mine = self.role == 'assistant'
    parts: list[dict[str, Any]] = []
    if self.spoken and mine:
      parts.append({'type': 'output_audio', 'transcript': self.text if self.whole else ''})
    elif self.spoken:
      parts.append({'type': 'input_audio', 'transcript': self.transcript})
    if self.text and not (self.spoken and mine):
      parts.append({'type': 'output_text' if mine else 'input_text', 'text': self.text})
    begun = not mine or self.text or self.samples or self.status != 'in_progress'
    return server_events.item(self.item_id, self.role, parts if begun else [], self.status)


class Items:
  """The items of a conversation in order.

  Args:
    most: items at most.
  """

  def __init__(self, most: int):
    self._most, self._held = most, []

  def __iter__(self) -> Iterator[Item]:
    return iter(self._held)

  def __len__(self) -> int:
    return len(self._held)

  def find(self, item_id: str) -> Item:
    """Gives the item of a name; raises Refusal where there is none."""
    for item in self._held:
      if item.item_id == item_id:
        return item
    raise Refusal(
      'there is no item of that item_id: use one that conversation.item.added has named.',
      'item_not_found',
      param='item_id',
    )

  def has(self, item_id: str) -> bool:
    """Whether there is an item of that name."""
    return any(item.item_id == item_id for item in self._held)

  def add(self, item: Item, after: str | None = None) -> str | None:
    """Adds an item; returns the name of the one before it.

    Args:
      item: the new one.
      after: name of the one before it, `root` = none; None = the last.

    Raises:
      Refusal: no item has that name, or there are too many.
    """
    if len(self._held) >= self._most:
      raise Refusal(
        f'the conversation holds {self._most} items already: delete some, or open a new session.',
        'too_many_items',
      )
    place = len(self._held)
    if after is not None:
      place = 0 if after == 'root' else self._held.index(self.find(after)) + 1
    before = self._held[place - 1].item_id if place else None
    self._held.insert(place, item)
    return before

  def remove(self, item: Item) -> None:
    """Takes an item out."""
    self._held.remove(item)

  def unanswered(self) -> list[Item]:
    """Gives questions that no answer was asked for yet."""
    return [item for item in self._held if item.role == 'user' and item.ticket is None]
