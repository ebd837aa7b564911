"""One session of the Realtime protocol: a state machine without sockets, threads and clocks.

Messages of the client and events of the engine go in; what comes out, in order, are events for the
client and commands for the engine.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import secrets
from typing import Any

import numpy as np

from echox_jax import rates
from echox_jax.inference.answering import Request
from echox_jax.inference.events import Event
from echox_jax.serving import protocol, server_events, settings, turns
from echox_jax.serving.commands import (
  Ask,
  Command,
  Delete,
  DropSound,
  Failed,
  Hear,
  Ticket,
  Transcribe,
  Transcript,
  Truncate,
)
from echox_jax.serving.items import Item, Items
from echox_jax.serving.limits import Limits
from echox_jax.serving.listening import Listener, SpeechPaused, SpeechStarted
from echox_jax.serving.protocol import ResponseOptions
from echox_jax.serving.questions import as_item, context_of, question_of
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.response import Response
from echox_jax.serving.settings import Settings

Output = dict[str, Any] | Command


def random_id(prefix: str) -> str:
  """Makes a name that nobody can guess."""
  return f'{prefix}_{secrets.token_hex(12)}'


@dataclasses.dataclass(frozen=True)
class Abilities:
  """What a session has to know of the model.

  Attributes:
    name: for the client.
    hears, speaks: whether it takes spoken questions, and gives spoken answers.
    audio_seconds: the longest question that it hears.
    count_tokens: tokens of a text.
  """

  name: str
  hears: bool
  speaks: bool
  audio_seconds: float
  count_tokens: Callable[[str], int]


class Session:
  """The state of one session.

  Args:
    abilities: of the model.
    limits: of the server.
    make_detector: makes what hears voices.
    new_id: prefix -> a new name.
  """

  def __init__(
    self,
    abilities: Abilities,
    limits: Limits,
    make_detector: Callable[[], turns.Detector] = turns.silero,
    new_id: Callable[[str], str] = random_id,
  ):
    self._abilities, self._new_id = abilities, new_id
    self.session_id, self._conversation_id = new_id('sess'), new_id('conv')
    self._settings = Settings(
      abilities.name,
      output_modalities=('audio',) if abilities.speaks else ('text',),
      turn_rule=turns.TurnRule() if abilities.hears else None,
    )
    self._most_seconds = min(abilities.audio_seconds, limits.audio_seconds)
    self._listener = Listener(
      self._settings.input_format, self._settings.turn_rule, self._most_seconds, make_detector
    )
    self._items = Items(limits.items)
    self._response: Response | None = None
    self._speech_item: str | None = None  # name of the question that is being spoken
    self._answer_next = False  # a question waits for the end of the answer before it
    self._later: list[Command] = []  # for the engine, when the answer has ended
    # items whose words are asked for; the engine has the first one
    self._unheard: collections.deque[tuple[Item, Transcribe]] = collections.deque()
    self._handlers: dict[type, Callable[[Any], Iterable[Output]]] = {
      protocol.SessionUpdate: self._update,
      protocol.Commit: self._commit,
      protocol.Clear: self._clear,
      protocol.CreateItem: self._create_item,
      protocol.TruncateItem: self._truncate,
      protocol.DeleteItem: self._delete,
      protocol.RetrieveItem: self._retrieve,
      protocol.CreateResponse: self._create_response,
      protocol.CancelResponse: self._cancel_response,
      protocol.ClearOutput: self._clear_output,
    }

  # What goes in

  def open(self) -> list[Output]:
    """Gives what a client hears first."""
    return [self._event('session.created', session=self._settings.to_json(self.session_id))]

  def client(self, text: str) -> Iterator[list[Output]]:
    """Takes a message of the client. Sound is taken piece by piece, so that others can do something
    in between.
    """
    event_id = None
    try:
      event = protocol.parse(text)
      event_id = event.event_id
      if isinstance(event, protocol.Append):
        self._check_hearing()
        for heard in self._listener.take(event.audio):
          told = (self._until_refused(self._heard(own), event_id) for own in heard)
          yield [output for outputs in told for output in outputs]
      else:
        yield self._until_refused(self._handlers[type(event)](event), event_id)
    except Refusal as refusal:
      refusal.event_id = refusal.event_id or event_id
      yield [self.refused(refusal)]

  def _until_refused(self, outputs: Iterable[Output], event_id: str | None) -> list[Output]:
    """Gathers outputs; those before a refusal stand."""
    made: list[Output] = []
    try:
      made.extend(outputs)
    except Refusal as refusal:
      refusal.event_id = event_id
      made.append(self.refused(refusal))
    return made

  def refused(self, refusal: Refusal) -> dict[str, Any]:
    """Makes the error event of a refusal."""
    return self._event('error', error=server_events.error(refusal))

  def engine(self, cause: Ticket | Transcribe, event: Event | Transcript | Failed) -> list[Output]:
    """Takes an event of an answer, or a transcript; what is left of a cancelled answer is nothing
    to anybody.
    """
    if isinstance(cause, Transcribe):
      return list(self._transcribed(event))
    if self._response is None or self._response.ticket is not cause:
      return []
    outputs: list[Output] = list(self._response.take(event))
    if self._response.ended:
      outputs += self._ended()
    return outputs

  @property
  def is_answering(self) -> bool:
    """Whether an answer is being made."""
    return self._response is not None

  def stop(self) -> list[Output]:
    """Ends the answer that is being made, since the server stops; none follows."""
    self._answer_next = False
    return self._cancel('client_cancelled')

  # Settings and sound

  def _update(self, event: protocol.SessionUpdate) -> Iterable[Output]:
    changed = settings.updated(self._settings, event.session)
    if changed.transcription is not None and not self._abilities.hears:
      raise Refusal(
        'this model only reads text, so that there is nothing to transcribe: leave out '
        'session.audio.input.transcription.',
        'unsupported_value',
        param='session.audio.input.transcription',
      )
    if changed.speaks and not self._abilities.speaks:
      changed = dataclasses.replace(changed, output_modalities=('text',))
    if not self._abilities.hears:
      changed = dataclasses.replace(changed, turn_rule=None)
    self._settings = changed
    self._listener.configure(changed.input_format, changed.turn_rule)
    yield self._event('session.updated', session=changed.to_json(self.session_id))

  def _check_hearing(self) -> None:
    if not self._abilities.hears:
      raise Refusal(
        'this model only reads text: send conversation.item.create with input_text.',
        'unsupported_modality',
      )

  def _heard(self, event: Any) -> Iterator[Output]:
    """Tells of a voice: it interrupts an answer, is heard by the engine in a pause, and asks for an
    answer by its end.
    """
    rule = self._settings.turn_rule
    if isinstance(event, SpeechStarted):
      self._speech_item = self._new_id('item')
      yield self._event(
        'input_audio_buffer.speech_started', audio_start_ms=event.at_ms, item_id=self._speech_item
      )
      if rule.interrupt_response and self._response and self._response.lasting:
        yield from self._cancel('turn_detected')
      return
    if isinstance(event, SpeechPaused):
      if rule.create_response:
        yield Hear(event.wave)
      return
    name, self._speech_item = self._speech_item, None
    yield self._event('input_audio_buffer.speech_stopped', audio_end_ms=event.at_ms, item_id=name)
    yield from self._ask_aloud(name, event.wave)
    if not rule.create_response:
      return
    if self._response:
      self._answer_next = True
    else:
      yield from self._respond(ResponseOptions())

  def _ask_aloud(self, name: str, wave: np.ndarray) -> Iterator[Output]:
    """Makes an item of what was said."""
    item = Item(name, 'user', spoken=True, wave=wave)
    self._check_room(item)
    before = self._items.add(item)
    yield self._event('input_audio_buffer.committed', item_id=name, previous_item_id=before)
    yield from self._told(item, before)
    if self._settings.transcription is not None:
      self._unheard.append((item, Transcribe(wave)))
      if len(self._unheard) == 1:
        yield self._unheard[0][1]

  def _transcribed(self, event: Transcript | Failed) -> Iterator[Output]:
    """Tells what was said in the first item of which the words were asked for, and asks for those
    of the next one.
    """
    item, asked = self._unheard.popleft()
    if self._unheard:
      yield self._unheard[0][1]
    if item not in self._items:
      return
    named, kind = {'item_id': item.item_id, 'content_index': 0}, 'input_audio_transcription'
    if isinstance(event, Failed):
      error = server_events.failure(event)
      yield self._event(f'conversation.item.{kind}.failed', **named, error=error)
      return
    item.transcript = event.text
    if event.text:
      yield self._event(f'conversation.item.{kind}.delta', **named, delta=event.text)
    seconds = round(len(asked.wave) / rates.SAMPLE_RATE, 3)
    yield self._event(
      f'conversation.item.{kind}.completed',
      **named,
      transcript=event.text,
      usage={'type': 'duration', 'seconds': seconds},
    )

  def _commit(self, event: protocol.Commit) -> Iterable[Output]:
    self._check_hearing()
    name, self._speech_item = self._speech_item or self._new_id('item'), None
    return self._ask_aloud(name, self._listener.commit())

  def _clear(self, event: protocol.Clear) -> Iterable[Output]:
    self._listener.clear()
    self._speech_item = None
    yield self._event('input_audio_buffer.cleared')

  # Items

  def _create_item(self, event: protocol.CreateItem) -> Iterator[Output]:
    name = event.message.item_id or self._new_id('item')
    if self._items.has(name):
      raise Refusal(
        'there is an item of that id already: choose another, or leave it out.',
        'item_create_duplicate_item_id',
        param='item.id',
      )
    if event.message.is_spoken:
      self._check_hearing()
    item = as_item(name, event.message, self._settings.input_format, self._most_seconds)
    self._check_room(item)
    yield from self._told(item, self._items.add(item, event.after))

  def _check_room(self, item: Item) -> None:
    """Refuses sound that no answer could be about any more."""
    waiting = [*self._items.unanswered(), item]
    held = sum(len(own.wave) for own in waiting if own.wave is not None) / rates.SAMPLE_RATE
    if held > self._most_seconds:
      raise Refusal(
        f'{held:.1f} s of speech wait for an answer, but this model hears at most '
        f'{self._most_seconds:g} s: ask for an answer first, or say less.',
        'audio_too_long',
      )

  def _told(self, item: Item, before: str | None) -> Iterator[Output]:
    """Tells of an item that is whole."""
    for name in ('conversation.item.added', 'conversation.item.done'):
      yield self._event(name, item=item.to_json(), previous_item_id=before)

  def _truncate(self, event: protocol.TruncateItem) -> Iterator[Output]:
    item = self._items.find(event.item_id)
    if item.role != 'assistant' or not item.spoken or item.ticket is None:
      raise Refusal(
        'only spoken answers of the model can be truncated: name one of those.',
        'invalid_item',
        param='item_id',
      )
    # clients that go by the clock may name a time behind the end: they have heard all of it
    heard = event.audio_end_ms * rates.SAMPLE_RATE // 1000
    if heard < item.samples:
      item.samples, item.whole = heard, False
      yield from self._when_free(Truncate(item.ticket, heard))
    yield self._event(
      'conversation.item.truncated',
      item_id=item.item_id,
      content_index=event.content_index,
      audio_end_ms=event.audio_end_ms,
    )

  def _delete(self, event: protocol.DeleteItem) -> Iterator[Output]:
    item = self._items.find(event.item_id)
    if self._response and item.ticket is self._response.ticket:
      raise Refusal(
        'this item is part of the answer that is being made: cancel it first.',
        'item_in_use',
        param='item_id',
      )
    self._items.remove(item)
    # the first one is with the engine
    kept = (own for at, own in enumerate(self._unheard) if not at or own[0] is not item)
    self._unheard = collections.deque(kept)
    if item.ticket is not None:
      answer = item.role == 'assistant'
      yield from self._when_free(Truncate(item.ticket, 0) if answer else Delete(item.ticket))
    yield self._event('conversation.item.deleted', item_id=item.item_id)

  def _retrieve(self, event: protocol.RetrieveItem) -> Iterator[Output]:
    item = self._items.find(event.item_id)
    yield self._event('conversation.item.retrieved', item=item.to_json())

  # Answers

  def _create_response(self, event: protocol.CreateResponse) -> Iterator[Output]:
    if self._response:
      raise Refusal(
        'an answer is being made already: wait for response.done, or cancel it.',
        'conversation_already_has_active_response',
      )
    return self._respond(event.options)

  def _respond(self, options: ResponseOptions) -> Iterator[Output]:
    """Asks the engine for an answer to all questions that wait."""
    own = self._own_settings(options)
    ticket = Ticket(self._new_id('resp'))
    lasting = options.conversation == 'auto' and options.context is None
    if options.context is not None:
      asked, earlier = context_of(
        options.context, self._items, own.input_format, self._most_seconds
      )
    elif lasting:
      asked, earlier = question_of(self._items)
    else:  # what is asked beside the conversation waits for an answer in it as before
      asked, earlier = question_of(dataclasses.replace(item) for item in self._items)
    wave, text = asked.wave, asked.text
    request = Request(
      wave,
      text,
      max_tokens=None if own.max_output_tokens == 'inf' else own.max_output_tokens,
      speaks=own.speaks,
      **dataclasses.asdict(own.choosing),
    )
    if lasting:
      for item in asked.items:
        item.ticket, item.wave = ticket, None
    self._response = Response(
      ticket,
      own,
      lasting=lasting,
      shown=options.conversation == 'auto',
      conversation_id=self._conversation_id,
      metadata=options.metadata,
      question=(
        self._abilities.count_tokens(text) if text else 0,
        0 if wave is None else len(wave),
      ),
      count_tokens=self._abilities.count_tokens,
      items=self._items,
      new_id=self._new_id,
      event=self._event,
    )
    yield self._event('response.created', response=self._response.to_json())
    yield Ask(ticket, request, lasting, earlier)

  def _own_settings(self, options: ResponseOptions) -> Settings:
    """The settings of the session, changed by what is said of one answer."""
    names = ('output_modalities', 'max_output_tokens', 'output_format', 'voice')
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not self._abilities.speaks:
      changes['output_modalities'] = ('text',)
    if options.choosing is not None:
      changes['choosing'] = settings.choosing(
        self._settings.choosing, options.choosing, 'response.sampling'
      )
    return dataclasses.replace(self._settings, **changes)

  def _cancel_response(self, event: protocol.CancelResponse) -> Iterable[Output]:
    wanted = event.response_id
    if self._response is None or wanted not in (None, self._response.ticket.name):
      # clients that cancel what a voice has cancelled already know the refusal by its first words
      raise Refusal(
        'Cancellation failed: no such answer is being made, or it has ended already.',
        'response_cancel_not_active',
      )
    return self._cancel('client_cancelled')

  def _clear_output(self, event: protocol.ClearOutput) -> Iterator[Output]:
    name = self._response.ticket.name if self._response else ''
    if self._response:
      yield from self._cancel('client_cancelled')
    yield DropSound()
    yield self._event('output_audio_buffer.cleared', response_id=name)

  def _cancel(self, reason: str) -> list[Output]:
    """Ends the answer that is being made, if there is one."""
    if self._response is None:
      return []
    return [DropSound(), *self._response.cancel(reason), *self._ended()]

  def _ended(self) -> list[Output]:
    """Does what waited for the end of an answer."""
    self._response = None
    outputs: list[Output] = [*self._later]
    self._later.clear()
    wanted, self._answer_next = self._answer_next, False
    if wanted and self._items.unanswered():
      outputs += self._until_refused(self._respond(ResponseOptions()), None)
    return outputs

  def _when_free(self, command: Command) -> Iterator[Output]:
    """Gives a command about earlier turns, at once or when the answer has ended."""
    if self._response and self._response.lasting:
      self._later.append(command)
    else:
      yield command

  def _event(self, name: str, **fields: Any) -> dict[str, Any]:
    """Makes an event with a name of its own."""
    return server_events.make(name, self._new_id('event'), **fields)
