"""One answer, as the client is told of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from echox_jax import rates
from echox_jax.inference.events import Done, Event, Sound, TextPiece
from echox_jax.serving import formats, server_events
from echox_jax.serving.commands import Cancel, Command, Failed, Ticket
from echox_jax.serving.items import Item, Items
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.resampling import Stream
from echox_jax.serving.settings import Settings

_TOKEN = rates.SAMPLE_RATE // 10  # samples of a token of audio


class Response:
  """An answer that is being made.

  Args:
    ticket: what the engine knows it by.
    own: settings of this answer.
    lasting: whether the engine adds it to the conversation, so that a voice may interrupt it.
    shown: whether the client sees it there.
    conversation_id: of the session.
    metadata: shown again.
    question: tokens of its text, samples of its sound.
    count_tokens: tokens of a text.
    items: of the conversation.
    new_id: makes names.
    event: makes events.
  """

  def __init__(
    self,
    ticket: Ticket,
    own: Settings,
    *,
    lasting: bool,
    shown: bool,
    conversation_id: str,
    metadata: Mapping[str, Any] | None,
    question: tuple[int, int],
    count_tokens: Callable[[str], int],
    items: Items,
    new_id: Callable[[str], str],
    event: Callable[..., dict[str, Any]],
  ):
    self.ticket, self.lasting = ticket, lasting
    self.item: Item | None = None
    self.ended = False
    self._own, self._shown, self._conversation_id = own, shown, conversation_id
    self._metadata, self._question, self._count_tokens = metadata, question, count_tokens
    self._items, self._new_id, self._event = items, new_id, event
    self._stream = Stream(rates.SAMPLE_RATE, own.output_format.rate)
    self._status, self._details = 'in_progress', None
    self._before: str | None = None  # name of the item before it

  def take(self, event: Event | Failed) -> Iterator[dict[str, Any]]:
    """Tells of an event of the engine."""
    if isinstance(event, Failed):
      error = server_events.failure(event)
      yield from self._end('failed', {'type': 'failed', 'error': error})
    elif isinstance(event, TextPiece):
      yield from self._begun()
      self.item.text += event.text
      kind = 'output_audio_transcript' if self._own.speaks else 'output_text'
      yield self._part(f'response.{kind}.delta', delta=event.text)
    elif isinstance(event, Sound):
      yield from self._begun()
      self.item.samples += len(event.waveform)
      yield from self._sound(event.waveform)
    elif isinstance(event, Done):
      yield from self._begun()
      if event.overflow['answer_tokens']:
        details = {'type': 'incomplete', 'reason': 'max_output_tokens'}
        yield from self._end('incomplete', details)
      else:
        yield from self._end('completed', {'type': 'completed'})

  def cancel(self, reason: str) -> Iterator[dict[str, Any] | Command]:
    """Ends it before its end; `reason`: `turn_detected` or `client_cancelled`."""
    yield Cancel(self.ticket)
    yield from self._end('cancelled', {'type': 'cancelled', 'reason': reason})

  def to_json(self) -> dict[str, Any]:
    """The response object of the protocol."""
    output = self._own.output_format.to_json()
    return {
      'id': self.ticket.name,
      'object': 'realtime.response',
      'status': self._status,
      'status_details': self._details,
      'output': [self.item.to_json()] if self.item else [],
      'conversation_id': self._conversation_id if self._shown else None,
      'output_modalities': list(self._own.output_modalities),
      'max_output_tokens': self._own.max_output_tokens,
      'audio': {'output': {'format': output, 'voice': self._own.voice}},
      'usage': self._usage() if self._details else None,
      'metadata': self._metadata,
    }

  def _begun(self) -> Iterator[dict[str, Any]]:
    """Tells of the item of the answer, once."""
    if self.item:
      return
    self.item = Item(
      self._new_id('item'), 'assistant', self._own.speaks, status='in_progress', ticket=self.ticket
    )
    if self._shown:
      try:
        self._before = self._items.add(self.item)
      except Refusal:  # the conversation is full: the answer is given, but not held
        self._shown = False
    yield self._event(
      'response.output_item.added',
      response_id=self.ticket.name,
      output_index=0,
      item=self.item.to_json(),
    )
    yield from self._item_event('conversation.item.added')
    empty = (
      {'type': 'audio', 'transcript': ''} if self._own.speaks else {'type': 'text', 'text': ''}
    )
    yield self._part('response.content_part.added', part=empty)

  def _sound(self, wave: np.ndarray, last: bool = False) -> Iterator[dict[str, Any]]:
    """Tells of sound, at the client's rate."""
    made = self._stream.take(wave, last)
    if len(made):
      data = self._own.output_format.write(made)
      yield self._part('response.output_audio.delta', delta=formats.to_base64(data))

  def _end(self, status: str, details: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tells that it is over."""
    self._status, self._details, self.ended = status, details, True
    if self.item:
      self.item.status = 'completed' if status == 'completed' else 'incomplete'
      text = self.item.text
      if self._own.speaks:
        if status != 'cancelled':
          yield from self._sound(np.zeros(0, np.float32), last=True)
        yield self._part('response.output_audio_transcript.done', transcript=text)
        yield self._part('response.output_audio.done')
        part = {'type': 'audio', 'transcript': text}
      else:
        yield self._part('response.output_text.done', text=text)
        part = {'type': 'text', 'text': text}
      yield self._part('response.content_part.done', part=part)
      yield self._event(
        'response.output_item.done',
        response_id=self.ticket.name,
        output_index=0,
        item=self.item.to_json(),
      )
      yield from self._item_event('conversation.item.done')
    yield self._event('response.done', response=self.to_json())

  def _item_event(self, name: str) -> Iterator[dict[str, Any]]:
    if self._shown:
      yield self._event(name, item=self.item.to_json(), previous_item_id=self._before)

  def _part(self, name: str, **fields: Any) -> dict[str, Any]:
    """An event about the one part of the one item of the answer."""
    return self._event(
      name,
      response_id=self.ticket.name,
      item_id=self.item.item_id,
      output_index=0,
      content_index=0,
      **fields,
    )

  def _usage(self) -> dict[str, Any]:
    text, samples = self._question
    said = self.item.text if self.item else ''
    sounded = self.item.samples if self.item else 0
    return server_events.usage(
      text, -(-samples // _TOKEN), self._count_tokens(said) if said else 0, -(-sounded // _TOKEN)
    )
