"""Which programs answering takes, the most urgent first, so that they are compiled before anybody
waits for them.
"""

from collections.abc import Callable, Iterable
from concurrent import futures
import ctypes
import functools
import os
import sys
import threading
from typing import Any, NamedTuple

import jax
import numpy as np

from echox_jax import rates
from echox_jax.inference.answering import Request
from echox_jax.inference.programs import Programs
from echox_jax.inference.questions import Questions

# How soon a program is wanted: by the first who talks; to do faster what another one can do, or by
# who talks on; by questions that are longer or written; by several who talk at once.
FIRST, SOON, LATER, MANY = range(4)
_USUAL_SECONDS = 8.0  # of a spoken question


class Job(NamedTuple):
  """A program to compile: how soon it is wanted, and what does it."""

  urgency: int
  run: Callable[[], Any]


def run(jobs: Iterable[Job], at_once: int = 0, stop: threading.Event | None = None) -> None:
  """Compiles the most urgent ones first.

  Args:
    jobs: what to do.
    at_once: as many at once; 0 = as there are cores.
    stop: once it is set, none is begun any more.
  """

  def do(job: Job) -> None:
    if stop is None or not stop.is_set():
      job.run()

  in_order = sorted(jobs, key=lambda job: job.urgency)
  workers = futures.ThreadPoolExecutor(at_once or os.cpu_count() or 1)
  try:
    for done in [workers.submit(do, job) for job in in_order]:
      done.result()
  finally:
    workers.shutdown(cancel_futures=True)
  give_back()


def give_back() -> None:
  """Gives the system memory back that was freed, where the C library is glibc: after it has
  compiled, XLA has freed a lot, which the library would keep.
  """
  if sys.platform == 'linux':
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
      trim(0)


def thinking(
  programs: Programs,
  params: dict,
  questions: Questions,
  reads_at_once: int,
  asked: Iterable[tuple[np.ndarray | None, str]] | None,
) -> Iterable[Job]:
  """What hears, reads and thinks.

  Args:
    programs, params, questions: of the engine.
    reads_at_once: questions that are read together.
    asked: sound and text of all that will be asked, each for itself; None = anything, conversations
      too.
  """
  samples, prompts = questions.every_size() if asked is None else questions.sizes_of(asked)
  state, _ = programs.abstract_states()
  none, rows = np.int32(0), questions.budgets.conversations

  def sound(number: int, size: int) -> tuple[Any, Any]:
    return _shape('float32', number, size), _shape('int32', number)

  @functools.cache
  def found(number: int) -> Any:
    return programs.hear.prepare(params, *sound(number, usual))

  def choose(program: Any, number: int) -> Any:
    return program.prepare(params, found(number))

  @functools.cache
  def heard(number: int) -> Any:
    chooses = list(programs.choose_among.values())
    return (choose(chooses[-1], number) if chooses else found(number))[0]

  @functools.cache
  def opening() -> Any:
    size = len(questions.opening)
    return programs.read_opening.prepare(params, _shape('int32', 1, size)) if size else None

  def read(program: Any, number: int, slots: int, size: int) -> None:
    more = (opening(),) if program is programs.read_first else ()
    program.prepare(
      params,
      state,
      _shape('int32', number),
      _shape('int32', number, size),
      programs.cut[slots].prepare(params, heard(number)) if slots else None,
      jax.tree.map(lambda x: np.stack([x] * number), Request().sampling()),
      _shape('int32', number),
      *more,
    )

  decode = programs.decode_chunk.prepare
  fewest, *more = programs.widths(rows)
  for width in (fewest, *more):
    chosen = programs.rows(range(width), rows)
    soon = FIRST if width == fewest else MANY
    yield Job(soon, functools.partial(decode, params, state, chosen, none))
  # slots of speech, 0 = none, and ids
  read_sizes = [
    (slots, size)
    for spoken, size in prompts
    for slots in (questions.speech_slots(size) if spoken else (0,))
  ]
  first = min((sizes for sizes in read_sizes if sizes[0]), default=None)
  most = _USUAL_SECONDS * rates.SAMPLE_RATE
  usual = max((own for own in samples if own <= most), default=min(samples, default=0))
  for number in sorted({1, reads_at_once}):
    alone = number == 1
    reads = {programs.read_first: FIRST}
    if alone and asked is None:
      reads[programs.read_further] = SOON
    for sizes in read_sizes:
      for program, urgency in reads.items():
        soon = urgency if sizes == first else LATER
        yield Job(soon if alone else MANY, functools.partial(read, program, number, *sizes))
    for size in samples:
      soon = FIRST if size == usual else SOON if size < usual else LATER
      hear = functools.partial(programs.hear.prepare, params, *sound(number, size))
      yield Job(soon if alone else MANY, hear)
    for nodes, program in programs.choose_among.items() if samples else ():
      soon = FIRST if nodes == max(programs.choose_among) else SOON
      yield Job(soon if alone else MANY, functools.partial(choose, program, number))
  yield Job(FIRST, functools.partial(programs.forget.prepare, params, state, none))


def speaking(programs: Programs, params: dict, spelling: Any) -> Iterable[Job]:
  """What says slices of answers; `spelling`: of the unit language."""
  thought, said = programs.abstract_states()
  none, greedy, rows = np.int32(0), np.float32(0), said.going.shape[0]
  speak, begin = programs.speak_chunk.prepare, programs.begin_slice.prepare
  for width in programs.widths(rows):  # one answer may have several slices to say
    chosen, going = programs.rows(range(width), rows), _shape('bool', width)
    yield Job(FIRST, functools.partial(speak, params, said, chosen, spelling, going, none))
  slice_ = (none, thought.written, none, none, none, greedy)
  yield Job(FIRST, functools.partial(begin, params, said, *slice_))
  for frames, sound in programs.sound.items():
    soon = FIRST if frames in programs.least_windows else SOON
    yield Job(soon, functools.partial(sound.prepare, params, said, none, none))
  unsay = programs.unsay.prepare
  yield Job(FIRST, functools.partial(unsay, params, said, spelling, none, none, greedy))


def _shape(dtype: str, *sizes: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, dtype)
