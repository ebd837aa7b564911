"""Speech that goes wrong is noticed, tried once more and reported, and the text is never lost.

What the echo decoder says is written down here: one list of ids for the first try, and another for
what is drawn after it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.decoding import generate, guards, sampler
from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Sound, SpokenSlice, notes
from echox_jax.models.llama import HEAD
from tests.helpers import tiny_model
from tests.helpers.compiling import compiling

choose_unit = generate.choose_unit  # as it is outside of these tests
WRONG = ('retried_slices', 'unit_loops', 'silent_slices', 'mismatched_slices')
LOOP = [1, 2, 3] + [4, 5] * 17


@pytest.fixture(scope='module')
def answer(tmp_path_factory):
  """Answers a question whose only slice has the words of a list; gives its events.

  The lists lie in two columns of the head, where `choose` finds them: engines of the same budgets
  are made once.
  """
  bundle = tiny_model.tiny_bundle(tmp_path_factory.mktemp('tiny'))
  vocab, eot = bundle.config.llm.vocab_size, bundle.config.special_ids.eot

  def choose(cfg, head, hidden, draw=None):
    column = (draw.temperature > 0).astype(jnp.int32)
    return head.table[column, 1 + jnp.clip(draw.step, 0, 38)].astype(jnp.int32)

  @functools.cache
  def engine(budgets):
    wanted = dict(max_unit_words=38, loop_times=4, retry_temperature=0.7, first_window=100)
    budgets = dataclasses.replace(bundle.engine, **wanted | dict(budgets))
    made = Engine(dataclasses.replace(bundle, engine=budgets))
    made.warm_up([Request(tiny_model.question(0.5))])
    return made

  def run(first, again, **budgets):
    made = engine(tuple(budgets.items()))
    before = made.params['echo'][HEAD]
    head = np.array(before)
    head[:2, 1:] = eot
    for column, words in enumerate((first, again)):
      head[column, 1 : 1 + len(words)] = vocab + np.asarray(words, int)
    made.params['echo'][HEAD] = jax.device_put(head, before.sharding)
    with compiling() as compiled:
      events = list(made.answer(tiny_model.question(0.5), max_tokens=4))
    assert not compiled
    return events

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(generate, 'choose_unit', choose)
    yield run


def said(events):
  """(unit words of the only slice, counters of what went wrong)."""
  (spoken,) = [e for e in events if isinstance(e, SpokenSlice)]
  done = events[-1]
  assert isinstance(done, Done) and done.text
  assert sum(len(e.waveform) for e in events if isinstance(e, Sound)) == len(done.waveform)
  return spoken.unit_words.tolist(), {n: done.overflow[n] for n in WRONG if done.overflow[n]}


def test_good_speech_is_left_alone(answer):
  words = [1, 2, 3, 3, 4, 5, 4, 5, 4, 5, 6, 7, 7, 7]
  assert said(answer(words, [])) == (words, {})


def test_a_loop_is_taken_back_and_goes_on_otherwise(answer):
  words, wrong = said(answer(LOOP, list(range(10, 30))))
  assert wrong == {'retried_slices': 1}
  assert words[:5] == [1, 2, 3, 4, 5]  # one round stays
  assert words[5:] == list(range(15, 30))  # what is drawn comes behind it, at its own place


def test_a_second_loop_ends_the_slice(answer):
  events = answer(LOOP, [6] * 38)
  words, wrong = said(events)
  assert words == [1, 2, 3, 4, 5, 6]
  assert wrong == {'retried_slices': 1, 'unit_loops': 1}
  assert any('over and over' in note for note in notes(events[-1].overflow))


@pytest.mark.slow
def test_what_has_been_heard_of_a_loop_is_not_said_again(answer):
  """Sound that is out stays as it is: the sound that follows is that of the units that follow."""
  events = answer(LOOP, list(range(10, 30)), first_window=2, window=2, first_words=2, words=2)
  words, wrong = said(events)
  assert wrong == {'retried_slices': 1} and words[:5] == [1, 2, 3, 4, 5]
  drawn = words.index(next(word for word in words if word >= 10))
  assert words[5:drawn] == ([4, 5] * 17)[: drawn - 5]
  assert words[drawn:] == list(range(10 + drawn, 30))


@pytest.mark.slow
def test_without_another_try_a_loop_is_cut_off(answer):
  assert said(answer(LOOP, [], retry_temperature=0.0)) == ([1, 2, 3, 4, 5], {'unit_loops': 1})
  words, wrong = said(answer(LOOP, [], retry_temperature=0.0, loop_times=0))
  assert words == LOOP and not wrong  # nothing looks for it


@pytest.mark.parametrize(
  'first, counter', [([], 'silent_slices'), ([1], 'mismatched_slices')], ids=['silent', 'short']
)
def test_a_slice_that_says_too_little_is_tried_once_more(answer, first, counter):
  enough = [3, 1, 4, 1, 5, 9, 2, 6]
  least = dict(least_words_per_token=2.0)
  assert said(answer(first, enough, **least)) == (enough, {'retried_slices': 1})
  assert said(answer(first, first, **least)) == (first, {'retried_slices': 1, counter: 1})
  assert said(answer(first, enough, retry_temperature=0.0, **least)) == (first, {counter: 1})


@pytest.mark.slow
def test_a_slice_that_runs_away_is_tried_once_more(answer):
  long, enough = list(range(30)), [3, 1, 4]
  assert said(answer(long, enough, words_per_token=3)) == (enough, {'retried_slices': 1})
  words, wrong = said(answer(long, long, words_per_token=3))
  assert len(words) < 30 and wrong == {'retried_slices': 1, 'mismatched_slices': 1}


def test_an_answer_that_goes_round_ends(tmp_path, monkeypatch):
  round_ = list(range(21, 31))
  written = [  # and what is said of it
    ([20, *round_ * 3], [20, *round_ * 2]),  # what was once repeated stays
    ([20, 21, 22, *[23] * 20], [20, 21, 22, *[23] * 9]),
    ([*round_, 20, *round_, 31], [*round_, 20, *round_, 31]),
  ]
  bundle = tiny_model.tiny_bundle(tmp_path)
  ids = np.full((len(written), 41), bundle.config.special_ids.eot, np.int32)
  for row, (tokens, _) in zip(ids, written):
    row[: len(tokens)] = tokens

  def choose(logits, sampling, made, so_far):
    return jnp.asarray(ids)[jnp.arange(len(made)), made]

  monkeypatch.setattr(sampler, 'choose', choose)
  budgets = dict(text_loop_times=2, max_new_tokens=40, conversations=len(written))
  budgets = dataclasses.replace(bundle.engine, **budgets)
  engine = Engine(dataclasses.replace(bundle, engine=budgets), hears=False, speaks=False)
  for _ in range(2):  # the rows of the former are taken again
    asked = [engine.ask(Request(text='Paris?')) for _ in written]
    for answering, (tokens, said) in zip(asked, written):
      *_, done = engine.stream(answering)
      assert answering.ids == said and done.overflow['answer_tokens'] == 0
      assert done.overflow['text_loops'] == (len(said) < len(tokens))


@pytest.mark.parametrize('round_', [[7], [7, 8], [7, 8, 9, 7, 5, 6, 4, 3]])
def test_a_loop_is_noticed_when_its_round_has_come_four_times(round_):
  words = [1, 2] + round_ * 12
  held, counts = jnp.zeros((1, guards.ROUNDS), jnp.int32), []
  for n, word in enumerate(words):
    held = guards.repeated(held, jnp.asarray([words]), jnp.asarray([n]), jnp.asarray([word]))
    counts.append(bool(guards.in_loop(held, 4)[0]))
  assert counts.index(True) + 1 == 2 + len(round_) + max(3 * len(round_), 8)
  assert not bool(guards.in_loop(held, 0)[0])


def test_the_first_word_of_another_try_is_not_eot():
  bundle_config = tiny_model.tiny_config()
  table = jnp.zeros((41, 16)).at[0].set(1.0)  # EOT is far likelier than all others
  hidden = jnp.full((2, 16), 9.0)
  draw = generate.Draw(jnp.asarray([0.0, 0.7]), jnp.zeros(2, jnp.int32))
  first, again = choose_unit(bundle_config, generate.UnitHead(table), hidden, draw).tolist()
  assert first == bundle_config.special_ids.eot and again >= bundle_config.llm.vocab_size
