"""What the server sends: the server events of the OpenAI Realtime protocol in its GA form, as JSON
objects.
"""

from collections.abc import Mapping
from typing import Any

from echox_jax.serving.commands import Failed
from echox_jax.serving.refusals import Refusal

_CONTENT = ('item_id', 'content_index')
_PART = ('response_id', 'item_id', 'output_index', 'content_index')
# Name of an event -> its fields beside `type` and `event_id`.
FIELDS: Mapping[str, tuple[str, ...]] = {
  'error': ('error',),
  'session.created': ('session',),
  'session.updated': ('session',),
  'input_audio_buffer.speech_started': ('audio_start_ms', 'item_id'),
  'input_audio_buffer.speech_stopped': ('audio_end_ms', 'item_id'),
  'input_audio_buffer.committed': ('item_id', 'previous_item_id'),
  'input_audio_buffer.cleared': (),
  'conversation.item.added': ('item', 'previous_item_id'),
  'conversation.item.done': ('item', 'previous_item_id'),
  'conversation.item.retrieved': ('item',),
  'conversation.item.input_audio_transcription.delta': (*_CONTENT, 'delta'),
  'conversation.item.input_audio_transcription.completed': (*_CONTENT, 'transcript', 'usage'),
  'conversation.item.input_audio_transcription.failed': (*_CONTENT, 'error'),
  'conversation.item.truncated': ('item_id', 'content_index', 'audio_end_ms'),
  'conversation.item.deleted': ('item_id',),
  'response.created': ('response',),
  'response.output_item.added': ('response_id', 'output_index', 'item'),
  'response.content_part.added': (*_PART, 'part'),
  'response.output_audio_transcript.delta': (*_PART, 'delta'),
  'response.output_audio_transcript.done': (*_PART, 'transcript'),
  'response.output_audio.delta': (*_PART, 'delta'),
  'response.output_audio.done': _PART,
  'response.output_text.delta': (*_PART, 'delta'),
  'response.output_text.done': (*_PART, 'text'),
  'response.content_part.done': (*_PART, 'part'),
  'response.output_item.done': ('response_id', 'output_index', 'item'),
  'response.done': ('response',),
  'output_audio_buffer.cleared': ('response_id',),
}


def make(name: str, event_id: str, **fields: Any) -> dict[str, Any]:
  """Makes an event.

  Raises:
    ValueError: the protocol has no such event, or other fields than it.
  """
  if set(fields) != set(FIELDS.get(name, ('',))):
    raise ValueError(f'{name} has the fields {FIELDS.get(name)}, not {tuple(fields)}')
  return {'type': name, 'event_id': event_id} | fields


def error(refusal: Refusal) -> dict[str, Any]:
  """The error object of a refusal, with the `event_id` of the message that was refused."""
  return {
    'type': refusal.kind,
    'code': refusal.code,
    'message': str(refusal),
    'param': refusal.param,
    'event_id': refusal.event_id,
  }


def failure(failed: Failed) -> dict[str, Any]:
  """Why there is no answer, or no transcript; in an answer the sentence is an addition to the
  protocol.
  """
  return {'type': failed.kind, 'code': failed.code, 'message': failed.message}


def item(item_id: str, role: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
  """An item of a conversation."""
  return {
    'id': item_id,
    'object': 'realtime.item',
    'type': 'message',
    'status': status,
    'role': role,
    'content': content,
  }


def usage(
  text_in: int, audio_in: int, text_out: int, audio_out: int, cached: int = 0
) -> dict[str, Any]:
  """Tokens of an answer. A token of audio is 100 ms of sound, rounded up."""
  return {
    'total_tokens': text_in + audio_in + text_out + audio_out,
    'input_tokens': text_in + audio_in,
    'output_tokens': text_out + audio_out,
    'input_token_details': {
      'text_tokens': text_in,
      'audio_tokens': audio_in,
      'image_tokens': 0,
      'cached_tokens': cached,
    },
    'output_token_details': {'text_tokens': text_out, 'audio_tokens': audio_out},
  }
