"""The one thread that owns the engine: it works for all sessions, and tells each what came of it.

Sessions live on the event loop of the server. What they ask crosses over in a queue; between two
pieces of work the thread takes all of it in order, so that an answer is cancelled, or the next one
begun, at any chunk.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import logging
import queue
import threading
import time
from typing import Any

import numpy as np

from echox_jax import errors
from echox_jax.inference.answering import Answering, Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Event, Sound
from echox_jax.inference.history import Conversation, Heard
from echox_jax.inference.reading import Reader
from echox_jax.serving import refusals
from echox_jax.serving.commands import Ask, Cancel, Failed, ForEngine, Hear, Ticket, Truncate
from echox_jax.serving.metrics import Metrics

Deliver = Callable[[Ticket, Sequence[Event | Failed]], None]
_log = logging.getLogger('echox_jax.serving')


@dataclasses.dataclass(eq=False)
class Seat:
  """What the thread holds for a session.

  Attributes:
    deliver: called in the thread with each batch of events; it must return at once.
    conversation: of the session.
    tickets: answers on their way.
    heard: what may be the next question.
  """

  deliver: Deliver
  conversation: Conversation = dataclasses.field(default_factory=Conversation)
  tickets: set[Ticket] = dataclasses.field(default_factory=set)
  heard: Heard | None = None


@dataclasses.dataclass(eq=False)
class _Speech:
  """A text that is being spoken; `deliver` gets pieces of sound, then None, or a failure."""

  pieces: Iterator[np.ndarray]
  deliver: Callable[[np.ndarray | Failed | None], None]
  wanted: bool = True


class Worker:
  """Runs the engine.

  Args:
    engine: of the model.
    reader: speaks given texts; None = the model cannot.
    waiting: answers that may be asked for and not have ended, of all sessions together.
    metrics: what is counted.
  """

  def __init__(self, engine: Engine, reader: Reader | None, waiting: int, metrics: Metrics):
    self.engine, self.reader = engine, reader
    self._most, self._metrics = waiting, metrics
    self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
    self._answers: dict[Ticket, Seat] = {}
    self._speeches: list[_Speech] = []
    self._lock, self._taken = threading.Lock(), 0  # answers asked for that have not ended
    self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
    self.warm, self.failed = threading.Event(), False

  def start(self) -> None:
    """Starts the thread, which compiles first; `warm` is set when it is ready."""
    self._thread.start()

  def stop(self) -> None:
    """Ends the thread, and with it every answer; returns when it has ended."""
    self._queue.put(None)
    self._thread.join()

  @property
  def is_well(self) -> bool:
    """Whether the thread is ready for work."""
    return self.warm.is_set() and self._thread.is_alive() and not self.failed

  @property
  def answering(self) -> int:
    """Answers and texts that were asked for and have not ended."""
    return self._taken

  # What sessions ask; these methods return at once

  def command(self, seat: Seat, command: ForEngine) -> None:
    """Takes a command of a session; a question that finds no room fails."""
    if isinstance(command, Ask) and not self._admit():
      seat.deliver(command.ticket, [self._why_not()])
      return
    self._queue.put(lambda: self._do(seat, command))

  def leave(self, seat: Seat) -> None:
    """Ends what a session has asked for, and gives its place to others."""
    self._queue.put(lambda: self._leave(seat))

  def say(self, text: str, deliver: Callable[[np.ndarray | Failed | None], None]) -> Callable:
    """Speaks a text; returns what stops it."""
    if self.reader is None:
      raise errors.EchoXError(
        'this model cannot speak a given text, since its folder has no text-to-codec model: '
        'export it again.'
      )
    speech = _Speech(self.reader.say(text), deliver)
    if not self._admit():
      deliver(self._why_not())
    else:
      self._queue.put(lambda: self._speeches.append(speech))

    def stop() -> None:
      speech.wanted = False

    return stop

  # In the thread

  def _run(self) -> None:
    try:
      seconds = self.engine.warm_up()
      if self.reader:
        self.reader.warm_up()
      self.warm.set()
      _log.info('warm', extra={'seconds': round(seconds, 1)})
      while self._take_commands():
        self._work()
    except Exception:
      self.failed = True
      self.warm.set()
      _log.exception('engine_failed')
      for ticket, seat in list(self._answers.items()):
        seat.deliver(ticket, [_BROKEN])
      for speech in self._speeches:
        speech.deliver(_BROKEN)

  def _take_commands(self) -> bool:
    """Does what was asked; waits where there is nothing else to do. False = the thread ends."""
    idle = not self._answers and not self._speeches
    try:
      task = self._queue.get(block=idle)
      while task is not None:
        task()
        task = self._queue.get(block=False)
    except queue.Empty:
      return True
    return False

  def _work(self) -> None:
    """Does one piece of work for answers, and one for texts."""
    if self._answers:
      began = time.perf_counter()
      self.engine.pump()
      self._metrics.work.observe(time.perf_counter() - began)
    for ticket, seat in list(self._answers.items()):
      events = list(ticket.answering.taken())
      if not events:
        continue
      for event in events:
        self._count(ticket.answering, event)
      if isinstance(events[-1], Done):
        self._over(ticket)
      seat.deliver(ticket, events)
    if self._speeches:
      self._speak(self._speeches.pop(0))

  def _count(self, answering: Answering, event: Event) -> None:
    if isinstance(event, Sound):
      self._metrics.sound.inc(len(event.waveform) / 16_000)
    elif isinstance(event, Done):
      self._metrics.answers.labels('completed').inc()
      self._metrics.tokens.inc(len(event.token_times))
      self._metrics.total.observe(event.finished_at)
      if event.first_audio_at is not None:
        self._metrics.first_sound.observe(event.first_audio_at)

  def _do(self, seat: Seat, command: ForEngine) -> None:
    if isinstance(command, Hear):
      self._hear(seat, command)
      return
    ticket = command.ticket
    if isinstance(command, Ask):
      self._ask(seat, command)
    elif isinstance(command, Cancel):
      self._cancel(ticket)
    elif ticket.turn is not None and isinstance(command, Truncate):
      self.engine.shorten(seat.conversation, ticket.turn, command.samples)
    elif ticket.turn is not None:
      self.engine.drop(seat.conversation, ticket.turn)
      ticket.turn = None

  def _hear(self, seat: Seat, command: Hear) -> None:
    try:
      seat.heard = self.engine.hear(command.wave)
    except errors.EchoXError:
      seat.heard = None  # whoever asks it is told why

  def _ask(self, seat: Seat, command: Ask) -> None:
    ticket, heard = command.ticket, seat.heard
    if command.request.wave is not None:
      seat.heard = None
    try:
      beside = Conversation() if command.earlier and not command.lasting else None
      conversation = seat.conversation if command.lasting else beside
      for written in command.earlier:
        written.ticket.turn = self.engine.remember(conversation, written.question, written.answer)
      ticket.answering = self.engine.ask(command.request, conversation, heard)
    except errors.EchoXError as error:
      self._release()
      self._metrics.answers.labels('failed').inc()
      seat.deliver(ticket, [Failed(str(error), 'invalid_question', refusals.INVALID)])
      return
    ticket.turn = ticket.answering.turn
    self._answers[ticket] = seat
    seat.tickets.add(ticket)

  def _cancel(self, ticket: Ticket) -> None:
    if ticket in self._answers:
      self.engine.cancel(ticket.answering)
      self._metrics.answers.labels('cancelled').inc()
      self._over(ticket)

  def _over(self, ticket: Ticket) -> None:
    """Forgets an answer that has ended; its turn stays."""
    self._answers.pop(ticket).tickets.discard(ticket)
    ticket.answering = None
    self._release()

  def _leave(self, seat: Seat) -> None:
    for ticket in list(seat.tickets):
      self._cancel(ticket)
    self.engine.leave(seat.conversation)
    seat.conversation = Conversation()

  def _speak(self, speech: _Speech) -> None:
    """Speaks the next slice of a text; others come first before its next one."""
    if not speech.wanted:
      self._release()
      return
    try:
      piece = next(speech.pieces, None)
    except errors.EchoXError as error:
      self._release()
      speech.deliver(Failed(str(error), 'invalid_text', refusals.INVALID))
      return
    if piece is None:
      self._release()
    else:
      self._speeches.append(speech)
    speech.deliver(piece)

  def _admit(self) -> bool:
    """Counts another answer, if there is room."""
    with self._lock:
      if self._taken >= self._most or not self.is_well:
        return False
      self._taken += 1
    self._metrics.answering.set(self._taken)
    return True

  def _why_not(self) -> Failed:
    """Why there is no room."""
    if not self.is_well:
      return _BROKEN
    self._metrics.refused.labels('queue').inc()
    return _FULL

  def _release(self) -> None:
    with self._lock:
      self._taken -= 1
    self._metrics.answering.set(self._taken)


_FULL = Failed(
  'the server is answering as many questions as it can: ask again in a few seconds.',
  'server_busy',
  refusals.BUSY,
)
_BROKEN = Failed(
  'the server has failed and must be started again: tell its operator.',
  'server_failed',
  refusals.SERVER,
)


async def answer(worker: Worker, request: Request) -> Any:
  """Answers one question that stands for itself; gives `Done`, or `Failed`."""
  loop = asyncio.get_running_loop()
  ended: asyncio.Future[Any] = loop.create_future()

  def deliver(ticket: Ticket, events: Sequence[Event | Failed]) -> None:
    if isinstance(events[-1], Done | Failed):
      loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(events[-1]))

  seat = Seat(deliver)
  worker.command(seat, Ask(Ticket('http'), request, lasting=False))
  try:
    return await ended
  finally:
    worker.leave(seat)
