"""What a conversation holds can be changed afterwards: turns written by others, answers that were
not heard to their end, turns that are to be forgotten.
"""

import pytest

from echox_jax import errors
from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import SpokenSlice
from echox_jax.inference.history import Conversation, Turn
from tests.helpers import tiny_model


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
  return Engine(tiny_model.tiny_bundle(tmp_path_factory.mktemp('tiny')))


def ask(engine, conversation, text):
  """Asks; gives all events."""
  return list(engine.stream(engine.ask(Request(text=text), conversation)))


def said(engine, *turns: tuple[str, tuple[int, ...]]) -> str:
  """What the model says to 'Paris?' after turns whose answers are given as ids."""
  conversation = Conversation()
  for question, answer in turns:
    engine.remember(conversation, question, '').answer = answer
  return ask(engine, conversation, 'Paris?')[-1].text


def test_written_turns_are_read(engine):
  conversation = Conversation()
  turn = engine.remember(conversation, 'two plus', 'What is two plus two?')
  assert engine.tokenizer.decode(list(turn.answer)) == 'What is two plus two?'
  after = ask(engine, conversation, 'Paris?')[-1].text
  assert after == said(engine, ('two plus', turn.answer)) != said(engine)


def test_an_answer_is_cut_where_it_was_last_heard(engine):
  conversation = Conversation()
  events = ask(engine, conversation, 'two plus two')
  (turn,), whole = conversation.turns, len(conversation.turns[0].answer)
  slices = [event for event in events if isinstance(event, SpokenSlice)]
  first = len(slices[0].waveform)
  assert turn.ids_heard(0) == 0 and turn.ids_heard(10**9) == whole
  assert turn.ids_heard(first) == slices[0].tokens[1] < whole
  assert 0 < turn.ids_heard(first // 2) < slices[0].tokens[1]
  engine.shorten(conversation, turn, first)
  assert len(turn.answer) == slices[0].tokens[1] and turn.ids_heard(10**9) == len(turn.answer)
  after = ask(engine, conversation, 'Paris?')[-1].text
  assert after == said(engine, ('two plus two', turn.answer))


def test_ids_without_sound_were_not_heard():
  turn = Turn('', [], answer=range(10), marks=[(3, 300), (6, 500)])
  assert [turn.ids_heard(n) for n in (0, 99, 100, 299, 300, 400, 499, 500, 9999)] == [
    0, 0, 1, 2, 3, 4, 5, 6, 6,
  ]  # fmt: skip


def test_a_turn_that_is_dropped_leaves_no_trace(engine):
  conversation = Conversation()
  ask(engine, conversation, 'two plus two')
  second = ask(engine, conversation, 'What is it?')[-1]
  first, kept = conversation.turns
  engine.drop(conversation, first)
  engine.drop(conversation, first)
  assert ask(engine, conversation, 'Paris?')[-1].text == said(engine, ('What is it?', kept.answer))
  assert second.text


def test_what_is_being_answered_is_not_changed(engine):
  conversation = Conversation()
  ask(engine, conversation, 'two plus two')
  answering = engine.ask(Request(text='Paris?'), conversation)
  for change in (
    lambda: engine.shorten(conversation, conversation.turns[0], 0),
    lambda: engine.drop(conversation, conversation.turns[0]),
    lambda: engine.remember(conversation, 'a', 'b'),
  ):
    with pytest.raises(errors.EchoXError, match='still being answered'):
      change()
  engine.leave(conversation)
  assert list(engine.stream(answering))[-1].text


def test_a_conversation_that_leaves_gives_its_row_to_others(engine):
  for seed in range(50):  # an answer that ends by itself keeps its row
    conversation, request = Conversation(), Request(text='two', temperature=3.0, seed=seed)
    list(engine.stream(engine.ask(request, conversation)))
    if conversation.row is not None:
      break
  assert conversation.row is not None
  engine.leave(conversation)
  assert conversation.row is None
  kept = conversation.turns[0].answer
  assert ask(engine, conversation, 'Paris?')[-1].text == said(engine, ('two', kept))
