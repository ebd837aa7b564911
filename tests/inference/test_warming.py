"""What is wanted first is compiled first, in any thread, and once."""

from concurrent import futures
import threading

import jax
import numpy as np
import pytest

from echox_jax.inference import compiled, warming
from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.history import Conversation
from tests.helpers import tiny_model
from tests.helpers.compiling import compiling


def test_who_talks_first_waits_for_no_compiler(tmp_path):
  engine = Engine(tiny_model.tiny_bundle(tmp_path))
  engine.warm_up(urgency=warming.FIRST)
  with compiling() as made:
    for seconds in (0.5, 2.9):
      said = list(engine.stream(engine.ask(Request(tiny_model.question(seconds)), Conversation())))
      assert len(said[-1].waveform)
  assert not made
  with compiling() as made:
    assert list(engine.answer(text='Paris?'))[-1].text  # compiled when it is asked
  assert made
  engine.warm_up()
  with compiling() as made:
    list(engine.answer(text='What is two plus two? Paris? plus'))
  assert not made


def test_larger_programs_do_the_work_until_the_fitting_ones_are_compiled(tmp_path, monkeypatch):
  engine = Engine(tiny_model.hears_words(tmp_path, sharpness=0.2, hypotheses=4), speaks=False)
  run, sizes, said = compiled.Program.__call__, [], []

  def watched(program, *args):
    if program is engine.programs.hear:
      sizes.append(args[1].shape[1])
    return run(program, *args)

  monkeypatch.setattr(compiled.Program, '__call__', watched)
  for urgency in (warming.FIRST, warming.SOON):
    engine.warm_up(urgency=urgency)
    with compiling() as made:
      said.append(jax.device_get(engine.hear(tiny_model.question(0.5)).labels))
    assert not made
  assert sizes[0] > sizes[1] == engine.questions.sizes.samples[0]
  np.testing.assert_array_equal(*said)


def test_the_most_urgent_programs_come_first():
  done = []
  jobs = [warming.Job(urgency, lambda own=urgency: done.append(own)) for urgency in (2, 0, 1, 0)]
  warming.run(jobs, at_once=1)
  assert done == [0, 0, 1, 2]

  def fail():
    raise ValueError('too large')

  with pytest.raises(ValueError, match='too large'):
    warming.run([warming.Job(warming.FIRST, fail)])


def test_a_program_is_compiled_once_whoever_wants_it():
  traced, may_go_on = [], threading.Event()

  @jax.jit
  def double(params, x):
    traced.append(x.shape)
    assert may_go_on.wait(60)
    return params * x

  program = compiled.Program(double, 'double', None, fixed=1)
  params, x = np.float32(2), np.arange(3, dtype=np.float32)
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  with futures.ThreadPoolExecutor(2) as threads:
    prepared = threads.submit(program.prepare, params, shape)
    ran = threads.submit(program, params, x)
    may_go_on.set()
    assert prepared.result() == shape
    np.testing.assert_array_equal(ran.result(), 2 * x)
  assert traced == [(3,)]
  np.testing.assert_array_equal(program(params, x[:2]), 2 * x[:2])
  assert traced == [(3,), (2,)]


def test_what_cannot_be_compiled_is_tried_again():
  good = []

  @jax.jit
  def picky(params, x):
    if not good:
      raise ValueError('not now')
    return params + x

  program = compiled.Program(picky, 'picky', None, fixed=1)
  for _ in range(2):
    with pytest.raises(ValueError, match='not now'):
      program.prepare(np.float32(1), np.float32(1))
  good.append(True)
  assert program(np.float32(1), np.float32(1)) == 2
