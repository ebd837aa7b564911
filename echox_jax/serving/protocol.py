"""What clients send: the client events of the OpenAI Realtime protocol in its GA form, checked.

Source: the types of the Python package `openai` 3.57. Names of the beta (`response.audio.delta`,
`modalities`, `input_audio_format`) are no part of it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
from typing import Any, Literal

from echox_jax.serving import fields, formats, settings
from echox_jax.serving.formats import AudioFormat
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.settings import Choosing

ROLES = {
  'user': ('input_text', 'input_audio'),
  'assistant': ('output_text', 'output_audio', 'text'),
  'system': ('input_text',),
}
_LONGEST_ID, _LONGEST_TEXT = 512, 100_000
_MOST_ITEMS = 100  # of an answer that brings its own context


@dataclasses.dataclass(frozen=True)
class Content:
  """A part of an item: text, sound, or sound and its transcript.

  Attributes:
    kind: `input_text`, `input_audio`, `output_text` or `output_audio`.
    text: what is written or said; empty where it is not known.
    audio: bytes in the input format of the session; None = no sound.
  """

  kind: str
  text: str = ''
  audio: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Message:
  """An item of a conversation, as a client makes it.

  Attributes:
    item_id: None = the server names it.
    role: `user`, `assistant` or `system`.
    content: its parts.
    reference: whether it only names an item that the session has.
  """

  item_id: str | None
  role: str = 'user'
  content: tuple[Content, ...] = ()
  reference: bool = False

  @property
  def is_spoken(self) -> bool:
    """Whether there is sound in it."""
    return any(part.audio is not None for part in self.content)


@dataclasses.dataclass(frozen=True)
class ResponseOptions:
  """How one answer differs from the settings of the session; None = it does not.

  Attributes:
    conversation: `auto`, or `none` = it stands beside the conversation.
    context: items that the answer is to be about, instead of the conversation.
    output_modalities, max_output_tokens, output_format, voice: as in `settings.Settings`.
    choosing: fields of `sampling`.
    metadata: shown again with the answer.
  """

  conversation: str = 'auto'
  context: tuple[Message, ...] | None = None
  output_modalities: tuple[str, ...] | None = None
  max_output_tokens: int | Literal['inf'] | None = None
  output_format: AudioFormat | None = None
  voice: str | None = None
  choosing: Mapping[str, Any] | None = None
  metadata: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class SessionUpdate:
  """Changes settings; `session` is checked by `settings.updated`."""

  event_id: str | None
  session: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Append:
  """Adds sound to the input audio buffer."""

  event_id: str | None
  audio: bytes


@dataclasses.dataclass(frozen=True)
class Commit:
  """Makes a question of the input audio buffer."""

  event_id: str | None


@dataclasses.dataclass(frozen=True)
class Clear:
  """Empties the input audio buffer."""

  event_id: str | None


@dataclasses.dataclass(frozen=True)
class CreateItem:
  """Adds an item; `after` names the one before it, `root` = it is the first, None = the last."""

  event_id: str | None
  message: Message
  after: str | None


@dataclasses.dataclass(frozen=True)
class TruncateItem:
  """Tells how much of a spoken answer was heard."""

  event_id: str | None
  item_id: str
  content_index: int
  audio_end_ms: int


@dataclasses.dataclass(frozen=True)
class DeleteItem:
  """Takes an item out of the conversation."""

  event_id: str | None
  item_id: str


@dataclasses.dataclass(frozen=True)
class RetrieveItem:
  """Asks what the server holds of an item."""

  event_id: str | None
  item_id: str


@dataclasses.dataclass(frozen=True)
class CreateResponse:
  """Asks for an answer."""

  event_id: str | None
  options: ResponseOptions


@dataclasses.dataclass(frozen=True)
class CancelResponse:
  """Stops the answer that is being made; `response_id` None = whichever it is."""

  event_id: str | None
  response_id: str | None


@dataclasses.dataclass(frozen=True)
class ClearOutput:
  """Stops the sound that has not been sent yet."""

  event_id: str | None


ClientEvent = (
  SessionUpdate
  | Append
  | Commit
  | Clear
  | CreateItem
  | TruncateItem
  | DeleteItem
  | RetrieveItem
  | CreateResponse
  | CancelResponse
  | ClearOutput
)


def parse(text: str) -> ClientEvent:
  """Reads a message of a client.

  Raises:
    Refusal: it is no event of the protocol; its `event_id` is that of the message, where it has
      one.
  """
  try:
    values = json.loads(text, parse_constant=_no_constant)
  except (ValueError, RecursionError) as error:
    raise Refusal(
      'the message is not valid JSON: send one JSON object in each message.', 'invalid_json'
    ) from error
  if not isinstance(values, dict):
    raise Refusal('the message is not a JSON object: send an event with a type.', 'invalid_json')
  event_id = values.get('event_id')
  try:
    if event_id is not None:
      event_id = fields.text(event_id, 'event_id', _LONGEST_ID)
    return _parse(event_id, values)
  except Refusal as refusal:
    if isinstance(event_id, str) and len(event_id) <= _LONGEST_ID:
      refusal.event_id = event_id
    raise


def _no_constant(name: str) -> float:
  raise ValueError(f'{name} is no number of JSON')


def _parse(event_id: str | None, values: Mapping[str, Any]) -> ClientEvent:
  kind = values.get('type')
  if not isinstance(kind, str) or kind not in _EVENTS:
    raise Refusal(
      f'there is no such event type: use one of {", ".join(_EVENTS)}.',
      'unknown_event_type' if isinstance(kind, str) else 'missing_event_type',
      param='type',
    )
  names, make = _EVENTS[kind]
  fields.known(values, ('type', 'event_id', *names), kind)
  return make(event_id, values)


def _append(event_id: str | None, values: Mapping[str, Any]) -> Append:
  return Append(event_id, formats.from_base64(values.get('audio'), 'audio'))


def _create_item(event_id: str | None, values: Mapping[str, Any]) -> CreateItem:
  after = values.get('previous_item_id')
  if after is not None:
    after = fields.text(after, 'previous_item_id', _LONGEST_ID)
  message = _message(values.get('item'), 'item')
  if message.reference:
    raise fields.wrong('item.type', "'message'")
  return CreateItem(event_id, message, after)


def _truncate_item(event_id: str | None, values: Mapping[str, Any]) -> TruncateItem:
  return TruncateItem(
    event_id,
    _item_id(values),
    fields.whole(values.get('content_index'), 'content_index', 0, 0),
    fields.whole(values.get('audio_end_ms'), 'audio_end_ms', 0, 2**31),
  )


def _create_response(event_id: str | None, values: Mapping[str, Any]) -> CreateResponse:
  where, own = 'response', fields.mapping(values.get('response'), 'response')
  fields.known(own, _RESPONSE, where)
  made: dict[str, Any] = {
    'conversation': fields.choice(
      own.get('conversation') or 'auto', f'{where}.conversation', ('auto', 'none')
    )
  }
  if own.get('input') is not None:
    found = fields.items(own['input'], f'{where}.input')
    if len(found) > _MOST_ITEMS:
      raise fields.wrong(f'{where}.input', f'a list of at most {_MOST_ITEMS} items')
    made['context'] = tuple(_message(item, f'{where}.input[{i}]') for i, item in enumerate(found))
  if own.get('output_modalities') is not None:
    made['output_modalities'] = settings.modalities(
      own['output_modalities'], f'{where}.output_modalities'
    )
  if own.get('max_output_tokens') is not None:
    made['max_output_tokens'] = settings.most_tokens(
      own['max_output_tokens'], f'{where}.max_output_tokens'
    )
  if own.get('sampling') is not None:
    settings.choosing(Choosing(), own['sampling'], f'{where}.sampling')
    made['choosing'] = own['sampling']
  if own.get('metadata') is not None:
    made['metadata'] = _metadata(own['metadata'], f'{where}.metadata')
  return CreateResponse(event_id, ResponseOptions(**made, **_response_sound(own.get('audio'))))


def _response_sound(value: Any) -> dict[str, Any]:
  made: dict[str, Any] = {}
  sound = fields.mapping(value, 'response.audio')
  fields.known(sound, ('output',), 'response.audio')
  where = 'response.audio.output'
  output = fields.mapping(sound.get('output'), where)
  fields.known(output, ('format', 'voice'), where)
  if output.get('format') is not None:
    made['output_format'] = formats.parse_format(output['format'], f'{where}.format')
  if output.get('voice') is not None:
    made['voice'] = settings.voice(output['voice'], f'{where}.voice')
  return made


def _metadata(value: Any, where: str) -> Mapping[str, Any]:
  """At most 16 pairs, as the protocol has it."""
  pairs = fields.mapping(value, where)
  if len(pairs) > 16:
    raise fields.wrong(where, 'an object of at most 16 strings')
  return {fields.text(k, where, 64): fields.text(v, f'{where}.{k}', 512) for k, v in pairs.items()}


def _message(value: Any, where: str) -> Message:
  values = fields.mapping(value, where)
  kind = values.get('type', 'message')
  item_id = values.get('id')
  if item_id is not None:
    item_id = fields.text(item_id, f'{where}.id', _LONGEST_ID)
  if kind == 'item_reference' and item_id is not None:
    return Message(item_id, reference=True)
  if kind != 'message':
    raise Refusal(
      f'{where}.type must be message: this model takes no other items, since it calls no tools.',
      'unsupported_item',
      param=f'{where}.type',
    )
  fields.known(values, ('id', 'object', 'type', 'status', 'role', 'content', 'phase'), where)
  role = fields.choice(values.get('role'), f'{where}.role', tuple(ROLES))
  content = fields.items(values.get('content'), f'{where}.content')
  if not 1 <= len(content) <= _MOST_ITEMS:
    raise fields.wrong(f'{where}.content', f'a list of 1 to {_MOST_ITEMS} parts')
  parts = (_content(part, ROLES[role], f'{where}.content[{i}]') for i, part in enumerate(content))
  return Message(item_id, role, tuple(parts))


def _content(value: Any, kinds: tuple[str, ...], where: str) -> Content:
  values = fields.mapping(value, where)
  kind = fields.choice(values.get('type'), f'{where}.type', kinds)
  fields.known(values, ('type', 'text', 'audio', 'transcript'), where)
  if kind in ('input_text', 'output_text', 'text'):
    text = fields.text(values.get('text'), f'{where}.text', _LONGEST_TEXT)
    return Content('output_text' if kind == 'text' else kind, text)
  said = fields.text(values.get('transcript') or '', f'{where}.transcript', _LONGEST_TEXT)
  if kind == 'input_audio':
    return Content(kind, said, formats.from_base64(values.get('audio'), f'{where}.audio'))
  return Content(kind, said)


def _item_id(values: Mapping[str, Any]) -> str:
  return fields.text(values.get('item_id'), 'item_id', _LONGEST_ID)


def _cancel(event_id: str | None, values: Mapping[str, Any]) -> CancelResponse:
  response_id = values.get('response_id')
  if response_id is not None:
    response_id = fields.text(response_id, 'response_id', _LONGEST_ID)
  return CancelResponse(event_id, response_id)


def _update(event_id: str | None, values: Mapping[str, Any]) -> SessionUpdate:
  return SessionUpdate(event_id, fields.mapping(values.get('session'), 'session'))


_RESPONSE = (
  *('conversation', 'input', 'output_modalities', 'instructions', 'max_output_tokens', 'metadata'),
  *('audio', 'prompt', 'tool_choice', 'tools', 'sampling', 'reasoning', 'parallel_tool_calls'),
)
# Name of an event -> (its fields, what reads it).
_EVENTS: dict[str, tuple[tuple[str, ...], Callable[[str | None, Mapping[str, Any]], Any]]] = {
  'session.update': (('session',), _update),
  'input_audio_buffer.append': (('audio',), _append),
  'input_audio_buffer.commit': ((), lambda event_id, _: Commit(event_id)),
  'input_audio_buffer.clear': ((), lambda event_id, _: Clear(event_id)),
  'conversation.item.create': (('item', 'previous_item_id'), _create_item),
  'conversation.item.truncate': (('item_id', 'content_index', 'audio_end_ms'), _truncate_item),
  'conversation.item.delete': (
    ('item_id',),
    lambda event_id, values: DeleteItem(event_id, _item_id(values)),
  ),
  'conversation.item.retrieve': (
    ('item_id',),
    lambda event_id, values: RetrieveItem(event_id, _item_id(values)),
  ),
  'response.create': (('response',), _create_response),
  'response.cancel': (('response_id',), _cancel),
  'output_audio_buffer.clear': ((), lambda event_id, _: ClearOutput(event_id)),
}
EVENT_NAMES = tuple(_EVENTS)
