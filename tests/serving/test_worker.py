"""The thread that owns the engine: room, order, failure, and what comes too late."""

import asyncio
import json
import queue
import threading
import time

import numpy as np
import pytest

from echox_jax.inference.answering import Request
from echox_jax.inference.events import Done
from echox_jax.serving import connection
from echox_jax.serving.commands import Ask, Cancel, Failed, Hear, Ticket, Transcribe, Transcript
from echox_jax.serving.hub import hub_of
from echox_jax.serving.limits import Access, Limits
from echox_jax.serving.metrics import Metrics
from echox_jax.serving.worker import Seat, Worker
from tests.helpers import serving as helpers
from tests.helpers import tiny_model
from tests.helpers.compiling import compiling

RATE = 16000


class Told(Seat):
  """A seat that keeps what it is told."""

  def __init__(self):
    self.told = queue.Queue()
    super().__init__(lambda cause, events: [self.told.put((cause, event)) for event in events])

  def until(self, cause, *kinds):
    """The next event of a kind that `cause` has led to."""
    while True:
      found, event = self.told.get(timeout=60)
      if found is cause and isinstance(event, kinds):
        return event


class Gate:
  """Stands before the work of the engine, which waits until it is opened."""

  def __init__(self, engine, monkeypatch):
    self.reached, self._opened, self._pump = threading.Event(), threading.Event(), engine.pump
    monkeypatch.setattr(engine, 'pump', self._wait)

  def _wait(self):
    self.reached.set()
    assert self._opened.wait(60)
    return self._pump()

  def open(self, then=None):
    """Lets it work, or do `then` instead."""
    self._pump = then or self._pump
    self._opened.set()


@pytest.fixture
def worker(reader):
  made = Worker(reader.engine, reader, 2, Metrics())
  made.start()
  assert made.warm.wait(300) and not made.failed
  yield made
  made.stop()


def test_the_rest_is_compiled_behind_the_answers(reader):
  metrics, seat = Metrics(), Told()
  worker = Worker(reader.engine, reader, 2, metrics)
  worker.start()
  try:
    assert worker.warm.wait(300)
    deadline = time.monotonic() + 300
    while b'echox_compiling 1.0' in metrics.text():
      assert time.monotonic() < deadline
      time.sleep(0.05)
    with compiling() as made:
      seat.until(asked(worker, seat, 'What is two plus two?'), Done)
    assert not made
  finally:
    worker.stop()


@pytest.fixture
def gate(worker, monkeypatch):
  return Gate(worker.engine, monkeypatch)


def asked(worker, seat, text='Paris?', **fields):
  ticket = Ticket('mine')
  worker.command(seat, Ask(ticket, Request(text=text, **fields)))
  return ticket


def test_what_is_cancelled_makes_room_at_once(worker, gate):
  """Who interrupts an answer asks for the next one before the engine has looked up."""
  seats = [Told() for _ in range(3)]
  first, second = asked(worker, seats[0]), asked(worker, seats[1])
  assert gate.reached.wait(60)
  third = asked(worker, seats[2])
  assert seats[2].until(third, Failed).code == 'server_busy'
  worker.command(seats[0], Cancel(first))
  again = asked(worker, seats[0], 'two plus two')
  gate.open()
  assert seats[0].until(again, Done, Failed).text and seats[1].until(second, Done, Failed).text
  assert not worker.answering


def test_pauses_that_others_have_overtaken_are_not_heard(worker, gate, monkeypatch):
  """Sound may come faster than it is heard: what it is heard in must not grow."""
  calls, hear = [], worker.engine.programs.hear
  monkeypatch.setattr(worker.engine.programs, 'hear', lambda *args: calls.append(1) or hear(*args))
  seat, wave = Told(), tiny_model.question()
  ticket = asked(worker, seat)
  assert gate.reached.wait(60)
  for end in range(RATE, RATE + 50):
    worker.command(seat, Hear(wave[:end]))
  gate.open()
  seat.until(ticket, Done)
  assert len(calls) == 1


def test_an_engine_that_fails_leaves_nobody_waiting(worker, gate, caplog):
  seat, speech = Told(), queue.Queue()
  begun = asked(worker, seat)
  assert gate.reached.wait(60)
  waiting, said = asked(worker, Told()), Transcribe(tiny_model.question())
  worker.command(seat, Cancel(waiting))
  late = asked(worker, seat)
  worker.command(seat, said)
  worker.command(seat, Cancel(late))
  worker.say('Paris.', speech.put)

  def fail():
    raise RuntimeError('out of memory')

  gate.open(fail)
  for cause in (begun, late, said):
    assert seat.until(cause, Failed).code == 'server_failed'
  assert speech.get(timeout=60).code == 'server_failed'
  assert not worker.is_well
  assert seat.until(asked(worker, seat), Failed).code == 'server_failed'
  assert 'engine_failed' in caplog.text
  worker.engine.cancel(begun.answering)


def test_who_breaks_the_engine_is_told_so(worker, monkeypatch, caplog):
  def fail(*args):
    raise RuntimeError('out of memory')

  monkeypatch.setattr(worker.engine.programs, 'hear', fail)
  seat, said = Told(), Transcribe(tiny_model.question())
  worker.command(seat, said)
  assert seat.until(said, Failed).code == 'server_failed' and worker.failed


def test_a_transcript_is_what_the_model_has_heard_and_costs_no_second_hearing(worker, monkeypatch):
  heard, hear = [], worker.engine.programs.hear
  monkeypatch.setattr(
    worker.engine.programs, 'hear', lambda *args: heard.append(hear(*args)) or heard[-1]
  )
  seat, wave = Told(), tiny_model.question()
  said, ticket = Transcribe(wave), Ticket('mine')
  with compiling() as compiled:
    worker.command(seat, Hear(wave))
    worker.command(seat, said)
    worker.command(seat, Ask(ticket, Request(wave)))
    text, done = seat.until(said, Transcript).text, seat.until(ticket, Done)
  ((_, labels),) = heard
  blank = worker.engine.config.special_ids.audio
  ids = [own for own in np.asarray(labels)[0].tolist() if own != blank]
  assert text == worker.engine.tokenizer.decode(ids).strip() != '' and not compiled
  assert done.text == list(worker.engine.answer(wave))[-1].text


def test_what_cannot_be_heard_has_no_transcript(worker):
  seat = Told()
  for wave, reason in (
    (np.zeros(RATE, np.float32), 'silent'),
    (tiny_model.question(0.05), 'lasts'),
  ):
    said = Transcribe(wave)
    worker.command(seat, said)
    failed = seat.until(said, Failed)
    assert failed.code == 'invalid_audio' and reason in failed.message


def test_turns_that_are_forgotten_keep_no_speech(worker):
  """The client still sees their items, perhaps a thousand of them."""
  seat, tickets = Told(), []
  for i in range(8):
    tickets.append(Ticket(str(i)))
    worker.command(seat, Ask(tickets[-1], Request(tiny_model.question(1.0, i))))
    seat.until(tickets[-1], Done)
  held = [ticket.turn.heard is not None for ticket in tickets]
  assert not held[0] and held[-1] and len(seat.conversation.turns) == sum(held)


class Socket:
  """A socket whose client says something and goes."""

  def __init__(self, *messages):
    self._messages = [{'type': 'websocket.receive', 'text': json.dumps(own)} for own in messages]

  async def receive(self):
    return self._messages.pop(0) if self._messages else {'type': 'websocket.disconnect'}

  async def send_text(self, text):
    pass


def test_what_comes_after_a_client_has_gone_asks_for_nothing(reader, monkeypatch):
  """A voice has asked while an answer was made; its end comes when the client has just gone."""
  hub = hub_of(reader.engine, reader, 'm', Limits(), Access())
  commands = []
  monkeypatch.setattr(hub.worker, 'command', lambda seat, command: commands.append(command))
  rule = {'type': 'server_vad', 'interrupt_response': False}
  item = {'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Paris?'}]}
  voice = np.interp(np.arange(48000) / 1.5, np.arange(32000), np.pad(helpers.vowels(), (0, 12800)))
  socket = Socket(
    {'type': 'session.update', 'session': {'audio': {'input': {'turn_detection': rule}}}},
    {'type': 'conversation.item.create', 'item': item},
    {'type': 'response.create'},
    {'type': 'input_audio_buffer.append', 'audio': helpers.pcm(voice)},
  )

  async def main():
    left = connection.Connection(socket, hub)
    await left.run()
    assert [type(own) for own in commands] == [Ask, Hear]
    left._deliver(commands[0].ticket, [helpers.text(), helpers.done()])
    await asyncio.sleep(0.05)

  asyncio.run(main())
  assert [type(own) for own in commands] == [Ask, Hear]
