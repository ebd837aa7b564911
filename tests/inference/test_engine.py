"""Streaming says the same as batched decoding, speaks all of it, and refuses what it cannot
take.
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from echox_jax import errors, model_folder, prompts
from echox_jax.decoding import generate
from echox_jax.inference.answering import Request, soften
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Sound, SpokenSlice, TextPiece
from echox_jax.models import echox, positions
from echox_jax.models.unit_decoder import close_slices, read_answer
from tests.helpers import tiny_model
from tests.helpers.compiling import compiling


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
  return Engine(tiny_model.tiny_bundle(tmp_path_factory.mktemp('tiny')))


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


def test_little_of_what_is_heard_is_padding(engine):
  samples = engine.questions.sizes.samples
  longest = engine.config.max_audio_seconds * 16_000
  assert samples[0] == 2 * 16_000 and samples[-1] == longest
  assert all(1.18 < after / before < 1.69 for before, after in itertools.pairwise(samples))


def test_where_text_stands_beside_speech_all_slots_are_read(engine):
  """Else there would be a program for each number of slots and each size of text."""
  cfg = engine.config
  long = dataclasses.replace(cfg, adapter=dataclasses.replace(cfg.adapter, shrink_budget=96))
  questions = dataclasses.replace(engine.questions, config=long)
  alone, beside = questions.sizes.prompt
  assert len(questions.prompt('', audio=True)) <= alone
  assert questions.speech_slots(alone) == [24, 96]
  assert questions.speech_slots(beside) == [96]


@pytest.mark.slow
def test_after_warm_up_nothing_is_compiled(engine):
  texts = ['Paris?', 'Paris lies in France.', 'What is two plus two? Paris? plus']
  waves = [None, tiny_model.question(0.5), tiny_model.question(2.9)]  # one for each length of audio
  for audio in (False, True):  # and there is a text for each length of prompt
    assert {len(engine.questions.prompt(text, audio)) > 22 for text in texts} == {False, True}
  assert engine.warm_up() > 0
  with compiling() as compiled:
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
    ways = dict(temperature=1.0, top_k=3, repetition_penalty=1.3, max_tokens=4)
    list(engine.answer(text=texts[0], **ways))
    engine.answers([Request(text=texts[0]), Request(waves[2]), Request(waves[1], texts[1])])
  assert not compiled
  with compiling() as compiled:
    jax.jit(lambda x: 3 * x)(1.0)
  assert compiled  # it would have been seen


@pytest.mark.parametrize('seconds', [0.7, pytest.param(1.5, marks=pytest.mark.slow), 2.6])
def test_streaming_says_what_whole_passes_say(engine, tmp_path, seconds):
  check_streaming(engine, tiny_model.tiny_bundle(tmp_path), tiny_model.question(seconds))


@pytest.mark.slow
@pytest.mark.parametrize(
  'llm',
  [
    pytest.param(dict(qkv_bias=True, tie_embeddings=True), id='qwen2'),
    pytest.param(dict(qk_norm=True, head_dim=12), id='qwen3'),
  ],
)
def test_streaming_says_what_whole_passes_say_whatever_the_family(tmp_path, llm):
  bundle = tiny_model.tiny_bundle(tmp_path, **llm)
  check_streaming(Engine(bundle), bundle, tiny_model.question())


@pytest.mark.slow
def test_streaming_says_what_whole_passes_say_where_text_runs_beside_it(tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  decoder = dataclasses.replace(
    bundle.config.unit_decoder, text_stride=3, text_fusion=True, closing_ids=(11,)
  )
  cfg = dataclasses.replace(bundle.config, unit_decoder=decoder)
  bundle = dataclasses.replace(bundle, config=cfg, params=tiny_model.tiny_params(cfg))
  check_streaming(Engine(bundle), bundle, tiny_model.question())


@pytest.mark.slow
def test_streaming_says_what_whole_passes_say_where_words_are_heard(tmp_path, monkeypatch):
  made = tiny_model.tiny_bundle(tmp_path)
  own = dict(tied_ctc=True, spelled_ctc=True, drop_blank=True, output='words', num_layers=2)
  cfg = dataclasses.replace(
    made.config,
    adapter=dataclasses.replace(made.config.adapter, **own),
    unit_decoder=dataclasses.replace(made.config.unit_decoder, text_table='spelling'),
  )
  bundle = dataclasses.replace(made, config=cfg, params=tiny_model.tiny_params(cfg))
  engine = Engine(bundle)
  assert 'ctc_head' in engine.params['adapter']  # how tokens are written is added up once
  check_streaming(engine, bundle, tiny_model.question())
  # where nothing is heard, the LLM answers all the same, or is not asked
  hear = engine.programs.hear

  def nothing(*args):
    speech, labels = hear(*args)
    return speech._replace(embeddings=0 * speech.embeddings, kept=0 * speech.kept), labels

  monkeypatch.setattr(engine.programs, 'hear', nothing)
  wave, said = tiny_model.question(0.5), 'What lies in France?'
  assert parts(engine.answer(wave))[2].text != said
  budgets = dataclasses.replace(engine.budgets, unheard=said)
  asks_again = Engine(dataclasses.replace(bundle, engine=budgets))
  monkeypatch.setattr(asks_again.programs, 'hear', nothing)
  _, slices, done = parts(asks_again.answer(wave))
  assert done.text == said and slices[0].text and len(done.waveform)
  assert (
    parts(asks_again.answer(text='Paris?'))[2].text == parts(engine.answer(text='Paris?'))[2].text
  )
  long = dataclasses.replace(bundle, engine=dataclasses.replace(budgets, unheard=said * 9))
  with pytest.raises(errors.ConfigError, match='engine.unheard has .* tokens: give at most 31'):
    list(Engine(long).answer(wave))


def check_streaming(engine, bundle, wave):
  """Text, unit words and sound against the batched loops of `decoding.generate` on the parameters
  as they are stored.
  """
  params, cfg = bundle.params, bundle.config
  ids = np.asarray([engine.questions.prompt('', True)], np.int32)

  @jax.jit
  def answer(params):
    states, lengths = echox.encode_speech(params, cfg, wave[None], np.asarray([len(wave)]))
    return generate.generate_text(params, cfg, ids, states, lengths, 20)

  @jax.jit
  def speak(params, states, tokens, lengths):
    adapted = read_answer(params, cfg, states, tokens)
    table = params['unit_text_embedding']['embedding']
    closed = close_slices(cfg, table, adapted, tokens, lengths)
    return generate.decode_unit_words(params['echo'], cfg, table, *closed, 12)

  pieces, slices, done = parts(engine.answer(wave))
  said = answer(params)
  whole = [int(i) for i in said.ids[0, : int(said.lengths[0])]]
  spoken = [n for n, i in enumerate(whole) if i != cfg.special_ids.bos]
  assert done.text == ''.join(p.text for p in pieces)
  assert done.text == bundle.tokenizer.decode([whole[n] for n in spoken])
  for one in slices:
    rows = np.zeros((1, 6, said.hidden.shape[2]), np.float32)
    own = spoken[one.tokens[0] : one.tokens[1]]
    rows[0, : len(own)] = np.asarray(said.hidden)[0, own]
    tokens = np.zeros((1, 6), np.int32)
    tokens[0, : len(own)] = [whole[n] for n in own]
    words = speak(params, rows, tokens, np.asarray([len(own)]))
    np.testing.assert_array_equal(one.unit_words, words.ids[0, : int(words.lengths[0])])
    whole_slice = np.array(engine.vocode(one.units)[0])
    assert len(whole_slice) == len(one.waveform)
    soften(whole_slice, one is not slices[0], one is not slices[-1])
    # twice the distance of float32 from float64 here, 1.2e-5 of the peak
    assert np.abs(whole_slice - one.waveform).max() <= 2.4e-5 * np.abs(whole_slice).max()


def test_a_token_may_end_an_answer(engine, tmp_path):
  def ids(own):
    answering = own.ask(Request(text='Paris?'))
    *_, done = own.stream(answering)
    assert own.tokenizer.decode(answering.ids) == done.text
    return list(answering.ids)

  whole = ids(engine)
  at = next(n for n in range(3, len(whole)) if whole[n] not in whole[:n])
  bundle = tiny_model.tiny_bundle(tmp_path)
  again = whole.index(whole[0], 1) if whole[0] in whole[1:] else len(whole)
  for end, said in ((whole[at], whole[:at]), (whole[0], whole[:again])):
    budgets = dataclasses.replace(tiny_model.ENGINE, ending_ids=(end,))
    assert ids(Engine(dataclasses.replace(bundle, engine=budgets))) == said


def test_what_conversations_open_with_is_read_once(tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  config = dataclasses.replace(bundle.config, system_message='Capitals of countries.')
  engine, whole = (Engine(dataclasses.replace(bundle, config=config)) for _ in range(2))
  assert len(engine.questions.opening) > 3
  whole.questions = dataclasses.replace(whole.questions, knows_opening=False)
  requests = [
    Request(tiny_model.question(1.5)),
    Request(tiny_model.question(0.7, 1)),
    Request(text='Paris?'),
  ]
  said = [[events[-1] for events in own.answers(requests)] for own in (engine, whole)]
  assert len({done.text for done in said[1]}) == 3
  for done, expected in zip(*said):
    assert done.text == expected.text
    np.testing.assert_allclose(done.waveform, expected.waveform, atol=1e-3)
  # where speech hides the EOTs before it
  released = dataclasses.replace(config, profile='released')
  assert not Engine(dataclasses.replace(bundle, config=released)).questions.opening


def test_there_is_no_click_where_slices_meet(engine):
  """The step is 50 dB below the level around it; what is inside a slice is left as it is."""
  _, slices, _ = parts(engine.answer(tiny_model.question()))
  spoken = [own.waveform for own in slices if len(own.waveform)]
  assert len(spoken) > 1
  for before, after in itertools.pairwise(spoken):
    around = np.concatenate([before[-320:], after[:320]])
    step, level = abs(float(after[0]) - float(before[-1])), float(np.sqrt(np.mean(around**2)))
    assert level > 1e-5 and step <= level * 10 ** (-50 / 20)
  whole = np.array(engine.vocode(slices[0].units)[0])
  np.testing.assert_allclose(spoken[0][80:-80], whole[80:-80], atol=1e-5 * np.abs(whole).max())


def test_answers_are_the_same_alone_and_beside_others(engine):
  """More questions than there are rows: they come and go while others are being answered."""
  requests = [Request(tiny_model.question(s, i)) for i, s in enumerate((1.5, 0.7, 2.6, 1.1))]
  requests += [Request(text='Paris?'), Request(text='two plus', temperature=2.0, seed=5)]
  together = [events[-1] for events in engine.answers(requests)]
  for request, beside in zip(requests, together):
    options = dict(temperature=request.temperature, seed=request.seed)
    alone = parts(engine.answer(request.wave, request.text, **options))[2]
    assert alone.text == beside.text and alone.overflow == beside.overflow
    np.testing.assert_allclose(alone.waveform, beside.waveform, atol=1e-4)
  assert len({done.text for done in together}) > 3


def test_what_was_heard_before_it_is_asked_is_not_heard_again(engine, monkeypatch):
  wave = tiny_model.question(1.5)
  wanted = parts(engine.answer(wave))[2]
  heard, calls, hear = engine.hear(wave), [], engine.programs.hear
  monkeypatch.setattr(engine.programs, 'hear', lambda *args: calls.append(args) or hear(*args))
  for own, number in ((wave, 0), (wave.copy(), 1)):  # what was heard of other sound is not taken
    found = parts(engine.stream(engine.ask(Request(own), heard=heard)))[2]
    assert found.text == wanted.text and len(calls) == number
    np.testing.assert_array_equal(found.waveform, wanted.waveform)


def test_a_stream_that_is_left_harms_no_other(engine):
  waves = [tiny_model.question(1.5), tiny_model.question(2.6, 2)]
  wanted = [parts(engine.answer(wave))[2].text for wave in waves]
  for left_after in (0, 1, 3, 6):
    stream = engine.answer(waves[0])
    other = engine.ask(Request(waves[1]))
    for _, _ in zip(range(left_after), stream):
      pass
    stream.close()
    while engine.pump():
      pass
    assert other.events[-1].text == wanted[1]
  assert parts(engine.answer(waves[0]))[2].text == wanted[0]


def test_sound_comes_in_pieces_that_join_to_the_whole(engine):
  events = list(engine.answer(tiny_model.question()))
  sounds = [e for e in events if isinstance(e, Sound)]
  assert len(sounds) > len({e.slice for e in sounds}) > 1
  assert [e.slice for e in sounds] == sorted(e.slice for e in sounds)
  np.testing.assert_array_equal(np.concatenate([e.waveform for e in sounds]), events[-1].waveform)
  first = events.index(sounds[0])
  over = next(i for i, e in enumerate(events) if isinstance(e, SpokenSlice))
  assert first < over and sounds[0].at == events[-1].first_audio_at


def test_text_alone_takes_no_parts_of_speech(engine, tmp_path):
  whole = tiny_model.tiny_bundle(tmp_path)
  language_model = model_folder.Bundle(
    whole.config, {'llm': whole.params['llm']}, whole.engine, whole.tokenizer
  )
  reader = Engine(language_model, hears=False, speaks=False)
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
  first = next(i for i, e in enumerate(events) if isinstance(e, Sound))
  assert any(isinstance(e, TextPiece) for e in events[first:])
  done = events[-1]
  assert events[first].at == done.first_audio_at < done.token_times[-1] <= done.finished_at


def test_what_exceeds_a_budget_is_counted_and_nothing_is_lost(engine):
  # slices of more than 6 tokens do occur
  _, slices, done = parts(engine.answer(tiny_model.question()))
  assert done.overflow['slice_tokens'] > 0 and done.overflow['speech_positions'] > 0
  assert max(b - a for a, b in (s.tokens for s in slices)) == 6
  assert slices[-1].tokens[1] == len(done.scores)
  wave, lost = engine.vocode(np.arange(170) % 20, np.ones(170, np.int32))
  assert wave.shape == (160 * 320,) and lost == 10


def other(folder, **budgets):
  """An engine with other budgets."""
  bundle = tiny_model.tiny_bundle(folder)
  return Engine(dataclasses.replace(bundle, engine=dataclasses.replace(bundle.engine, **budgets)))


def test_the_first_slice_may_end_early(engine, tmp_path):
  _, slices, done = parts(engine.answer(tiny_model.question()))
  _, early, same = parts(other(tmp_path, first_slice_tokens=4).answer(tiny_model.question()))
  assert same.text == done.text and same.scores == pytest.approx(done.scores, abs=1e-5)
  start, stop = early[0].tokens
  assert start == 0 and 3 <= stop <= 4 < slices[0].tokens[1]
  assert stop == 1 + max(range(2, 4), key=lambda i: done.scores[i])
  assert early[-1].tokens[1] == slices[-1].tokens[1]


def test_a_slice_that_runs_away_is_cut_off_and_counted(engine, tmp_path):
  _, slices, done = parts(engine.answer(tiny_model.question()))
  _, shorter, cut = parts(other(tmp_path, words_per_token=1).answer(tiny_model.question()))
  assert cut.text == done.text and [s.tokens for s in shorter] == [s.tokens for s in slices]
  for whole, part in zip(slices, shorter):
    most = part.tokens[1] - part.tokens[0]
    np.testing.assert_array_equal(part.unit_words, whole.unit_words[:most])
  assert cut.overflow['unit_words'] >= done.overflow['unit_words'] > 0


def test_unit_words_and_units_that_are_left_out_are_counted(engine, tmp_path, monkeypatch):
  _, slices, done = parts(engine.answer(tiny_model.question()))
  assert done.overflow['unknown_unit_words'] == done.overflow['dropped_units'] == 0
  said = np.concatenate([s.unit_words for s in slices])
  bundle = tiny_model.tiny_bundle(tmp_path)
  fewer = dataclasses.replace(bundle, unit_language=tiny_model.pairs(int(said.max())))
  _, slices, done = parts(Engine(fewer).answer(tiny_model.question()))
  assert done.overflow['unknown_unit_words'] == int((said == said.max()).sum()) > 0
  assert sum(len(s.unit_words) for s in slices) == len(said) - done.overflow['unknown_unit_words']
  limited = dataclasses.replace(prompts.PROFILES['paper'], unit_id_limit=10)
  monkeypatch.setitem(prompts.PROFILES, 'paper', limited)
  _, slices, done = parts(Engine(tiny_model.tiny_bundle(tmp_path)).answer(tiny_model.question()))
  units = np.asarray(engine.unit_language.decode(said))
  assert done.overflow['dropped_units'] == int((units >= 10).sum()) > 0
  assert max(s.units.max() for s in slices) < 10


def test_a_question_beyond_the_positions_of_the_model_is_refused(tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  bundle = dataclasses.replace(bundle, config=with_positions(bundle.config, llm=48))
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
  bundle = dataclasses.replace(bundle, config=with_positions(bundle.config, **fields))
  with pytest.raises(errors.ConfigError, match=reason):
    Engine(bundle)


@pytest.mark.slow
def test_a_slice_that_needs_more_positions_than_there_are_is_cut_and_counted(engine, tmp_path):
  def words(engine):
    _, slices, done = parts(engine.answer(tiny_model.question()))
    return [len(s.unit_words) for s in slices], done.overflow['unit_words']

  needed, _ = words(engine)
  bundle = tiny_model.tiny_bundle(tmp_path)
  least = positions.slice_row(bundle.config, 0)
  bundle = dataclasses.replace(
    bundle, config=with_positions(bundle.config, trunk=least + max(needed) - 1)
  )
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
