"""Conversations of several turns: what is held, what is read again, and what is forgotten."""

import asyncio
import dataclasses

import numpy as np
import pytest

from echox_jax import audio, errors
from echox_jax.inference import chat
from echox_jax.inference.events import Done
from tests.helpers import tiny_model


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return made(tmp_path_factory.mktemp('tiny'))


def made(folder, **budgets):
  parts = vars(tiny_model.tiny_bundle(folder))
  return chat.Model(**parts | {'engine': dataclasses.replace(tiny_model.ENGINE, **budgets)})


QUESTIONS = (
  (tiny_model.question(1.5), 16000),
  'Paris?',
  (tiny_model.question(0.7, 1), 16000),
  'two plus two',
)


def test_a_reply_has_text_sound_and_times(model, tmp_path):
  file = tmp_path / 'question.wav'
  audio.write_wav(file, tiny_model.question(1.5) / 2)
  replies = [model.chat().ask(file), model.chat().ask(str(file))]
  replies += [model.chat().ask((audio.load_audio(file), 16000)), *model.answer([file])]
  assert len({reply.text for reply in replies}) == 1 and replies[0].text
  reply = replies[0]
  assert reply.sample_rate == 16000 and reply.wave.dtype == np.float32
  assert reply.timings['audio_s'] == pytest.approx(len(reply.wave) / 16000)
  times = [reply.timings[name] for name in ('first_text_s', 'first_sound_s', 'total_s')]
  assert times[0] > 0 and times[0] < times[2] and times[1] < times[2]


def test_later_turns_depend_on_earlier_ones(model):
  conversation = model.chat()
  said = [conversation.ask(question).text for question in QUESTIONS[:2]]
  alone = model.chat().ask(QUESTIONS[1]).text
  assert said[0] == model.chat().ask(QUESTIONS[0]).text and said[1] != alone


@pytest.mark.slow
def test_what_lost_its_place_is_read_again(tmp_path):
  """One row for two conversations that take turns: each is read again whenever its turn comes."""
  model = made(tmp_path, conversations=1, max_context=256)
  alone = model.chat()
  wanted = [alone.ask(question).text for question in QUESTIONS]
  one, other = model.chat(), model.chat()
  got = []
  for question in QUESTIONS:
    got.append(one.ask(question).text)
    other.ask('Is it?')
  assert got == wanted


@pytest.mark.slow
def test_the_oldest_turns_are_forgotten_and_counted(tmp_path):
  model = made(tmp_path, max_context=110)
  conversation, dropped = model.chat(), []
  for question in QUESTIONS:
    dropped.append(conversation.ask(question).overflow['turns'])
  assert dropped[0] == 0 < sum(dropped)
  fresh = model.chat()
  fresh.ask(QUESTIONS[0])
  assert model.chat().ask(QUESTIONS[0]).overflow['turns'] == 0


def test_a_conversation_goes_on_after_a_cancelled_answer(model):
  conversation = model.chat()
  stream = conversation.stream(QUESTIONS[0])
  next(stream)
  with pytest.raises(errors.EchoXError, match='still being answered: wait for the end'):
    conversation.ask('Paris?')
  stream.close()
  assert conversation.ask('Paris?').text


def test_answers_stream_in_asyncio_side_by_side(model):
  async def ask(question):
    return [event async for event in model.chat().astream(question)]

  async def both():
    return await asyncio.gather(*map(ask, QUESTIONS[:2]))

  for question, events in zip(QUESTIONS, asyncio.run(both())):
    assert isinstance(events[-1], Done)
    assert events[-1].text == model.chat().ask(question).text


def test_a_model_without_speech_answers_in_text(model, tmp_path):
  parts = vars(tiny_model.tiny_bundle(tmp_path))
  reader = chat.Model(**parts | {'params': {'llm': parts['params']['llm']}})
  reply = reader.chat().ask('Paris?')
  assert reply.text == model.chat().ask('Paris?').text
  assert not len(reply.wave) and reply.timings['first_sound_s'] is None
  with pytest.raises(errors.EchoXError, match='this engine only reads text: write the question'):
    reader.chat().ask(QUESTIONS[0])


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(temperature=-1.0), 'temperature -1.0'),
    (dict(top_p=0.0), 'top-p 0.0'),
    (dict(top_k=-2), 'top-k -2'),
    (dict(repetition_penalty=0.0), 'repetition penalty 0.0'),
    (dict(max_tokens=0), 'max_tokens is 0: give 1 or more'),
    (dict(temprature=0.2), 'no option temprature: use temperature, top_p'),
  ],
)
def test_an_answer_that_cannot_be_made_so(model, options, message):
  """Is refused before anything is computed, where the conversation begins and where it goes on."""
  with pytest.raises(errors.EchoXError, match=message):
    model.chat(**options)
  conversation = model.chat()
  with pytest.raises(errors.EchoXError, match=message):
    conversation.ask('Paris?', **options)
  assert conversation.ask('Paris?').text
