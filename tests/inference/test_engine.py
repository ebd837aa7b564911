"""Streaming says the same as batched decoding, speaks all of it, and refuses what it cannot
take.
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from echox_jax import errors, model_folder, prompts
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, SpokenSlice, TextPiece
from echox_jax.models import positions
from tests.helpers import tiny_model


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
  engine = Engine(tiny_model.tiny_bundle(tmp_path_factory.mktemp('tiny')))
  assert engine.warm_up() > 0
  return engine


def with_positions(cfg, llm=2048, trunk=2048):
  """The config with other `max_positions`."""
  decoder = dataclasses.replace(
    cfg.unit_decoder, trunk=dataclasses.replace(cfg.unit_decoder.trunk, max_positions=trunk)
  )
  return dataclasses.replace(
    cfg, llm=dataclasses.replace(cfg.llm, max_positions=llm), unit_decoder=decoder
  )


def parts(events):
  events = list(events)
  assert isinstance(events[-1], Done)
  return (
    [e for e in events if isinstance(e, TextPiece)],
    [e for e in events if isinstance(e, SpokenSlice)],
    events[-1],
  )


@pytest.fixture
def compiled():
  """The programs that are compiled during a test, by the name of the event."""
  events = []

  def listen(name, seconds, **_):
    events.extend([name] * name.endswith('backend_compile_duration'))

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield events
  jax.monitoring.unregister_event_duration_listener(listen)


def test_after_warm_up_nothing_is_compiled(engine, compiled):
  texts = ['Paris?', 'Paris lies in France.', 'What is two plus two? Paris? plus']
  waves = [None, tiny_model.question(0.5), tiny_model.question(2.9)]  # one for each length of audio
  for audio in (False, True):  # and there is a text for each length of prompt
    assert {len(engine.prompt(text, audio)) > 32 for text in texts} == {False, True}
  for text, wave in itertools.product(texts, waves):
    list(engine.answer(wave, text))
  list(engine.answer(waves[1]))
  for temperature, top_p, seed in (
    (0.2, 0.9, 0),
    (0.7, 1.0, 2**40),
    (1, 1, -3),
    (np.float64(2), 0.5, np.int64(7)),
  ):
    list(engine.answer(waves[1], temperature=temperature, top_p=top_p, seed=seed))
    list(engine.answer(text=texts[0], temperature=temperature, top_p=top_p, seed=seed))
  assert not compiled
  jax.jit(lambda x: 3 * x)(1.0)
  assert compiled  # it would have been seen


def test_what_is_warmed_for_speech_alone_is_enough_for_speech_alone(tmp_path, compiled):
  engine = Engine(tiny_model.tiny_bundle(tmp_path))
  engine.warm_up(text=False, both=False)
  compiled.clear()
  list(engine.answer(tiny_model.question(2.9)))
  assert not compiled


@pytest.mark.parametrize('seconds', [0.7, 1.5, 2.6])
def test_streaming_says_what_batched_decoding_says(engine, seconds):
  wave = tiny_model.question(seconds)
  pieces, _slices, done = parts(engine.answer(wave))
  others = [tiny_model.question(0.4, 1), wave, tiny_model.question(3.0, 2)]
  answers = engine.text_answers(waves=others, batch_size=4)
  assert answers[1] == done.text and len(set(answers)) > 1
  assert ''.join(p.text for p in pieces) == done.text


def test_text_alone_takes_no_parts_of_speech(engine, tmp_path):
  whole = tiny_model.tiny_bundle(tmp_path)
  language_model = model_folder.Bundle(
    whole.config, {'llm': whole.params['llm']}, whole.engine, whole.tokenizer
  )
  reader = Engine(language_model, hears=False, speaks=False)
  assert reader.warm_up() > 0
  pieces, slices, done = parts(reader.answer(text='What is two plus two?'))
  assert not slices and not len(done.waveform) and done.first_audio_at is None
  spoken = parts(engine.answer(text='What is two plus two?'))[2]
  assert (
    ''.join(p.text for p in pieces) == done.text == spoken.text and done.scores == spoken.scores
  )
  with pytest.raises(errors.EchoXError, match='only reads text: write the question'):
    next(reader.answer(tiny_model.question()))
  with pytest.raises(errors.CheckpointError, match='lacks whisper, adapter, unit_text_embedding'):
    Engine(language_model)


def test_written_questions_too(engine):
  texts = ['What is two plus two?', 'Paris?', 'Capitals of countries']
  batched = engine.text_answers(texts, batch_size=2)
  assert [parts(engine.answer(text=t))[2].text for t in texts] == batched
  assert len(set(batched)) > 1


def test_slices_cover_the_answer_in_order_and_give_the_waveform(engine):
  _, slices, done = parts(engine.answer(tiny_model.question()))
  assert len(slices) > 1 and [s.index for s in slices] == list(range(len(slices)))
  assert [s.tokens[0] for s in slices] == [0, *(s.tokens[1] for s in slices[:-1])]
  assert slices[-1].tokens[1] == len(done.scores) == len(done.token_times)
  assert ''.join(''.join(s.text for s in slices).split()) == ''.join(done.text.split())
  np.testing.assert_array_equal(np.concatenate([s.waveform for s in slices]), done.waveform)
  assert all(len(s.waveform) % 320 == 0 and np.isfinite(s.waveform).all() for s in slices)
  assert all(len(s.units) == 2 * len(s.unit_words) for s in slices)


def test_the_first_sound_is_ready_before_the_text_is_finished(engine):
  events = list(engine.answer(tiny_model.question()))
  first = next(i for i, e in enumerate(events) if isinstance(e, SpokenSlice) and len(e.waveform))
  assert any(isinstance(e, TextPiece) for e in events[first:])
  assert (
    events[first].ready_at
    == events[-1].first_audio_at
    < events[-1].token_times[-1]
    <= events[-1].finished_at
  )


def test_what_exceeds_a_budget_is_counted_and_nothing_is_lost(engine):
  # slices of more than 6 tokens do occur
  _, slices, done = parts(engine.answer(tiny_model.question()))
  assert done.overflow['slice_tokens'] > 0 and done.overflow['speech_positions'] > 0
  assert max(b - a for a, b in (s.tokens for s in slices)) == 6
  assert slices[-1].tokens[1] == len(done.scores)
  wave, lost = engine.vocode(np.arange(170) % 20, np.ones(170, np.int32))
  assert wave.shape == (160 * 320,) and lost == 10


def test_unit_words_and_units_that_are_left_out_are_counted(engine, monkeypatch):
  _, slices, done = parts(engine.answer(tiny_model.question()))
  assert done.overflow['unknown_unit_words'] == done.overflow['dropped_units'] == 0
  said = np.concatenate([s.unit_words for s in slices])
  monkeypatch.setattr(engine.unit_language, 'vocab_size', int(said.max()))
  _, fewer, done = parts(engine.answer(tiny_model.question()))
  assert done.overflow['unknown_unit_words'] == int((said == said.max()).sum()) > 0
  assert sum(len(s.unit_words) for s in fewer) == len(said) - done.overflow['unknown_unit_words']
  monkeypatch.undo()
  limited = dataclasses.replace(prompts.PROFILES['paper'], unit_id_limit=10)
  monkeypatch.setitem(prompts.PROFILES, 'paper', limited)
  _, _, done = parts(engine.answer(tiny_model.question()))
  units = np.asarray(engine.unit_language.decode(said))
  assert done.overflow['dropped_units'] == int((units >= 10).sum()) > 0


def test_a_question_beyond_the_positions_of_the_model_is_refused(tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  bundle.config = with_positions(bundle.config, llm=48)
  with pytest.raises(
    errors.EchoXError, match='positions for 28 .llm.max_positions 48.: ask a shorter one'
  ):
    next(Engine(bundle).answer(text='What is two plus two? Paris? two plus'))


@pytest.mark.parametrize(
  'fields, reason',
  [
    (
      dict(llm=31),
      'no position for a question beside engine.max_new_tokens 20 and '
      'adapter.shrink_budget 12, since llm.max_positions is 31: lower the budgets',
    ),
    (
      dict(trunk=20),
      'no position for a unit word beside streaming.max_slice_tokens 6, since '
      'unit_decoder.trunk.max_positions is 20: lower it',
    ),
  ],
)
def test_a_model_without_positions_for_its_own_budgets_is_refused(tmp_path, fields, reason):
  bundle = tiny_model.tiny_bundle(tmp_path)
  bundle.config = with_positions(bundle.config, **fields)
  with pytest.raises(errors.ConfigError, match=reason):
    Engine(bundle)


def test_a_slice_that_needs_more_positions_than_there_are_is_cut_and_counted(engine, tmp_path):
  def words(engine):
    _, slices, done = parts(engine.answer(tiny_model.question()))
    return [len(s.unit_words) for s in slices], done.overflow['unit_words']

  needed, _ = words(engine)
  bundle = tiny_model.tiny_bundle(tmp_path)
  least = positions.slice_row(bundle.config, 0)
  bundle.config = with_positions(bundle.config, trunk=least + max(needed) - 1)
  got, cut = words(Engine(bundle))
  assert max(got) == max(needed) - 1 and cut >= sum(n == max(needed) for n in needed)


@pytest.mark.parametrize(
  'temperature, top_p',
  [(-0.1, 0.9), (float('nan'), 0.9), (float('inf'), 0.9), (0.2, 0.0), (0.2, 1.1)],
)
def test_a_sampling_that_is_none_is_refused(engine, temperature, top_p):
  with pytest.raises(errors.EchoXError, match='is out of range: give a temperature of 0 or more'):
    next(engine.answer(text='Paris?', temperature=temperature, top_p=top_p))


def test_sampling_is_repeatable_and_differs_between_seeds(engine):
  say = lambda seed: (
    parts(engine.answer(text='Paris?', temperature=3.0, top_p=0.99, seed=seed))[2].text
  )
  assert say(1) == say(1) != say(2)


def test_given_durations_are_kept(engine):
  wave, lost = engine.vocode(np.asarray([1, 2, 3]), np.asarray([4, 1, 5]))
  assert wave.shape == (10 * 320,) and lost == 0
  assert engine.vocode(np.zeros(0, np.int32))[0].shape == (0,)


@pytest.mark.parametrize(
  'wave,reason',
  [
    (np.zeros(16000, np.float32), 'silent'),
    (np.zeros(0, np.float32), 'lasts only'),
    (tiny_model.question(3.5), 'at most 3 s'),
    (np.full(16000, np.nan, np.float32), 'not finite'),
    (np.ones((16000, 2), np.float32), 'one channel'),
  ],
)
def test_bad_audio_is_refused_in_one_sentence(engine, wave, reason):
  with pytest.raises(errors.AudioError, match=reason) as caught:
    next(engine.answer(wave))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'text,reason', [('', 'empty'), ('  \n', 'empty'), ('two plus ' * 60, 'at most 48')]
)
def test_bad_text_is_refused(engine, text, reason):
  with pytest.raises(errors.EchoXError, match=reason):
    next(engine.answer(text=text))
