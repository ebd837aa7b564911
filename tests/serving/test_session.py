"""A session without a server: which events come, in which order, and what the engine is asked."""

import base64
import json

import numpy as np
import pytest

from echox_jax.serving import formats
from echox_jax.serving.commands import Ask, Cancel, Delete, DropSound, Failed, Truncate
from echox_jax.serving.limits import Limits
from tests.helpers import serving as helpers
from tests.helpers.serving import (
  MANUAL,
  commands,
  done,
  events,
  loud,
  names,
  pcm,
  quiet,
  send,
  sound,
  take,
  text,
)

BEGIN = ['response.output_item.added', 'conversation.item.added', 'response.content_part.added']
END = [
  'response.output_audio_transcript.done',
  'response.output_audio.done',
  'response.content_part.done',
  'response.output_item.done',
  'conversation.item.done',
  'response.done',
]
ITEM = ['conversation.item.added', 'conversation.item.done']


def write(session, question='Paris?', **fields):
  item = {'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': question}]}
  return send(session, 'conversation.item.create', item=item | fields)


def ask(session, question='Paris?', **response):
  """Asks in writing; gives the ticket of the answer."""
  write(session, question)
  return commands(send(session, 'response.create', response=response))[0].ticket


def test_a_session_opens_with_its_settings(session):
  (event,) = session.open()
  assert event['type'] == 'session.created' and event['session']['type'] == 'realtime'
  assert event['session']['output_modalities'] == ['audio']
  assert event['session']['audio']['input']['turn_detection']['type'] == 'server_vad'
  json.dumps(event)


def test_a_spoken_turn_by_commit(manual):
  assert send(manual, 'input_audio_buffer.append', audio=pcm(loud(1.0))) == []
  told = send(manual, 'input_audio_buffer.commit')
  assert names(told) == ['input_audio_buffer.committed', *ITEM]
  assert told[0]['item_id'] == told[1]['item']['id'] and told[0]['previous_item_id'] is None
  created, command = send(manual, 'response.create')
  assert created['type'] == 'response.created' and created['response']['status'] == 'in_progress'
  assert isinstance(command, Ask) and command.lasting and command.request.speaks
  assert len(command.request.wave) == 16000
  expected = loud(1.0, 16000)
  np.testing.assert_allclose(command.request.wave[500:-500], expected[500:-500], atol=2e-3)
  told = take(manual, command.ticket, text('It is'), text(' Oslo.'), sound(), sound(), done())
  deltas = ['response.output_audio_transcript.delta'] * 2 + ['response.output_audio.delta'] * 3
  assert names(told) == [*BEGIN, *deltas, *END]
  assert len({event['event_id'] for event in told}) == len(told)
  final = told[-1]['response']
  assert final['status'] == 'completed'
  assert final['output'][0]['content'] == [{'type': 'output_audio', 'transcript': 'It is Oslo.'}]
  assert final['usage']['input_token_details']['audio_tokens'] == 10
  assert final['usage']['output_token_details'] == {'text_tokens': 3, 'audio_tokens': 8}
  heard = b''.join(
    base64.b64decode(event['delta']) for event in events(told, 'response.output_audio.delta')
  )
  assert len(heard) == 2 * 24000 * 8 // 10
  json.dumps(told)


def test_a_spoken_turn_by_voice(session):
  told = send(session, 'input_audio_buffer.append', audio=pcm(np.concatenate([quiet(1), loud(1)])))
  assert names(told) == ['input_audio_buffer.speech_started']
  assert 650 <= told[0]['audio_start_ms'] <= 750  # 300 ms before the voice
  more = send(session, 'input_audio_buffer.append', audio=pcm(quiet(1)))
  assert names(more) == [
    'Hear',
    'input_audio_buffer.speech_stopped',
    'input_audio_buffer.committed',
    *ITEM,
    'response.created',
    'Ask',
  ]
  heard = more.pop(0)
  assert heard.wave is more[-1].request.wave
  assert 2450 <= more[0]['audio_end_ms'] <= 2600
  assert told[0]['item_id'] == more[0]['item_id'] == more[1]['item_id'] == more[2]['item']['id']
  seconds = len(more[-1].request.wave) / 16000
  assert 1.4 <= seconds <= 1.6  # padding, voice, and 200 ms of the silence behind it


def test_a_pause_may_not_be_the_end(session):
  wave = np.concatenate([loud(1), quiet(0.3), loud(1), quiet(1)])
  told = send(session, 'input_audio_buffer.append', audio=pcm(wave))
  assert names(told)[:4] == [
    'input_audio_buffer.speech_started',
    'Hear',
    'Hear',
    'input_audio_buffer.speech_stopped',
  ]
  assert told[2].wave is told[-1].request.wave
  assert len(told[2].wave) - len(told[1].wave) == pytest.approx(1.3 * 16000, abs=512)


def test_a_click_is_no_voice(session):
  wave = np.concatenate([quiet(0.5), loud(0.01), quiet(0.5), loud(0.01), quiet(1)])
  assert send(session, 'input_audio_buffer.append', audio=pcm(wave)) == []


def test_sound_comes_in_any_pieces(session):
  wave = np.concatenate([quiet(0.4), loud(1), quiet(1)])
  told = []
  for at in range(0, len(wave), 331):
    told += send(session, 'input_audio_buffer.append', audio=pcm(wave[at : at + 331]))
  whole = send(helpers.session(), 'input_audio_buffer.append', audio=pcm(wave))
  assert names(told) == names(whole)
  np.testing.assert_allclose(told[-1].request.wave, whole[-1].request.wave, atol=1e-3)


def test_a_written_turn(session):
  ticket = ask(session, 'What is the capital?', output_modalities=['text'])
  told = take(session, ticket, text('Os'), text('lo.'), done('Oslo.'))
  assert names(told) == [
    *BEGIN,
    'response.output_text.delta',
    'response.output_text.delta',
    'response.output_text.done',
    *END[2:],
  ]
  assert told[-1]['response']['output'][0]['content'] == [{'type': 'output_text', 'text': 'Oslo.'}]
  assert told[1]['previous_item_id'] == 'item_1'
  assert told[-1]['response']['usage']['input_tokens'] == 4


def test_the_question_is_text_and_sampling(session):
  send(session, 'session.update', session={'sampling': {'temperature': 0.5, 'seed': 4}})
  write(session, 'One?')
  write(session, 'Two?')
  made = send(
    session, 'response.create', response={'sampling': {'seed': 9}, 'max_output_tokens': 12}
  )
  request = made[-1].request
  assert request.text == 'One?\nTwo?' and request.wave is None and request.max_tokens == 12
  assert (request.temperature, request.seed) == (0.5, 9)


def test_barge_in_by_voice(session):
  ticket = ask(session)
  take(session, ticket, text(), sound())
  told = send(session, 'input_audio_buffer.append', audio=pcm(loud(0.5)))
  assert names(told) == ['input_audio_buffer.speech_started', 'DropSound', 'Cancel', *END]
  assert told[-1]['response']['status_details'] == {'type': 'cancelled', 'reason': 'turn_detected'}
  assert told[-1]['response']['output'][0]['status'] == 'incomplete'
  assert take(session, ticket, text('late'), sound(), done()) == []
  more = send(session, 'input_audio_buffer.append', audio=pcm(quiet(1)))
  assert isinstance(more[-1], Ask) and more[-1].ticket is not ticket


def voice_beside(session):
  """A voice that must not interrupt, while an answer is made: the ticket, and what comes of it."""
  rule = {'turn_detection': {'interrupt_response': False}}
  send(session, 'session.update', session={'audio': {'input': rule}})
  wave = np.concatenate([loud(0.5), quiet(1)])
  return ask(session), send(session, 'input_audio_buffer.append', audio=pcm(wave))


def test_a_voice_that_must_not_interrupt_is_answered_afterwards(session):
  ticket, told = voice_beside(session)
  assert 'Cancel' not in names(told) and 'response.created' not in names(told)
  after = take(session, ticket, text(), done())
  assert names(after)[-3:] == ['response.done', 'response.created', 'Ask']


def test_a_voice_may_go_without_an_answer(session):
  rule = {'turn_detection': {'create_response': False}}
  send(session, 'session.update', session={'audio': {'input': rule}})
  told = send(session, 'input_audio_buffer.append', audio=pcm(np.concatenate([loud(1), quiet(1)])))
  assert names(told)[-1] == 'conversation.item.done' and not commands(told)


def test_cancel(session):
  ticket = ask(session)
  take(session, ticket, text())
  told = send(session, 'response.cancel')
  assert [type(c) for c in commands(told)] == [DropSound, Cancel] and told[1].ticket is ticket
  assert told[-1]['response']['status_details']['reason'] == 'client_cancelled'
  again = send(session, 'response.cancel', event_id='e7')
  assert again[0]['error']['code'] == 'response_cancel_not_active'
  assert again[0]['error']['event_id'] == 'e7'
  # by these words agents of LiveKit's know that there was nothing left to cancel
  assert again[0]['error']['message'].startswith('Cancellation failed')


def test_cancel_before_anything_was_said(session):
  ask(session)
  told = send(session, 'response.cancel')
  assert names(told) == ['DropSound', 'Cancel', 'response.done']
  assert told[-1]['response']['output'] == []


def test_output_audio_buffer_clear(session):
  ticket = ask(session)
  take(session, ticket, text(), sound())
  told = send(session, 'output_audio_buffer.clear')
  assert names(told)[-1] == 'output_audio_buffer.cleared' and told[-1]['response_id'] == ticket.name
  assert 'DropSound' in names(told) and 'response.done' in names(told)


def test_truncate(session):
  ticket = ask(session)
  item = take(session, ticket, text(), sound(1.0), done())[0]['item']['id']
  told = send(
    session, 'conversation.item.truncate', item_id=item, content_index=0, audio_end_ms=250
  )
  assert names(told) == ['Truncate', 'conversation.item.truncated']
  assert told[0] == Truncate(ticket, 4000) and told[1]['audio_end_ms'] == 250
  (found,) = send(session, 'conversation.item.retrieve', item_id=item)
  assert found['item']['content'] == [{'type': 'output_audio', 'transcript': ''}]
  told = send(
    session, 'conversation.item.truncate', item_id=item, content_index=0, audio_end_ms=300
  )
  assert names(told) == ['conversation.item.truncated']  # no more of it is there


def test_only_spoken_answers_are_truncated(session):
  write(session)
  (error,) = send(
    session, 'conversation.item.truncate', item_id='item_1', content_index=0, audio_end_ms=1
  )
  assert error['error']['code'] == 'invalid_item'


def test_an_answer_that_is_being_made_is_truncated_at_its_end(session):
  """Some clients truncate first and cancel then."""
  ticket = ask(session)
  item = take(session, ticket, text(), sound(1.0))[0]['item']['id']
  told = send(
    session, 'conversation.item.truncate', item_id=item, content_index=0, audio_end_ms=100
  )
  assert names(told) == ['conversation.item.truncated']
  told = send(session, 'response.cancel')
  assert [type(c) for c in commands(told)] == [DropSound, Cancel, Truncate]
  assert told[-1] == Truncate(ticket, 1600) and not events(told, 'error')


def test_what_is_about_earlier_turns_waits_for_the_end_of_an_answer(session):
  first = ask(session)
  item = take(session, first, text(), sound(1.0), done())[0]['item']['id']
  second = ask(session, 'And of Norway?')
  told = send(session, 'conversation.item.truncate', item_id=item, content_index=0, audio_end_ms=9)
  assert names(told) == ['conversation.item.truncated']
  assert commands(take(session, second, text(), done())) == [Truncate(first, 144)]


def test_delete(session):
  ticket = ask(session)
  answer = take(session, ticket, text(), sound(), done())[0]['item']['id']
  assert send(session, 'conversation.item.delete', item_id=answer)[0] == Truncate(ticket, 0)
  told = send(session, 'conversation.item.delete', item_id='item_1')
  assert told[0] == Delete(ticket) and told[1]['item_id'] == 'item_1'
  (error,) = send(session, 'conversation.item.delete', item_id='item_1', event_id='x')
  assert error['error']['code'] == 'item_not_found' and error['error']['event_id'] == 'x'
  write(session)
  assert names(send(session, 'conversation.item.delete', item_id='item_3')) == [
    'conversation.item.deleted'
  ]


def test_items_that_are_being_answered_stay(session):
  ask(session)
  (error,) = send(session, 'conversation.item.delete', item_id='item_1')
  assert error['error']['code'] == 'item_in_use'


def test_items_have_places(session):
  write(session, 'One?', id='one')
  write(session, 'Three?', id='three')
  item = {'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Two?'}]}
  told = send(
    session, 'conversation.item.create', item=item | {'id': 'two'}, previous_item_id='one'
  )
  assert told[0]['previous_item_id'] == 'one'
  first = send(
    session, 'conversation.item.create', item=item | {'id': 'zero'}, previous_item_id='root'
  )
  assert first[0]['previous_item_id'] is None
  (error,) = send(session, 'conversation.item.create', item=item | {'id': 'two'})
  assert error['error']['code'] == 'item_create_duplicate_item_id'
  (error,) = send(session, 'conversation.item.create', item=item, previous_item_id='none')
  assert error['error']['code'] == 'item_not_found'
  assert commands(send(session, 'response.create'))[0].request.text == 'Two?\nOne?\nTwo?\nThree?'


def test_a_conversation_that_the_client_brings(session):
  write(session, 'What is the capital of France?')
  said = {
    'type': 'message',
    'role': 'assistant',
    'content': [{'type': 'output_text', 'text': 'Paris.'}],
  }
  assert names(send(session, 'conversation.item.create', item=said)) == ITEM
  write(session, 'And of Norway?')
  (command,) = commands(send(session, 'response.create'))
  assert command.request.text == 'And of Norway?' and command.lasting
  assert [(own.question, own.answer) for own in command.earlier] == [
    ('What is the capital of France?', 'Paris.')
  ]
  take(session, command.ticket, text(), done())
  told = send(session, 'conversation.item.delete', item_id='item_1')
  assert told[0] == Delete(command.earlier[0].ticket)


def test_an_answer_beside_the_conversation(session):
  write(session, 'In the conversation?')
  content = [{'type': 'input_text', 'text': 'Beside it?'}]
  item = {'type': 'message', 'role': 'user', 'content': content}
  made = send(
    session,
    'response.create',
    response={'conversation': 'none', 'input': [item], 'metadata': {'a': 'b'}},
  )
  assert made[0]['response']['conversation_id'] is None
  assert made[0]['response']['metadata'] == {'a': 'b'}
  assert made[-1].request.text == 'Beside it?' and not made[-1].lasting
  told = take(session, made[-1].ticket, text(), done())
  assert not [name for name in names(told) if name.startswith('conversation.item')]
  assert commands(send(session, 'response.create'))[0].request.text == 'In the conversation?'


def test_what_is_asked_beside_the_conversation_is_asked_in_it_as_well(session):
  write(session, 'Before?')
  written = {'role': 'assistant', 'content': [{'type': 'output_text', 'text': 'Yes.'}]}
  write(session, **written)
  write(session, 'And now?')
  for conversation in ('none', 'auto'):
    made = send(session, 'response.create', response={'conversation': conversation})
    assert made[-1].request.text == 'And now?'
    assert [(own.question, own.answer) for own in made[-1].earlier] == [('Before?', 'Yes.')]
    take(session, made[-1].ticket, text(), done())


def test_the_end_of_an_answer_is_told_even_if_no_other_can_follow(session):
  """The question that a voice has asked in the meantime is deleted before the end."""
  ticket, told = voice_beside(session)
  write(session, 'Written?')
  write(session, role='assistant', content=[{'type': 'output_text', 'text': 'Yes.'}])
  item = events(told, 'input_audio_buffer.committed')[0]['item_id']
  send(session, 'conversation.item.delete', item_id=item)
  told = take(session, ticket, text(), done())
  assert names(told)[-2:] == ['response.done', 'error'] and not commands(told)


def test_a_server_that_stops_begins_no_other_answer(session):
  voice_beside(session)
  assert names(session.stop())[-1] == 'response.done' and not session.is_answering


def test_sound_that_is_too_long_is_refused_before_it_is_resampled(session, monkeypatch):
  monkeypatch.setattr(formats.AudioFormat, 'read', None)
  part = {'type': 'input_audio', 'audio': pcm(quiet(8.5))}
  item = {'type': 'message', 'role': 'user', 'content': [part]}
  asked = {'conversation.item.create': {'item': item}}
  asked['response.create'] = {'response': {'input': [item]}}
  for name, fields in asked.items():
    (error,) = send(session, name, **fields)
    assert error['error']['code'] == 'audio_too_long'


def test_a_failure_is_told(session):
  ticket = ask(session)
  told = take(session, ticket, Failed('The question is silent.', 'invalid_question', 'x_error'))
  assert names(told) == ['response.done']
  response = told[0]['response']
  assert response['status'] == 'failed' and response['output'] == []
  assert response['status_details']['error']['code'] == 'invalid_question'
  assert ask(session) is not ticket  # the session goes on


def test_an_answer_that_is_cut_off_is_incomplete(session):
  ticket = ask(session)
  response = take(session, ticket, text(), done(answer_tokens=1))[-1]['response']
  assert response['status'] == 'incomplete'
  assert response['status_details']['reason'] == 'max_output_tokens'


@pytest.mark.parametrize(
  'name, fields, code',
  [
    ('input_audio_buffer.commit', {}, 'input_audio_buffer_commit_empty'),
    ('response.create', {}, 'no_question'),
    ('response.cancel', {}, 'response_cancel_not_active'),
    ('input_audio_buffer.append', {'audio': 'AAA'}, 'invalid_base64'),
    ('input_audio_buffer.append', {'audio': 'AAAA'}, 'odd_byte_count'),
    ('conversation.item.retrieve', {'item_id': 'none'}, 'item_not_found'),
    ('session.update', {'session': {'voice': 'marin'}}, 'unknown_parameter'),
    ('no.such.event', {}, 'unknown_event_type'),
  ],
)
def test_errors_name_the_event_and_the_session_goes_on(manual, name, fields, code):
  (error,) = send(manual, name, event_id='mine', **fields)
  assert error['type'] == 'error' and error['error']['code'] == code
  assert error['error']['event_id'] == 'mine' and '\n' not in error['error']['message']
  assert take(manual, ask(manual), text(), done())[-1]['response']['status'] == 'completed'


def test_a_second_answer_has_to_wait(session):
  ask(session)
  write(session, 'And this?')
  (error,) = send(session, 'response.create')
  assert error['error']['code'] == 'conversation_already_has_active_response'


def test_the_buffer_has_an_end(manual):
  for _ in range(8):
    assert send(manual, 'input_audio_buffer.append', audio=pcm(loud(1.0))) == []
  (error,) = send(manual, 'input_audio_buffer.append', audio=pcm(loud(1.0)))
  assert error['error']['code'] == 'input_audio_buffer_full'
  send(manual, 'input_audio_buffer.commit')
  assert len(commands(send(manual, 'response.create'))[0].request.wave) == 8 * 16000


def test_speech_that_waits_has_an_end(manual):
  codes = []
  for _ in range(3):
    send(manual, 'input_audio_buffer.append', audio=pcm(loud(3.0)))
    codes += [
      event['error']['code'] for event in events(send(manual, 'input_audio_buffer.commit'), 'error')
    ]
  assert codes == ['audio_too_long']


def test_a_voice_that_never_ends_is_cut_into_questions(session):
  """Ten minutes without a pause: questions as long as the model hears, and no memory of them."""
  told = []
  for _ in range(60):
    told += send(session, 'input_audio_buffer.append', audio=pcm(loud(10.0)))
  waves = [command.request.wave for command in commands(told) if isinstance(command, Ask)]
  assert len(waves) >= 70 and all(len(wave) <= 8 * 16000 for wave in waves)


def test_silence_is_forgotten(session):
  for _ in range(60):
    assert send(session, 'input_audio_buffer.append', audio=pcm(quiet(10.0))) == []
  send(session, 'session.update', **MANUAL)
  send(session, 'input_audio_buffer.commit')
  assert len(commands(send(session, 'response.create'))[0].request.wave) < 16000


def test_clear_forgets_what_was_said(manual):
  send(manual, 'input_audio_buffer.append', audio=pcm(loud(1.0)))
  assert names(send(manual, 'input_audio_buffer.clear')) == ['input_audio_buffer.cleared']
  assert events(send(manual, 'input_audio_buffer.commit'), 'error')


def test_formats_of_the_client(manual):
  audio = {
    'input': {'format': {'type': 'audio/pcm', 'rate': 16000}},
    'output': {'format': {'type': 'audio/pcmu'}},
  }
  send(manual, 'session.update', session={'audio': audio})
  send(manual, 'input_audio_buffer.append', audio=pcm(loud(1.0, 16000)))
  send(manual, 'input_audio_buffer.commit')
  (command,) = commands(send(manual, 'response.create'))
  assert len(command.request.wave) == 16000
  told = take(manual, command.ticket, text(), sound(1.0), done())
  heard = b''.join(
    base64.b64decode(e['delta']) for e in events(told, 'response.output_audio.delta')
  )
  assert len(heard) == 8000


def test_a_conversation_has_an_end():
  session = helpers.session(Limits(items=3))
  for _ in range(3):
    write(session)
  assert events(write(session), 'error')[0]['error']['code'] == 'too_many_items'


def test_a_model_that_only_reads_says_so():
  session = helpers.session(hears=False, speaks=False)
  assert session.open()[0]['session']['output_modalities'] == ['text']
  (error,) = send(session, 'input_audio_buffer.append', audio=pcm(loud(1.0)))
  assert error['error']['code'] == 'unsupported_modality'
  write(session)
  assert not commands(send(session, 'response.create'))[0].request.speaks
