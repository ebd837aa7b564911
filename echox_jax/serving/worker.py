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
from echox_jax.inference import warming
from echox_jax.inference.answering import Answering, Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Event, Sound
from echox_jax.inference.history import Conversation, Heard
from echox_jax.inference.reading import Reader
from echox_jax.serving import refusals
from echox_jax.serving.commands import (
  Ask,
  Cancel,
  Failed,
  ForEngine,
  Hear,
  Ticket,
  Transcribe,
  Transcript,
  Truncate,
)
from echox_jax.serving.metrics import Metrics

Deliver = Callable[[Ticket | Transcribe, Sequence[Event | Transcript | Failed]], None]
_log = logging.getLogger('echox_jax.serving')


@dataclasses.dataclass(eq=False)
class Seat:
  """What the thread holds for a session.

  Attributes:
    deliver: called in the thread with each batch of events, and what asked for them; it must return
      at once.
    conversation: of the session.
    tickets: answers on their way.
    pause: what was said before the newest pause; older ones are not heard any more.
    heard: what may be the next question.
  """

  deliver: Deliver
  conversation: Conversation = dataclasses.field(default_factory=Conversation)
  tickets: set[Ticket] = dataclasses.field(default_factory=set)
  pause: np.ndarray | None = None
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
    self._lock = threading.Lock()
    self._admitted: set[Ticket | _Speech] = set()  # asked for, neither ended nor cancelled
    self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
    self.warm, self.failed, self._stopping = threading.Event(), False, threading.Event()

  def start(self) -> None:
    """Starts the thread, which compiles first what one who talks needs; then `warm` is set."""
    self._thread.start()

  def stop(self) -> None:
    """Ends the thread, and with it every answer; returns when it has ended."""
    self._stopping.set()
    self._queue.put(None)
    self._thread.join()

  @property
  def is_well(self) -> bool:
    """Whether the thread is ready for work."""
    return self.warm.is_set() and self._thread.is_alive() and not self.failed

  @property
  def answering(self) -> int:
    """Answers and texts that were asked for and have not ended."""
    return len(self._admitted)

  # What sessions ask; these methods return at once

  def command(self, seat: Seat, command: ForEngine) -> None:
    """Takes a command of a session; a question that finds no room fails."""
    if isinstance(command, Ask) and not self._admit(command.ticket):
      seat.deliver(command.ticket, [self._why_not()])
      return
    if isinstance(command, Cancel):
      self._release(command.ticket)  # at once: who interrupts an answer asks for the next one
    elif isinstance(command, Hear):
      seat.pause = command.wave
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
    if not self._admit(speech):
      deliver(self._why_not())
    else:
      self._queue.put(lambda: self._begin(speech))

    def stop() -> None:
      speech.wanted = False

    return stop

  # In the thread

  def _run(self) -> None:
    try:
      seconds = self.engine.warm_up(urgency=warming.FIRST)
      self._metrics.compiling.set(1)
      if self.engine.programs.mesh:  # all devices must start programs in the same order
        self._compile_the_rest()
      else:
        threading.Thread(target=self._compile_the_rest, name='compiler', daemon=True).start()
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
      while (task := self._queue.get()) is not None:  # others may just have asked
        task()

  def _compile_the_rest(self) -> None:
    """Compiles what a first question does not need, on one core: another one answers. What fails is
    compiled once more when it is asked for, and told to who asks.
    """
    try:
      seconds = self.engine.warm_up(at_once=1, stop=self._stopping)
      if self.reader and not self._stopping.is_set():
        seconds += self.reader.warm_up()
      _log.info('all_compiled', extra={'seconds': round(seconds, 1)})
    except Exception:
      _log.exception('compiling_failed')
    finally:
      self._metrics.compiling.set(0)

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
      self._speak()

  def _count(self, answering: Answering, event: Event) -> None:
    if isinstance(event, Sound):
      self._metrics.sound.inc(len(event.waveform) / 16_000)
    elif isinstance(event, Done):
      self._metrics.answers.labels('completed').inc()
      self._metrics.tokens.inc(len(event.token_times))
      self._metrics.total.observe(event.finished_at)
      if event.first_audio_at is not None:
        self._metrics.first_sound.observe(event.first_audio_at)

  def _begin(self, speech: _Speech) -> None:
    if self.failed:
      speech.deliver(_BROKEN)
    else:
      self._speeches.append(speech)

  def _do(self, seat: Seat, command: ForEngine) -> None:
    if self.failed:
      self._refuse(seat, command)
      return
    try:
      self._obey(seat, command)
    except Exception:
      self._refuse(seat, command)
      raise

  def _obey(self, seat: Seat, command: ForEngine) -> None:
    if isinstance(command, Hear):
      if command.wave is seat.pause:
        self._hear(seat, command.wave)
      return
    if isinstance(command, Transcribe):
      self._transcribe(seat, command)
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

  def _refuse(self, seat: Seat, command: ForEngine) -> None:
    """Answers who asks an engine that has failed."""
    if isinstance(command, Ask):
      seat.deliver(command.ticket, [_BROKEN])
    elif isinstance(command, Transcribe):
      seat.deliver(command, [_BROKEN])

  def _hear(self, seat: Seat, wave: np.ndarray) -> None:
    try:
      seat.heard = self.engine.hear(wave)
    except errors.EchoXError:
      seat.heard = None  # whoever asks it is told why

  def _transcribe(self, seat: Seat, command: Transcribe) -> None:
    """Tells what was said. It is heard for the answer, too: an answer waits no longer for it."""
    try:
      if seat.heard is None or seat.heard.wave is not command.wave:
        seat.heard = self.engine.hear(command.wave)
    except errors.EchoXError as error:
      seat.deliver(command, [Failed(str(error), 'invalid_audio', refusals.INVALID)])
      return
    ids = seat.heard.ids(self.engine.config.special_ids.audio)
    seat.deliver(command, [Transcript(self.engine.tokenizer.decode(ids).strip())])

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
      self._release(ticket)
      self._metrics.answers.labels('failed').inc()
      seat.deliver(ticket, [Failed(str(error), 'invalid_question', refusals.INVALID)])
      return
    ticket.turn = ticket.answering.turn if command.lasting else None
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
    self._release(ticket)

  def _leave(self, seat: Seat) -> None:
    if self.failed:
      return
    for ticket in list(seat.tickets):
      self._cancel(ticket)
    self.engine.leave(seat.conversation)
    seat.conversation = Conversation()

  def _speak(self) -> None:
    """Speaks the next slice of a text; others come first before its next one."""
    speech = self._speeches[0]
    try:
      piece = next(speech.pieces, None) if speech.wanted else None
    except errors.EchoXError as error:
      piece = Failed(str(error), 'invalid_text', refusals.INVALID)
    self._speeches.pop(0)
    if isinstance(piece, np.ndarray):
      self._speeches.append(speech)
    else:
      self._release(speech)
    speech.deliver(piece)

  def _admit(self, asked: Ticket | _Speech) -> bool:
    """Counts another answer or text, if there is room."""
    with self._lock:
      if len(self._admitted) >= self._most or not self.is_well:
        return False
      self._admitted.add(asked)
      self._metrics.answering.set(len(self._admitted))
    return True

  def _why_not(self) -> Failed:
    """Why there is no room."""
    if not self.is_well:
      return _BROKEN
    self._metrics.refused.labels('queue').inc()
    return _FULL

  def _release(self, asked: Ticket | _Speech) -> None:
    """Gives the place of an answer or a text to others; it may have been given before."""
    with self._lock:
      self._admitted.discard(asked)
      self._metrics.answering.set(len(self._admitted))


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
