"""Answers questions in text and speech, for several conversations at once, while each answer is
still being thought of.

One loop serves all: `pump` does one piece of work, the most urgent one, and hands what came of it
to the answers it belongs to. A piece is short: a question is read, a few tokens are decoded, a few
unit words are said, or a window of sound is made. Every shape is static: after `warm_up` nothing is
compiled any more. What does not fit a budget is counted, never lost in silence.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import functools
import threading
import time
from typing import Any

import jax
import numpy as np

from echox_jax import errors, model_folder
from echox_jax.inference import placement, vocoding, warming
from echox_jax.inference.answering import Answering, Request
from echox_jax.inference.events import Event
from echox_jax.inference.history import Conversation, Heard, Turn
from echox_jax.inference.programs import Programs
from echox_jax.inference.questions import Questions, bucket, padded
from echox_jax.inference.speakers import Speakers
from echox_jax.models import positions
from echox_jax.models.arrays import Float, Int


class Engine:
  """A loaded model, ready to answer.

  Args:
    model: of `echox_jax.load`.
    hears: whether questions are spoken; a model without the parts for it answers written ones.
    speaks: whether answers are; otherwise they are text alone, without slices and waveform.
    reads: whether a `reading.Reader` is to speak given texts: its model takes memory.

  Raises:
    CheckpointError: it lacks a part that this takes.
    ConfigError: its budgets leave no positions for a question, or do not fit it.
  """

  def __init__(self, model: Any, *, hears: bool = True, speaks: bool = True, reads: bool = False):
    wanted = (
      *model_folder.TEXT,
      *(model_folder.hearing(model.config) if hears else ()),
      *(model_folder.SPEAKING if speaks else ()),
    )
    model_folder.require(model, wanted)
    positions.check(model.config, model.engine, wanted)
    self.hears, self.speaks, self.budgets = hears, speaks, model.engine
    self.tokenizer, self.unit_language = model.tokenizer, model.unit_language
    # a bare `model_folder.Bundle` says neither
    mesh, int8 = getattr(model, 'mesh', None), getattr(model, 'int8', False)
    groups = {name: group for name, group in model.params.items() if reads or name != 't2c'}
    self.params, self.config = placement.prepare(groups, model.config, mesh, int8)
    self.programs = Programs(self.config, self.budgets, mesh)
    slots, once = self.programs.slots, self.programs.knows_opening
    self.questions = Questions(self.config, self.budgets, self.tokenizer.encode, hears, slots, once)
    self._sizes, self._unheard = self.questions.sizes, self.questions.unheard
    self.reads_at_once = min(self.budgets.questions, self.budgets.conversations)
    self._lock = threading.RLock()  # `pump` may run in any thread, in one at a time
    self._state = self.programs.new_conversations()
    self._rows: list[Conversation | None] = [None] * self.budgets.conversations
    self._waiting: list[Answering] = []
    self._has_read = False  # whether the last piece of work was to read a question
    self._answering: dict[int, Answering] = {}  # by row
    # chunks that run: who is thought of in which row, the rows it works for, and what comes of it
    self._running: list[tuple[dict[int, Answering], Sequence[int], Any]] = []
    if speaks:
      self._speakers = Speakers(
        self.programs, self.params, self.config, self.budgets, self.unit_language
      )

  # Questions

  def hear(self, wave: Float[np.ndarray, '...']) -> Heard:
    """Hears a spoken question before it is asked, one channel at 16 kHz.

    Raises:
      AudioError: it cannot be heard.
    """
    wave = self.questions.check_wave(wave)
    with self._lock:
      return Heard(wave, *self.programs.listen(self.params, [wave]))

  def ask(
    self, request: Request, conversation: Conversation | None = None, heard: Heard | None = None
  ) -> Answering:
    """Puts a question in the queue; `pump` makes its events.

    Args:
      request: the question.
      conversation: whose next turn it is; None = it stands for itself.
      heard: what `hear` made of its sound; what it made of other sound counts as None.

    Raises:
      EchoXError: a question that the model cannot take, a sampling that is none, or a conversation
        that is still being answered.
    """
    request.check()
    with self._lock:
      lasting = conversation is not None
      conversation = conversation or Conversation()
      self._check_rests(conversation)
      wave = None if request.wave is None else self.questions.check_wave(request.wave)
      ids = self.questions.prompt(request.text, wave is not None, not conversation.turns)
      answering = Answering(
        request,
        wave,
        Turn(request.text, ids),
        conversation,
        lasting,
        self.tokenizer,
        self.config,
        self.speaks and request.speaks,
      )
      if heard is not None and heard.wave is wave:
        answering.turn.heard = heard.speech
      conversation.busy = True
      self._waiting.append(answering)
    return answering

  def answer(
    self, audio: Float[np.ndarray, '...'] | None = None, text: str = '', **options: Any
  ) -> Iterator[Event]:
    """Answers one question, yielding text and sound as they come, then `Done`.

    Args:
      audio: spoken question, one channel at 16 kHz; None = text only.
      text: written question, or what is written beside the spoken one.
      **options: other fields of `Request`.

    Raises:
      EchoXError: a question that the model cannot take, or a sampling that is none, before
        anything is computed.
    """
    yield from self.stream(self.ask(Request(audio, text, **options)))

  def stream(self, answering: Answering) -> Iterator[Event]:
    """Yields the events of an answer, up to `Done`; closing it cancels the answer."""
    try:
      while True:
        finished = answering.finished
        yield from answering.taken()
        if finished:
          return
        self.work_for(answering)
    finally:
      self.cancel(answering)

  def work_for(self, answering: Answering) -> None:
    """Does one piece of work; there is some as long as an answer is not finished."""
    if not self.pump() and not answering.finished:  # another thread may just have finished it
      raise RuntimeError('an answer waits, but there is nothing to do')

  def cancel(self, answering: Answering) -> None:
    """Ends an answer, whatever its state; what was said stays in the conversation."""
    with self._lock:
      if answering in self._waiting:
        self._waiting.remove(answering)
        answering.conversation.busy = False
      if answering in self._answering.values():
        if self.speaks:
          self._speakers.leave(answering)
        self._release(answering)

  def answers(self, requests: Iterable[Request]) -> list[list[Event]]:
    """Answers many questions, as many at once as there is room for; gives the events of each.

    Raises:
      EchoXError: as `answer`, before anything is computed.
    """
    asked = [self.ask(request) for request in requests]
    while self.pump():
      pass
    return [list(answering.events) for answering in asked]

  # What was said before

  def remember(self, conversation: Conversation, question: str, answer: str) -> Turn:
    """Adds a written turn that nobody asked this engine, and returns it.

    Raises:
      EchoXError: a question that the model cannot take, or a conversation that is being answered.
    """
    with self._revising(conversation):
      ids = self.questions.prompt(question, False, not conversation.turns)
      turn = Turn(question, ids, answer=tuple(self.tokenizer.encode(answer)))
      conversation.turns.append(turn)
    return turn

  def shorten(self, conversation: Conversation, turn: Turn, samples: int) -> None:
    """Keeps of an answer what was heard in its first samples, at 16 kHz.

    Raises:
      EchoXError: the conversation is being answered.
    """
    with self._revising(conversation):
      turn.answer = turn.answer[: turn.ids_heard(samples)]
      turn.marks = [(ids, end) for ids, end in turn.marks if end <= samples]

  def drop(self, conversation: Conversation, turn: Turn) -> None:
    """Takes a turn out of a conversation, if it is still there.

    Raises:
      EchoXError: the conversation is being answered.
    """
    with self._revising(conversation):
      conversation.turns = [own for own in conversation.turns if own is not turn]
      if conversation.turns:
        self._open(conversation.turns[0])

  def leave(self, conversation: Conversation) -> None:
    """Gives the row of a conversation to others; its next question reads it again."""
    with self._lock:
      if not conversation.busy:
        self._forget(conversation)

  @contextlib.contextmanager
  def _revising(self, conversation: Conversation) -> Iterator[None]:
    """Changes the turns of a conversation; what the LLM holds of them is read again."""
    with self._lock:
      self._check_rests(conversation)
      yield
      self._forget(conversation)

  def _check_rests(self, conversation: Conversation) -> None:
    if conversation.busy:
      raise errors.EchoXError(
        'this conversation is still being answered: wait for the end, or close the stream first.'
      )

  # The loop

  def pump(self) -> bool:
    """Does the most urgent piece of work; False = there is none.

    A slice of which nothing has been heard goes first. Reading takes turns with all other work, so
    that of many questions that come together the first is answered while the last ones are read.
    """
    with self._lock:
      hurries = self.speaks and self._speakers.are_silent()
      if not (hurries or self._has_read) and self._read():
        self._has_read = True
        return True
      self._has_read = False
      if self.speaks and self._say():
        return True
      if self._thinking():
        self._think()
        return True
      return self._read()

  def warm_up(
    self,
    requests: Iterable[Request] | None = None,
    urgency: int = warming.MANY,
    at_once: int = 0,
    stop: threading.Event | None = None,
  ) -> float:
    """Compiles what answering needs, in any thread; returns the seconds that it took.

    Args:
      requests: what will be asked, each for itself; None = anything, conversations too.
      urgency: the last that is waited for, such as `warming.FIRST`: an answer that needs more waits
        until it is compiled.
      at_once, stop: see `warming.run`.

    Raises:
      EchoXError: a question that the model cannot take.
    """
    start, programs = time.perf_counter(), self.programs
    asked = None if requests is None else [(own.wave, own.text) for own in requests]
    jobs = [*warming.thinking(programs, self.params, self.questions, self.reads_at_once, asked)]
    if self.speaks:
      jobs += self._speakers.programs_needed()
    if programs.mesh:  # all devices must start programs in the same order
      at_once = 1
    warming.run([job for job in jobs if job.urgency <= urgency], at_once, stop)
    _ = self._opening  # read now: the first who talks does not wait for it
    return time.perf_counter() - start

  def _thinking(self) -> bool:
    return any(answering.going for answering in self._answering.values())

  def _row_for(self, conversation: Conversation) -> int | None:
    """A row for a conversation: its own, an empty one, or that of one that rests."""
    if conversation.row is not None:
      return conversation.row
    for row, other in enumerate(self._rows):
      if other is None:
        return row
    for row, other in enumerate(self._rows):
      if not other.busy:
        self._forget(other)
        return row
    return None

  def _read(self) -> bool:
    """Reads a question that waits, or several; False = none waits, or there is no room."""
    return bool(self._waiting) and (self._read_together() or self._read_next())

  def _read_together(self) -> bool:
    """Reads several questions that stand for themselves and are all spoken, or all written."""
    rows = [row for row, held in enumerate(self._rows) if held is None]
    first, most = self._waiting[0], min(self.reads_at_once, len(rows))
    alike = [a for a in self._waiting if not a.lasting and (a.wave is None) == (first.wave is None)]
    if first.lasting or min(len(alike), most) < 2:
      return False
    chosen = list(zip(alike[:most], rows))
    # what is too few is filled up with the first once more
    filled = chosen + chosen[:1] * (self.reads_at_once - len(chosen))
    answerings = [answering for answering, _ in filled]
    self._waiting = [answering for answering in self._waiting if answering not in answerings]
    self._prefill(
      True,
      [row for _, row in filled],
      [answering.turn.prompt for answering in answerings],
      None if first.wave is None else self._hear(answerings),
      [answering.request for answering in answerings],
    )
    for answering, row in chosen:
      self._start(answering, row)
    return True

  def _read_next(self) -> bool:
    """Reads the question that waits longest, and the conversation before it where that is not held;
    False = no row is free.
    """
    answering = self._waiting[0]
    row = self._row_for(answering.conversation)
    if row is None:
      return False
    self._waiting.pop(0)
    conversation, turn = answering.conversation, answering.turn
    if answering.wave is not None:
      turn.heard = self._hear([answering])
    while conversation.turns and not self._fits([*conversation.turns, turn]):
      conversation.turns.pop(0).heard = None  # whoever still knows the turn needs no speech of it
      self._open((*conversation.turns, turn)[0])
      self._forget(conversation)
      answering.overflow['turns'] += 1
    fresh = conversation.row is None
    before = self._pieces(conversation.turns) if fresh else ()
    for ids, heard in (*before, (turn.prompt, turn.heard)):
      self._prefill(fresh, [row], [ids], heard, [answering.request])
      fresh = False
    self._start(answering, row)
    return True

  def _hear(self, answerings: Sequence[Answering]) -> Any:
    """Gives what is said in questions; counts what they have too much."""
    heard = answerings[0].turn.heard if len(answerings) == 1 else None
    if heard is None:
      heard, _ = self.programs.listen(self.params, [own.wave for own in answerings])
    for answering, lost in zip(answerings, jax.device_get(heard.overflow)):
      answering.overflow['speech_positions'] = int(lost)
    return heard

  def _prefill(
    self,
    fresh: bool,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    heard: Any,
    requests: Sequence[Request],
  ) -> None:
    """Reads prompts into rows, which are empty if they are `fresh`."""
    prompts = [ids[len(self.questions.opening) :] for ids in prompts] if fresh else prompts
    size, most = bucket(self._sizes.prompt, max(map(len, prompts))), self.budgets.max_new_tokens
    begins = [()] * len(rows)
    if heard is not None:
      kept = jax.device_get(heard.kept)
      begins = [() if words else self._unheard for words in kept]
      slots = bucket(self.questions.speech_slots(size), int(kept.max()))
      heard = self.programs.cut[slots](self.params, heard)
    ids = np.concatenate([padded(ids, size, self.config.special_ids.pad) for ids in prompts])
    each = (r.sampling(own) for r, own in zip(requests, begins, strict=True))
    sampling = jax.tree.map(lambda *x: np.stack(x), *each)
    limits = np.asarray([min(r.max_tokens or most, most) for r in requests], np.int32)
    asked = (np.asarray(rows, np.int32), ids, heard, sampling, limits)
    if fresh:
      self._state = self.programs.read_first(self.params, self._state, *asked, self._opening)
    else:
      self._state = self.programs.read_further(self.params, self._state, *asked)

  @functools.cached_property
  def _opening(self) -> Any:
    """What the LLM keeps of what all conversations open with; None = prompts are read whole."""
    ids = self.questions.opening
    return self.programs.read_opening(self.params, np.asarray([ids], np.int32)) if ids else None

  def _start(self, answering: Answering, row: int) -> None:
    """An answer that has been read is thought of from now on."""
    self._rows[row], answering.conversation.row = answering.conversation, row
    answering.going = True
    self._answering[row] = answering

  def _pieces(self, turns: Sequence[Turn]) -> Iterator[tuple[Sequence[int], Any]]:
    """What has to be read to hold turns that are over: ids, and the speech among them."""
    most = self._sizes.prompt[-1]
    for turn in turns:
      yield turn.prompt, turn.heard
      rest = self.questions.lay_out_answer(turn.answer)
      yield from ((rest[begin : begin + most], None) for begin in range(0, len(rest), most))

  def _fits(self, turns: Sequence[Turn]) -> bool:
    """Whether turns, of which the last is to be answered, find room; pieces are padded."""
    pieces = [*self._pieces(turns[:-1]), (turns[-1].prompt, turns[-1].heard)]
    used = widest = len(self.questions.opening)
    pieces[0] = (pieces[0][0][used:], pieces[0][1])
    for ids, heard in pieces:
      extra = positions.speech(self.config) if heard is not None else 0
      widest = max(widest, used + bucket(self._sizes.prompt, len(ids)) + extra)
      used += len(ids) + extra
    return max(widest, used + self.budgets.max_new_tokens) <= self.programs.slots

  def _think(self) -> None:
    """Decodes a few tokens of all answers; fewer as long as one of them has no sound yet, which are
    looked at once they are there. Otherwise the next chunk runs while the host looks at one.
    """
    going = {row: answering for row, answering in self._answering.items() if answering.going}
    early = any(answering.speaks and not answering.has_sound for answering in going.values())
    count = self.budgets.first_tokens if early else self.budgets.tokens
    rows = self.programs.rows([*going], len(self._rows))
    self._state, seen = self.programs.decode_chunk(self.params, self._state, rows, np.int32(count))
    self._running.append((going, rows.tolist(), seen))
    while len(self._running) > (not early):
      self._look(*self._running.pop(0))
    if not self._thinking():
      self._running.clear()  # nothing was left to do in it

  def _look(self, going: dict[int, Answering], rows: Sequence[int], seen: Any) -> None:
    """Takes what came of a chunk."""
    seen = jax.device_get(seen)
    for row, answering in going.items():
      if answering.going and self._answering.get(row) is answering:
        answering.take(seen, rows.index(row))
        self._finish(answering)

  def _say(self) -> bool:
    """Does what is most urgent for a listener; False = nothing is."""
    speakers = self._speakers
    speakers.begin(self._answering.values(), self._state.written)
    made, over = speakers.make_sound(
      calm=all(own.has_sound or not own.speaks for own in self._answering.values())
    )
    for own in over:
      self._finish(own.answering)
    if made:
      return True
    if speakers.are_late() or (speakers.any() and not self._thinking()):
      speakers.speak(self._state.written)
      return True
    return False

  def _finish(self, answering: Answering) -> None:
    """Ends an answer of which nothing is left to think or to say."""
    if answering in self._answering.values() and answering.is_over():
      answering.finish()
      self._release(answering)

  def _release(self, answering: Answering) -> None:
    """The conversation rests until its next question; one that has none is forgotten."""
    conversation, turn = answering.conversation, answering.turn
    cancelled = answering.going
    answering.going, conversation.busy = False, False
    del self._answering[conversation.row]
    turn.answer, turn.marks = tuple(answering.ids), answering.marks()
    conversation.turns.append(turn)
    if cancelled:
      self._state = self.programs.forget(self.params, self._state, np.int32(conversation.row))
    # what was cut off lacks its EOT: it is read again
    if not answering.lasting or cancelled or answering.overflow['answer_tokens']:
      self._forget(conversation)

  def _open(self, turn: Turn) -> None:
    """Makes a turn the first of its conversation."""
    turn.prompt = self.questions.prompt(turn.text, turn.heard is not None)

  def _forget(self, conversation: Conversation) -> None:
    """Gives the row of a conversation to others; what it holds is overwritten when it is read."""
    if conversation.row is not None:
      self._rows[conversation.row] = conversation.row = None

  def vocode(
    self, units: Int[np.ndarray, ' R'], durations: Int[np.ndarray, ' R'] | None = None
  ) -> tuple[Float[np.ndarray, ' S'], int]:
    """Speaks units given from outside: see `vocoding.vocode`."""
    return vocoding.vocode(self.programs, self.params, self._sizes.frames, units, durations)
