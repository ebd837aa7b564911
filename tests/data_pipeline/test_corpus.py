"""The demo corpus: its facts are sound, its splits are apart, and building it is safe to repeat."""

from collections import Counter
import hashlib
import re

import numpy as np
import pytest

from data_pipeline import dataset, schema
from data_pipeline.corpus import build, facts, sentences, speaking, voices
from echox_jax import audio
from echox_jax.errors import EchoXError

FACTS = facts.all_facts()


def test_every_question_has_one_answer():
  assert len({fact.id for fact in FACTS}) == len(FACTS) >= 400
  questions = Counter(question.lower() for fact in FACTS for question in fact.questions)
  assert set(questions.values()) == {1}
  assert all(3 <= len(fact.questions) <= 4 for fact in FACTS)


def test_answers_are_plain_words_that_contain_a_reference():
  for fact in FACTS:
    for text in (*fact.questions, fact.answer):
      assert re.fullmatch(r"[A-Za-z' ,.?]+", text), text
    assert 'minus' not in fact.answer
    assert fact.references and any(reference in fact.answer for reference in fact.references)
    assert 4 <= len(fact.answer.split()) <= 13
  two_sentences = sum(fact.answer.count('.') == 2 for fact in FACTS)
  assert 0.1 < two_sentences / len(FACTS) < 0.2


def test_arithmetic_is_right():
  words = {facts.in_words(n): n for n in range(100)}
  assert words['zero'] == 0 and words['forty two'] == 42 and len(words) == 100
  signs = {'plus': 1, 'less': -1}
  for fact in FACTS:
    if fact.category == 'arithmetic':
      a, sign, b, result = re.fullmatch(
        r'(\w+) (plus|less) (\w+) is (\w+)\.', fact.answer.lower()
      ).groups()
      assert words[a] + signs[sign] * words[b] == words[result] >= 0
      assert str(words[result]) in fact.references


def test_extra_sentences_are_varied_and_no_answers():
  texts = sentences.extra_sentences()
  assert (
    sentences.extra_sentences(2000)[: len(texts)] == texts
    and len(set(sentences.extra_sentences(2000))) == 2000
  )
  assert len(set(texts)) == len(texts) >= 350
  assert not set(texts) & {fact.answer for fact in FACTS}
  assert all(7 <= len(text.split()) <= 15 for text in texts)


def test_test_voices_are_never_heard_in_training():
  def speaker(voice):  # one human speaker may stand behind several engines
    return next(
      name for name in ('slt', 'rms', 'awb', 'kal', 'ked', 'joe', 'heart') if name in voice.model
    )

  train = {speaker(voice) for voice in voices.TRAIN_VOICES}
  assert not train & {speaker(voice) for voice in voices.TEST_VOICES}
  altered = {(voice.engine, voice.pitch) for voice in voices.TRAIN_VOICES}
  assert not altered & {(voice.engine, voice.pitch) for voice in voices.STAND_IN_TEST_VOICES}
  names = [
    voice.name for voice in voices.TRAIN_VOICES + voices.TEST_VOICES + voices.STAND_IN_TEST_VOICES
  ]
  assert len(set(names)) == len(names)


def test_plans_cover_phrasings_and_categories():
  train = build.plan_training(FACTS, voices.TRAIN_VOICES, seed=0)
  asked = {line.clip.text for line in train}
  assert asked == {question for fact in FACTS for question in fact.questions}
  assert len({line.clip.id for line in train}) == len(train)
  test = build.plan_test(FACTS, voices.TEST_VOICES, 120, seed=0)
  assert test == build.plan_test(FACTS, voices.TEST_VOICES, 120, seed=0)
  assert test != build.plan_test(FACTS, voices.TEST_VOICES, 120, seed=1)
  by_voice = {
    voice.name: {line.fact.id for line in test if line.clip.voice == voice}
    for voice in voices.TEST_VOICES
  }
  assert len(by_voice['rms']) == 120 and by_voice['rms'] == by_voice['slt']
  counts = Counter(line.fact.category for line in test if line.clip.voice.name == 'rms')
  assert set(counts) == {fact.category for fact in FACTS} and min(counts.values()) >= 8
  assert {line.clip.text for line in test} <= asked


def fake_voice(text, voice, speed=1.0, seed=0):
  rng = np.random.default_rng([len(text), int(voice.pitch * 100), seed])
  return (0.2 * rng.normal(size=int(3200 + 200 * len(text) / speed))).astype(np.float32)


@pytest.fixture
def spoken(monkeypatch):
  count = Counter()

  def speak(text, voice, speed=1.0, seed=0):
    count[voice.name] += 1
    return fake_voice(text, voice, speed, seed)

  monkeypatch.setattr(voices, 'synthesise', speak)
  monkeypatch.setattr(voices, 'available', lambda voice: True)
  return count


SMALL = dict(
  workers=1, max_facts=12, extra_sentences=5, test_facts=4, holdout_facts=3, progress=False
)


def test_build_writes_both_data_sets_and_keeps_what_is_done(tmp_path, spoken):
  summary = build.build_corpus(tmp_path, **SMALL)
  counts = {
    name: {split: c['clips'] for split, c in splits.items()}
    for name, splits in summary['datasets'].items()
  }
  answers = [e.turns[0].text for e in dataset.read_examples(tmp_path, 'answers', 'train')]
  parts = {
    part.strip()
    for answer in answers
    if answer.count('.') > 1
    for part in re.findall(r'[^.]+\.', answer)
  }
  assert parts and parts <= set(answers)
  assert counts == {
    'answers': {'train': 9 + 5 + len(parts), 'holdout': 3},
    'questions': {'train': 12 * sum(v.phrasings for v in voices.TRAIN_VOICES), 'test': 8},
  }
  examples = list(dataset.read_examples(tmp_path, 'questions', 'train'))
  assert len(examples) == counts['questions']['train']
  user, assistant = examples[0].turns
  assert (user.role, assistant.role, user.speaker) == ('user', 'assistant', 'hibari')
  assert len(user.audio) > 4800 and not len(assistant.audio) and assistant.references
  assert any(fact.answer == assistant.text and user.text in fact.questions for fact in FACTS)
  heard = {e.turns[0].speaker for e in examples}
  assert not heard & {
    e.turns[0].speaker for e in dataset.read_examples(tmp_path, 'questions', 'test')
  }
  splits = {
    s: {e.turns[0].text for e in dataset.read_examples(tmp_path, 'answers', s)}
    for s in ('train', 'holdout')
  }
  assert not splits['train'] & splits['holdout']
  assert summary['datasets']['answers']['train']['hours'] > 0

  spoken.clear()
  again = build.build_corpus(tmp_path, **SMALL)
  assert not spoken and again['datasets'] == summary['datasets']
  build.build_corpus(tmp_path, **{**SMALL, 'extra_sentences': 6})
  # only what has changed is built again
  assert sum(spoken.values()) == sum(counts['answers'].values()) + 1


def test_sentences_of_held_out_answers_are_held_out_too(tmp_path, spoken):
  """Streaming speaks them alone, so the text-to-codec model must have heard them alone."""
  summary = build.build_corpus(
    tmp_path, names=('answers',), workers=1, extra_sentences=5, progress=False
  )
  train, held = (
    [e.turns[0].text for e in dataset.read_examples(tmp_path, 'answers', split)]
    for split in ('train', 'holdout')
  )
  of_several = [answer for answer in held if answer.count('. ')]
  parts = {part for answer in of_several for part in re.findall(r'[^. ][^.]+\.', answer)}
  assert of_several and parts <= {*train, *held} and not set(train) & set(held)
  assert len(set(held)) == summary['datasets']['answers']['holdout']['clips'] == 56
  assert 'Element number eight is oxygen.' in held and 'It is a metal.' in train


# of ids and texts of every split in order: the demo's batches, and so its scores, depend on it
ORDER = 'a54d1f2e0db0a4df7ec67c3a353bfd6e9e45062db84cef51d75025ac2aaed640'


def test_the_records_of_the_demo_are_the_same_as_ever(tmp_path, spoken, monkeypatch):
  given, write, order = {}, dataset.write_dataset, hashlib.sha256()

  def remember(data_dir, name, splits):
    given[name] = {split: list(examples) for split, examples in splits.items()}
    return write(data_dir, name, given[name])

  monkeypatch.setattr(dataset, 'write_dataset', remember)
  build.build_corpus(tmp_path, **SMALL)
  for name, splits in given.items():
    for split, examples in splits.items():
      records = dataset.open_dataset(tmp_path, name, split)
      for example, record in zip(examples, records, strict=True):
        expected = schema.encode(example)
        assert record.keys() == expected.keys()
        for column in schema.COLUMNS[2:]:
          np.testing.assert_array_equal(record[column], expected[column])
          assert record[column].dtype == expected[column].dtype
        texts = (record['id'].decode(), record['turns'].decode())
        assert texts == (expected['id'], expected['turns'])
        order.update(repr((name, split, *texts)).encode())
  assert order.hexdigest() == ORDER


def test_a_voice_that_fails_keeps_the_data_sets_before_it(tmp_path, spoken, monkeypatch):
  def silent_kal(text, voice, speed=1.0, seed=0):
    return (
      np.zeros(100, np.float32) if voice.name == 'kal' else fake_voice(text, voice, speed, seed)
    )

  monkeypatch.setattr(voices, 'synthesise', silent_kal)
  with pytest.raises(EchoXError, match='kal said nothing'):
    build.build_corpus(tmp_path, **SMALL)
  assert dataset.dataset_exists(tmp_path, 'answers') and not dataset.dataset_exists(
    tmp_path, 'questions'
  )


def test_clips_have_their_silences_and_loudness(spoken):
  clip = speaking.Clip('x', 'What is this?', voices.TEST_VOICES[0], lead=0.2, tail=0.1, level=0.05)
  wave = audio.from_int16(speaking.speak(clip))
  assert not wave[:3200].any() and not wave[-1600:].any()
  assert abs(np.std(wave[3200:-1600]) - 0.05) < 0.002


def test_missing_engines_are_told_and_replaced(monkeypatch):
  monkeypatch.setattr(voices, 'available', lambda voice: voice.engine in ('hibari', 'piper'))
  cast = voices.choose_cast()
  assert (
    cast.test == voices.STAND_IN_TEST_VOICES and 'slt' in cast.lacking and 'joe' not in cast.lacking
  )
  assert 'apt-get install flite' in voices.describe_lack(cast)
  monkeypatch.setattr(voices, 'available', lambda voice: False)
  with pytest.raises(EchoXError, match='hibari-tts'):
    voices.choose_cast()


@pytest.mark.parametrize(
  'voice', voices.TRAIN_VOICES + voices.TEST_VOICES, ids=lambda voice: voice.name
)
def test_real_voices_are_deterministic_and_follow_the_speed(voice):
  if not voices.available(voice):
    pytest.skip(f'{voice.engine} is not installed')
  slow, again, fast = (
    voices.synthesise('Good morning.', voice, speed) for speed in (0.9, 0.9, 1.3)
  )
  np.testing.assert_array_equal(slow, again)
  assert slow.dtype == np.float32 and 0.4 * 16000 < len(fast) < len(slow) < 3 * 16000
  assert not audio.is_silent(slow)


def test_the_facts_of_the_held_out_answers_can_be_asked_too(tmp_path, spoken):
  """Without changing what the demo has."""
  build.build_corpus(tmp_path, **SMALL)
  before = dict(spoken)
  summary = build.build_corpus(tmp_path, names=('answers', 'questions', 'unheard'), **SMALL)
  asked = list(dataset.read_examples(tmp_path, 'unheard', 'test'))
  held = {
    example.turns[0].text for example in dataset.read_examples(tmp_path, 'answers', 'holdout')
  }
  assert {example.turns[1].text for example in asked} == held and len(held) == 3
  heard = {example.turns[0].text for example in dataset.read_examples(tmp_path, 'answers', 'train')}
  assert not heard & held
  testers = set(summary['test_voices'])
  assert {example.turns[0].speaker for example in asked} == testers
  assert {name: count for name, count in spoken.items() if name not in testers} == {
    name: count for name, count in before.items() if name not in testers
  }
