"""Scores and the report, made from a hand-made store."""

import dataclasses
import json
import re
import time

import pytest

from echox_jax import errors
from echox_jax.evaluation import page, summary
from echox_jax.evaluation.questions import Question
from echox_jax.evaluation.store import SPOKEN, WRITTEN
from launch import evaluate
from tests.helpers import answer_stores
from tests.helpers.answer_stores import JUDGE

for package in ('whisper_normalizer', 'scipy'):
  pytest.importorskip(package, reason="the scores need the extra 'eval'")


def right(how, number):
  return f'The capital is City {number // 2}, a place of several words.'


def wrong_in_speech(how, number):
  """Every second spoken question is misheard by one word."""
  text = right(how, number)
  return text.replace('City', 'Kitty') if how == SPOKEN and number % 4 == 0 else text


def summarised(made):
  rows = summary.read_rows(made, JUDGE)
  return summary.summarise(made, rows, {}), rows


def test_scores_gaps_and_groups(tmp_path):
  made = answer_stores.write(
    tmp_path / 'a', answer_stores.capitals(40), right, wrong_in_speech, sounds=False
  )
  found, _ = summarised(made)
  values = {way: own['exist_match']['value'] for way, own in found['ways'].items()}
  assert values == {'T2T': 1.0, 'T2S': 1.0, 'S2T': 1.0, 'S2S': 0.75}
  gap = found['gaps']['S2T - S2S']
  assert gap['value'] == 0.25 and 0.1 < gap['low'] < 0.25 < gap['high'] < 0.4
  assert found['gaps']['T2T - S2T'] == {'value': 0.0, 'low': 0.0, 'high': 0.0, 'count': 40}
  words = len(right(SPOKEN, 0).split())
  alike = found['agreement']['S2T - S2S']  # one word in ten of every fourth answer
  assert alike['rouge_l']['value'] == pytest.approx(1 - 0.25 / words, abs=1e-4)
  assert alike['alike']['value'] == 1.0
  hearing = found['by_voice']['voice 0']['agreement']
  assert hearing['rouge_l']['value'] == hearing['alike']['value'] == 1.0
  assert found['ways']['S2S']['wer']['value'] == pytest.approx(0.25 / words, abs=1e-4)
  assert found['ways']['T2S']['wer']['value'] == 0.0
  assert found['by_voice']['voice 0']['S2S']['exist_match']['value'] == 0.5
  assert found['by_voice']['voice 1']['S2S']['exist_match']['value'] == 1.0
  assert sum(own['questions'] for own in found['by_category'].values()) == 40
  assert found['by_length'] == {}  # all answers have ten words
  assert found['speech']['words_per_second'] == 2.0
  assert found['times'] == {
    'timed_questions': 1,
    'first_audio_s': 0.1,
    'real_time_factor': 0.25,
    'sound_before_text_ended': 1.0,
  }
  assert found['speech']['slices_per_answer'] == 1.0


def test_silent_and_looping_answers_are_counted(tmp_path):
  said = lambda how, number: '' if how == WRITTEN else 'a loop ' * (3 + 5 * number)
  made = answer_stores.write(tmp_path / 'a', answer_stores.capitals(4), said, sounds=False)
  found, _ = summarised(made)
  assert found['counts']['silent'] == 2 and found['counts']['overflow'] == {'unit_loops': 4}
  assert list(found['by_length']) == ['5-9 words', '10-19 words', '20-39 words']
  assert found['ways']['T2S']['wer'] is None  # no words at all


def test_multiple_choice_and_instructions_have_scores_of_their_own(tmp_path):
  letters = [Question(f'q{i}', f'Which {i}?', ('B',)) for i in range(4)]
  said = lambda how, number: 'The answer is B.' if number else 'Well.'
  made = answer_stores.write(tmp_path / 'a', letters, said, task='choice', sounds=False)
  found, _ = summarised(made)
  assert found['ways']['S2T']['choice']['value'] == 0.75
  assert found['counts']['unread_choices'] == dict.fromkeys(answer_stores.WAYS, 1)
  orders = (
    ('punctuation:no_comma', {}),
    ('startend:quotation', {}),
    ('language:response_language', {'language': 'en'}),
  )
  asked = [dataclasses.replace(letters[0], references=(), instructions=orders)]
  made = answer_stores.write(
    tmp_path / 'b', asked, lambda *_: 'No comma', task='instructions', sounds=False
  )
  found, _ = summarised(made)
  assert found['ways']['T2T']['strict']['value'] == 0.0
  assert found['ways']['T2T']['strict_instructions']['value'] == 0.5
  assert found['counts']['unscored_instructions'] == {'language:response_language': 1}


def test_a_thousand_answers_are_scored_in_ten_seconds(tmp_path):
  answer_stores.write(
    tmp_path / 'a', answer_stores.capitals(1000), right, wrong_in_speech, sounds=False
  )
  start = time.process_time()
  evaluate.main(['--rescore', '--out', str(tmp_path / 'a')])
  assert time.process_time() - start < 10


def test_a_judge_of_phonemes_scores_in_phonemes(tmp_path):
  questions = [Question(f'q{i}', f'Where {i}?', ('Paris',)) for i in range(2)]
  made = answer_stores.write(tmp_path / 'a', questions, lambda *_: 'Paris.', sounds=False)
  heard = {(WRITTEN, 0): 'a p a r i s', (WRITTEN, 1): 'p a r i'}
  own = {'said': 'p a r i s', 'references': ['p a r i s']}
  for number, batch in enumerate(made.batches):
    rows = [
      {'asked': how, 'number': i, 'heard': heard.get((how, i), 'p a r i s')} | own
      for how, i in batch
    ]
    made.write('heard/hama', number, rows)
  found = summary.summarise(made, summary.read_rows(made, 'hama'), {})
  assert found['ways']['T2S']['exist_match']['value'] == 0.5
  assert found['ways']['T2S']['per']['value'] == 0.2 and 'wer' not in found['ways']['T2S']
  assert found['gaps']['T2T - S2S']['value'] == 0.0


def data_of(folder):
  text = (folder / 'report.html').read_text('utf-8')
  return text, json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])


def test_a_report_plays_its_sounds_and_asks_no_other_host(tmp_path):
  hostile = Question('q</script><b>', '<img src=x onerror=alert(1)>', ('<i>',))
  questions = [*answer_stores.capitals(6), hostile]
  made = answer_stores.write(tmp_path / 'a', questions, right, wrong_in_speech)
  found, rows = summarised(made)
  page.write(made, found, rows)
  text, data = data_of(tmp_path / 'a')
  assert 'http' not in text.replace('http-equiv', '') and '<img' not in text and '<b>' not in text
  (run,) = data['runs']
  assert [question['id'] for question in run['questions']] == [q.id for q in questions]
  for question in run['questions']:
    assert (tmp_path / 'a' / question['sound']).is_file()
    for way, said in question['said'].items():
      assert (said['sound'] is not None) == (way[2] == 'S')
      assert said['sound'] is None or (tmp_path / 'a' / said['sound']).is_file()
  # both voices hear the answer to the one written question
  one, other = run['questions'][:2]
  assert one['said']['T2S']['sound'] == other['said']['T2S']['sound']
  assert one['said']['S2S']['sound'] != other['said']['S2S']['sound']


def test_two_runs_are_compared_over_the_questions_of_both(tmp_path):
  before = answer_stores.write(
    tmp_path / 'before', answer_stores.capitals(30), right, wrong_in_speech
  )
  answer_stores.write(tmp_path / 'now', answer_stores.capitals(40), right)
  command = ['--rescore', '--out', str(tmp_path / 'now'), '--compare', str(before.folder)]
  evaluate.main(command)
  _, data = data_of(tmp_path / 'now')
  gap = data['compared']['ways']['S2S']
  assert data['compared']['questions'] == 30 and gap['value'] == pytest.approx(8 / 30, abs=1e-3)
  assert 0 < gap['low'] < gap['value'] < gap['high']
  assert data['compared']['ways']['S2T']['value'] == 0.0
  sound = data['runs'][1]['questions'][0]['said']['S2S']['sound']
  assert sound.startswith('../before/') and (tmp_path / 'now' / sound).is_file()


def test_a_store_that_lacks_a_transcript_or_is_damaged_is_one_sentence(tmp_path):
  made = answer_stores.write(tmp_path / 'a', answer_stores.capitals(4), right, sounds=False)
  with pytest.raises(errors.DataError, match="lacks 3 of 3 batches of 'heard/other'"):
    summary.read_rows(made, 'other')
  (made.folder / 'answers' / '00000.json').write_text('[{')
  with pytest.raises(errors.DataError, match='is missing or damaged'):
    summary.read_rows(made, JUDGE)
