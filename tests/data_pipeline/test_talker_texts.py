"""What the talker's corpus is made of: its questions, sentences, splits and voices."""

from collections import Counter, defaultdict
import re

import pytest

from data_pipeline.corpus import voice_lines, voices
from data_pipeline.corpus.talker import casting, everyday, families, smalltalk, sources, texts
from data_pipeline.corpus.talker.texts import Question
from echox_jax.errors import DataError
from tests.helpers import talker_sources


@pytest.fixture(scope='module')
def everyday_questions():
  return list(texts.distinct(everyday.questions()))


def test_there_are_enough_everyday_questions(everyday_questions):
  assert len(everyday_questions) >= 25_000
  assert len({question.meaning for question in everyday_questions}) >= 9_000
  assert len({texts.normalised(q.text) for q in everyday_questions}) == len(everyday_questions)
  by_category = Counter(question.category for question in everyday_questions)
  listed = ('animals', 'food', 'things', 'world', 'people', 'doings')
  assert min(by_category[name] for name in listed) >= 1_500


def test_everyday_questions_are_english(everyday_questions):
  """As far as rules can tell."""
  wrong = re.compile(
    r'\b(?:a [aeio]|an [^aeioAEIOhXu]|a a\b|an an\b|the the\b|\w+sss\b)|[{}|/]|\s\s|\s[,.?]'
  )
  assert not [q.text for q in everyday_questions if wrong.search(q.text)]
  for question in everyday_questions[::10]:
    assert texts.clean(question.text) == question.text
    assert question.text[-1] in '.?' and question.text[0].isupper()


def test_all_that_is_asked_about_once_means_the_same(everyday_questions):
  by_meaning = defaultdict(list)
  for question in everyday_questions:
    by_meaning[question.meaning].append(question.text)
  assert {'What does a horse eat?', 'Tell me what horses eat.'} <= set(
    by_meaning['animal food/horse']
  )
  # a text of two families joins their meanings, in whichever order they come
  joined = next(m for m, found in by_meaning.items() if 'Who wrote Hamlet?' in found)
  assert {'Which author wrote the play Hamlet?', 'What is Hamlet about?'} <= set(by_meaning[joined])


def test_no_meaning_is_in_two_splits(everyday_questions):
  splits = defaultdict(set)
  for question in everyday_questions:
    splits[question.meaning].add(texts.split_of(question.meaning))
  assert set(map(len, splits.values())) == {1}
  counts = Counter(texts.split_of(question.meaning) for question in everyday_questions)
  assert counts['test'] >= 800 and counts['dev'] >= 400
  assert counts['train'] >= 0.92 * sum(counts.values())
  moved = [m for m in splits if texts.split_of(m, seed=1) != texts.split_of(m, seed=0)]
  assert moved


def test_small_talk_and_words_are_not_repeated():
  said = [text for group in smalltalk.GROUPS for text in group]
  assert len(set(said)) == len(said) >= 280
  for family in families.all_families():
    assert len(set(family.pairs)) == len(family.pairs), family.name
  names = [family.name for family in families.all_families()]
  assert len(set(names)) == len(names) >= 100


@pytest.mark.parametrize(
  'text, cleaned',
  [
    ('what is  this', 'What is this.'),
    ('What’s a “byte”?', "What's a byte?"),
    ("In 'Hamlet', who dies?", 'In Hamlet, who dies?'),
    ('Who won in 1966 and 2004?', 'Who won in nineteen sixty six and two thousand four?'),
    ('Name 12 cafés; or 3?!', 'Name twelve cafes, or three!'),
    ('Rock & roll - what is it?', 'Rock and roll, what is it?'),
    ('He waited--calm', 'He waited, calm.'),
    ('What is 1,000,000 for?', ''),
    ('See http://x.org?', ''),
    ('Was it the 19th?', ''),
    ('?!', ''),
    ('word ' * 25, ''),
  ],
)
def test_texts_are_cleaned_or_refused(text, cleaned):
  assert texts.clean(text) == cleaned


def test_texts_are_the_same_whatever_their_marks():
  def ask(text, meaning):
    return Question(text, meaning, '', '')

  found = texts.distinct([ask('Is it?', 'a'), ask('is it', 'b'), ask('What now?', 'b')])
  assert [(q.text, q.meaning) for q in found] == [('Is it?', 'a'), ('What now?', 'a')]


def test_packages_are_read_where_they_are(tmp_path, monkeypatch):
  talker_sources.write(tmp_path, monkeypatch)
  asked = {question.text: question for question in texts.distinct(sources.questions())}
  assert set(asked) == {
    'Which sea has no coast?',
    'What is the capital of France?',
    'In what year did the war end?',
    'What is the hardest stone of all?',
    'Tell me what you think.',
  }
  assert asked['Which sea has no coast?'].references == ('Sargasso Sea', 'Sargasso')
  assert asked['In what year did the war end?'].references == ('1945',)
  assert {q.source for q in asked.values()} == {'red-trivia', 'chatterbot'}
  # one that the demo knows has the meaning of the demo's fact
  both = [*everyday.questions(), *sources.questions()]
  (capital,) = {
    q.meaning for q in texts.distinct(both) if q.text == 'What is the capital of France?'
  }
  assert capital == 'fact/capital_france'
  assert list(sources.sentences()) == [
    'It was full of rackets, balls and other objects.',
    'Two objects.',
    'How big is that part compared to the whole?',
    'The team is a unit.',
  ]


def test_names_and_nouns_that_were_met_are_defined(tmp_path, monkeypatch):
  talker_sources.write(tmp_path, monkeypatch, talker_sources.DEFINED)
  assert list(sources.definitions()) == [
    'Arnhem, a city in the central Netherlands.',
    'Thomas Stearns Eliot, British poet.',
    'Tower, a structure taller than its diameter.',
  ]
  talker_sources.write(tmp_path / 'other', monkeypatch, ['08950230 15 n xx Arnhem 0 | a city'])
  with pytest.raises(DataError, match='data.noun of wordnet-base is missing or damaged'):
    list(sources.definitions())


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
  monkeypatch.setenv('WNSEARCHDIR', str(tmp_path / 'none'))
  with pytest.raises(DataError, match='WordNet .* not installed: .*`apt-get install wordnet-base`'):
    list(sources.sentences())
  monkeypatch.setattr(sources.storage, 'package_folder', lambda module: None)
  with pytest.raises(DataError, match=r'Red-Trivia.* not installed: .*echox-jax\[talker\]'):
    list(sources.questions())
  talker_sources.write(tmp_path / 'there', monkeypatch)
  (sources.TRIVIA.folder() / 'general.yaml').write_text('{')
  with pytest.raises(DataError, match='general.yaml of Red-Trivia is missing or damaged'):
    list(sources.trivia())
  (sources.WORDNET.folder() / 'data.verb').unlink()
  with pytest.raises(DataError, match='data.verb of wordnet-base is missing or damaged'):
    list(sources.sentences())


def test_wordnet_has_the_words():
  if not sources.WORDNET.is_installed():
    pytest.skip('wordnet-base is not installed')
  found = list(sources.sentences())
  assert len(found) >= 40_000 and len(set(found)) == len(found)
  assert len({word for text in found for word in texts.words_of(text)}) >= 15_000
  defined = list(sources.definitions())
  assert len(defined) >= 15_000 and 'Gulu, a city in northern Uganda.' in defined
  assert all(2 <= len(text.split()) <= 20 and text[-1] in '.?!' for text in found + defined)


def test_trivia_and_dialogues_are_many():
  for source, read, least in (
    (sources.TRIVIA, sources.trivia, 2_000),
    (sources.DIALOGUES, sources.dialogues, 250),
  ):
    if not source.is_installed():
      pytest.skip(f'{source.package} is not installed')
    assert len(list(texts.distinct(read()))) >= least


CAST = voices.Cast(voices.TRAIN_VOICES, voices.TEST_VOICES, ())


def test_held_out_voices_never_speak_in_training():
  names = [f'line {i}' for i in range(2000)]
  heard = {
    split: Counter(voice_lines.speaker(casting.question(n, split, CAST, 0)) for n in names)
    for split in ('train', 'dev', 'test')
  }
  assert set(heard['train']) == {voice.name for voice in voices.TRAIN_VOICES}
  assert set(heard['dev']) == set(heard['test']) == {'rms', 'slt'}
  fast, slow = heard['train']['awb'], heard['train']['joe']
  assert 1.6 < fast / slow < 2.5 and min(heard['test'].values()) > 900


def test_lines_vary_and_are_the_same_every_time():
  lines = [casting.question(f'{i}', 'train', CAST, 0) for i in range(400)]
  assert lines == [casting.question(f'{i}', 'train', CAST, 0) for i in range(400)]
  assert lines != [casting.question(f'{i}', 'train', CAST, 1) for i in range(400)]
  assert 150 < sum('room=' in line for line in lines) < 250
  assert 150 < sum('noise=' in line for line in lines) < 250
  for line in lines:
    voice_lines.with_text(line, 'One.')  # every option is in its limits
  held = casting.question('1', 'test', CAST, 0)
  assert 'speed=' in held and 'room' not in held and 'noise' not in held and 'pitch' not in held
  assert casting.answer(3) == 'voice:hibari?lead=0.07&tail=0.07&seed=3'
