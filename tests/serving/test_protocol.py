"""What clients send, event by event, and what is refused."""

import base64
import json

import pytest

from echox_jax.serving import protocol, server_events, settings
from echox_jax.serving.formats import AudioFormat
from echox_jax.serving.protocol import Content, Message
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.settings import Choosing, Settings
from echox_jax.serving.turns import TurnRule

SOUND = base64.b64encode(b'\x01\x00\x02\x00').decode()
USER = {'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Paris?'}]}


def parse(name, **fields):
  return protocol.parse(json.dumps({'type': name, 'event_id': 'e1', **fields}))


EVENTS = [
  (
    ('session.update', {'session': {'type': 'realtime'}}),
    protocol.SessionUpdate('e1', {'type': 'realtime'}),
  ),
  (('input_audio_buffer.append', {'audio': SOUND}), protocol.Append('e1', b'\x01\x00\x02\x00')),
  (('input_audio_buffer.commit', {}), protocol.Commit('e1')),
  (('input_audio_buffer.clear', {}), protocol.Clear('e1')),
  (
    ('conversation.item.create', {'item': USER, 'previous_item_id': 'root'}),
    protocol.CreateItem('e1', Message(None, 'user', (Content('input_text', 'Paris?'),)), 'root'),
  ),
  (
    ('conversation.item.truncate', {'item_id': 'i', 'content_index': 0, 'audio_end_ms': 70}),
    protocol.TruncateItem('e1', 'i', 0, 70),
  ),
  (('conversation.item.delete', {'item_id': 'i'}), protocol.DeleteItem('e1', 'i')),
  (('conversation.item.retrieve', {'item_id': 'i'}), protocol.RetrieveItem('e1', 'i')),
  (('response.create', {}), protocol.CreateResponse('e1', protocol.ResponseOptions())),
  (('response.cancel', {'response_id': 'r'}), protocol.CancelResponse('e1', 'r')),
  (('response.cancel', {}), protocol.CancelResponse('e1', None)),
  (('output_audio_buffer.clear', {}), protocol.ClearOutput('e1')),
]


@pytest.mark.parametrize('sent, event', EVENTS, ids=[name for (name, _), _ in EVENTS])
def test_every_client_event_is_read(sent, event):
  assert parse(sent[0], **sent[1]) == event


def test_no_client_event_is_forgotten():
  assert {name for (name, _), _ in EVENTS} == set(protocol.EVENT_NAMES)


def test_items_of_all_roles_are_read():
  said = {'type': 'output_audio', 'transcript': 'Oslo.'}
  item = {
    'type': 'message',
    'role': 'assistant',
    'content': [said],
    'id': 'a',
    'status': 'completed',
  }
  event = parse('conversation.item.create', item=item)
  assert event.message == Message('a', 'assistant', (Content('output_audio', 'Oslo.'),))
  spoken = {'type': 'input_audio', 'audio': SOUND}
  event = parse('conversation.item.create', item=USER | {'content': [spoken]})
  assert event.message.content == (Content('input_audio', '', b'\x01\x00\x02\x00'),)


def test_options_of_an_answer_are_read():
  response = {
    'conversation': 'none',
    'input': [USER, {'type': 'item_reference', 'id': 'i'}],
    'output_modalities': ['text'],
    'max_output_tokens': 7,
    'metadata': {'a': 'b'},
    'audio': {'output': {'format': {'type': 'audio/pcmu'}, 'voice': 'marin'}},
    'sampling': {'temperature': 0.5},
    'instructions': 'Be brief.',
  }
  options = parse('response.create', response=response).options
  assert options.conversation == 'none' and options.output_modalities == ('text',)
  assert options.context[1] == Message('i', reference=True)
  assert options.max_output_tokens == 7 and options.metadata == {'a': 'b'}
  assert options.output_format == AudioFormat('audio/pcmu', 8000) and options.voice == 'marin'
  assert options.choosing == {'temperature': 0.5}


TRUNCATE = '{"type": "conversation.item.truncate", "item_id": "i", "content_index": %d%s}'
BAD = {
  'no_json': '{',
  'deep': '[' * 100_000,
  'list': '[]',
  'nothing': '',
  'nan': '{"type": "session.update", "session": {"max_output_tokens": NaN}}',
  'no_type': '{"event_id": "e1"}',
  'number_as_type': '{"type": 7}',
  'unknown': '{"type": "response.make", "event_id": "e1"}',
  'beta_name': '{"type": "transcription_session.update"}',
  'unknown_field': '{"type": "input_audio_buffer.commit", "audio": ""}',
  'no_audio': '{"type": "input_audio_buffer.append"}',
  'bad_base64': '{"type": "input_audio_buffer.append", "audio": "AAA"}',
  'surrogate': json.dumps(
    {
      'type': 'conversation.item.create',
      'item': {**USER, 'content': [{'type': 'input_text', 'text': '\ud800'}]},
    }
  ),
  'event_id': '{"type": "response.cancel", "event_id": 7}',
  'no_item': '{"type": "conversation.item.create"}',
  'tool': '{"type": "conversation.item.create", "item": {"type": "function_call_output"}}',
  'role': json.dumps({'type': 'conversation.item.create', 'item': {**USER, 'role': 'robot'}}),
  'empty_content': json.dumps(
    {'type': 'conversation.item.create', 'item': {**USER, 'content': []}}
  ),
  'assistant_part': json.dumps(
    {'type': 'conversation.item.create', 'item': {**USER, 'role': 'assistant'}}
  ),
  'negative_end': TRUNCATE % (0, ', "audio_end_ms": -1'),
  'second_part': TRUNCATE % (1, ', "audio_end_ms": 1'),
  'no_end': TRUNCATE % (0, ''),
  'both': '{"type": "response.create", "response": {"conversation": "other"}}',
  'no_modality': '{"type": "response.create", "response": {"output_modalities": []}}',
  'tokens': '{"type": "response.create", "response": {"max_output_tokens": 0}}',
  'truth_as_number': '{"type": "response.create", "response": {"max_output_tokens": true}}',
  'sampling': '{"type": "response.create", "response": {"sampling": {"temperature": -1}}}',
  'huge_number': '{"type": "response.create", "response": {"sampling": {"temperature": 1%s}}}'
  % ('0' * 400),
  'beta_modalities': '{"type": "response.create", "response": {"modalities": ["text"]}}',
}


@pytest.mark.parametrize('text', BAD.values(), ids=BAD)
def test_bad_messages_are_refused_in_one_sentence(text):
  with pytest.raises(Refusal) as caught:
    protocol.parse(text)
  assert '\n' not in str(caught.value) and str(caught.value).endswith('.') and caught.value.code


def test_a_refusal_repeats_nothing_long():
  """Else a message of a client would fill what waits to be sent to it."""
  long = 'x' * 100_000
  for text in (
    json.dumps({'type': 'input_audio_buffer.commit', long: 1}),
    json.dumps({'type': 'input_audio_buffer.commit', 'event_id': long}),
    json.dumps({'type': long}),
  ):
    with pytest.raises(Refusal) as caught:
      protocol.parse(text)
    told = server_events.error(caught.value)
    assert len(json.dumps(told)) < 1000


def test_a_refusal_names_the_event():
  with pytest.raises(Refusal) as caught:
    parse('response.make')
  assert server_events.error(caught.value) == {
    'type': 'invalid_request_error',
    'code': 'unknown_event_type',
    'message': str(caught.value),
    'param': 'type',
    'event_id': 'e1',
  }


def test_only_the_fields_that_are_there_change():
  before = Settings('m')
  after = settings.updated(
    before,
    {
      'type': 'realtime',
      'output_modalities': ['text'],
      'audio': {'input': {'turn_detection': {'type': 'server_vad', 'silence_duration_ms': 200}}},
    },
  )
  assert after.output_modalities == ('text',) and after.turn_rule == TurnRule(
    silence_duration_ms=200
  )
  assert after.input_format == before.input_format and after.voice == before.voice
  again = settings.updated(after, {'audio': {'output': {'format': {'type': 'audio/pcma'}}}})
  assert again.output_modalities == ('text',) and again.turn_rule == after.turn_rule
  assert again.output_format == AudioFormat('audio/pcma', 8000)
  later = settings.updated(again, {'audio': {'input': {'turn_detection': {'threshold': 0.7}}}})
  assert later.turn_rule == TurnRule(threshold=0.7, silence_duration_ms=200)


def test_null_clears():
  settled = settings.updated(
    Settings('m'),
    {
      'instructions': 'Be brief.',
      'max_output_tokens': 9,
      'tools': [{'type': 'function'}],
      'sampling': {'seed': 3},
      'audio': {
        'input': {'format': {'type': 'audio/pcmu'}, 'noise_reduction': {'type': 'near_field'}}
      },
    },
  )
  assert settled.to_json('s')['tools'] == [{'type': 'function'}] and settled.choosing.seed == 3
  cleared = settings.updated(
    settled,
    {
      'instructions': None,
      'max_output_tokens': None,
      'tools': None,
      'sampling': None,
      'audio': {'input': {'format': None, 'noise_reduction': None, 'turn_detection': None}},
    },
  )
  assert (
    cleared.turn_rule is None and cleared.to_json('s')['audio']['input']['turn_detection'] is None
  )
  assert (cleared.instructions, cleared.max_output_tokens) == ('', 'inf')
  assert cleared.choosing == Choosing() and cleared.input_format == AudioFormat()
  assert cleared.noise_reduction is None and cleared.to_json('s')['tools'] == []


def test_semantic_turns_are_judged_by_silence():
  eager = settings.updated(
    Settings('m'),
    {'audio': {'input': {'turn_detection': {'type': 'semantic_vad', 'eagerness': 'high'}}}},
  )
  assert eager.turn_rule.silence_duration_ms == 300
  shown = eager.to_json('s')['audio']['input']['turn_detection']
  assert shown['type'] == 'semantic_vad' and shown['eagerness'] == 'high'
  back = settings.updated(eager, {'audio': {'input': {'turn_detection': {'type': 'server_vad'}}}})
  assert back.turn_rule == TurnRule()


@pytest.mark.parametrize(
  'session',
  [
    [],
    {'type': 'transcription'},
    {'voice': 'marin'},  # the name of the beta
    {'input_audio_format': 'pcm16'},
    {'output_modalities': ['video']},
    {'instructions': 7},
    {'max_output_tokens': 5000},
    {'sampling': {'warmth': 1}},
    {'sampling': {'top_p': 0}},
    {'audio': []},
    {'audio': {'input': {'turn_detection': {'type': 'none'}}}},
    {'audio': {'input': {'turn_detection': {'threshold': 2}}}},
    {'audio': {'input': {'turn_detection': {'silence_duration_ms': 1.5}}}},
    {'audio': {'input': {'turn_detection': {'create_response': 1}}}},
    {'audio': {'output': {'speed': 1.5}}},
  ],
)
def test_bad_settings_are_refused(session):
  with pytest.raises(Refusal) as caught:
    settings.updated(Settings('m'), session)
  assert '\n' not in str(caught.value)


def test_an_event_has_the_fields_of_the_protocol():
  assert server_events.make('input_audio_buffer.cleared', 'e') == {
    'type': 'input_audio_buffer.cleared',
    'event_id': 'e',
  }
  with pytest.raises(ValueError, match='has the fields'):
    server_events.make('response.audio.delta', 'e', delta='')
  with pytest.raises(ValueError, match='has the fields'):
    server_events.make('conversation.item.deleted', 'e')
