"""What a session tells of the words of its questions, to whoever asks for them."""

import numpy as np

from echox_jax.serving.commands import Failed, Transcribe, Transcript
from tests.helpers import serving as helpers
from tests.helpers.serving import commands, loud, names, pcm, quiet, send, take


def transcribed(session, seconds):
  """Commits what was said; gives what comes of it."""
  send(session, 'input_audio_buffer.append', audio=pcm(loud(seconds)))
  return send(session, 'input_audio_buffer.commit')


KIND = 'conversation.item.input_audio_transcription'
WORDS = {'session': {'audio': {'input': {'transcription': {'model': 'whisper-1'}}}}}


def test_who_asks_for_transcripts_is_told_what_was_heard(manual):
  assert not commands(transcribed(manual, 1.0))  # nobody has asked
  assert send(manual, 'session.update', **WORDS)[0]['session']['audio']['input']['transcription']
  *told, command = transcribed(manual, 1.5)
  assert isinstance(command, Transcribe) and names(told)[-1] == 'conversation.item.done'
  (ask,) = commands(send(manual, 'response.create'))
  assert len(ask.request.wave) == len(command.wave) + 16000  # both questions that wait
  delta, completed = take(manual, command, Transcript('What is it?'))
  assert names([delta, completed]) == [f'{KIND}.delta', f'{KIND}.completed']
  assert delta['delta'] == completed['transcript'] == 'What is it?'
  assert completed['item_id'] == told[-1]['item']['id'] and completed['content_index'] == 0
  assert completed['usage'] == {'type': 'duration', 'seconds': 1.5}
  (found,) = send(manual, 'conversation.item.retrieve', item_id=completed['item_id'])
  assert found['item']['content'] == [{'type': 'input_audio', 'transcript': 'What is it?'}]


def test_the_very_sound_of_a_spoken_turn_is_transcribed(session):
  send(session, 'session.update', **WORDS)
  wave = np.concatenate([loud(1), quiet(1)])
  told = commands(send(session, 'input_audio_buffer.append', audio=pcm(wave)))
  assert names(told) == ['Hear', 'Transcribe', 'Ask']
  assert told[0].wave is told[1].wave is told[2].request.wave  # encoded once


def test_a_transcript_may_fail_or_be_empty(manual):
  send(manual, 'session.update', **WORDS)
  (command,) = commands(transcribed(manual, 1.0))
  (failed,) = take(manual, command, Failed('The question is silent.', 'invalid_audio', 'x_error'))
  assert failed['type'] == f'{KIND}.failed' and failed['content_index'] == 0
  assert failed['error'] == {
    'type': 'x_error',
    'code': 'invalid_audio',
    'message': 'The question is silent.',
  }
  (command,) = commands(transcribed(manual, 1.0))
  assert names(take(manual, command, Transcript(''))) == [f'{KIND}.completed']


def test_transcripts_come_one_after_the_other_and_not_of_deleted_items(manual):
  send(manual, 'session.update', **WORDS)
  told = [transcribed(manual, 0.5 + 0.5 * i) for i in range(4)]
  items = [own[0]['item_id'] for own in told]
  (first,) = commands([output for own in told for output in own])
  for at in (0, 2):  # one that the engine is at, and one that waits
    send(manual, 'conversation.item.delete', item_id=items[at])
  (second,) = take(manual, first, Transcript('deleted'))
  assert len(second.wave) == 16000
  third, *events = take(manual, second, Transcript('second'))
  assert len(third.wave) == 32000 and {own['item_id'] for own in events} == {items[1]}
  assert {own['item_id'] for own in take(manual, third, Transcript('fourth'))} == {items[3]}


def test_a_model_that_only_reads_cannot_transcribe():
  session = helpers.session(hears=False, speaks=False)
  (error,) = send(session, 'session.update', **WORDS)
  assert error['error']['param'] == 'session.audio.input.transcription'
