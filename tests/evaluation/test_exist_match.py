"""The scoring rules of public benchmarks, by cases written by hand."""

import pytest

from echox_jax.evaluation.contains import as_number, contains
from echox_jax.evaluation.exist_match import exist_match, tokenise

# answer, accepted answers, right by exist-match of UltraEval-Audio, right by VITA-Audio
CASES = [
  # plain words
  ('The capital of France is Paris.', ['Paris'], True, True),
  ('the capital is PARIS!', ['Lyon', 'paris'], True, True),
  ('It is called Parisian.', ['Paris'], False, True),
  ('New York City is large', ['New York'], True, True),
  ('York is new', ['New York'], False, True),
  ('New, York', ['New York'], False, True),
  ('The Beatles wrote it.', ['Beatles', 'The Beatles'], True, True),
  ('a cat', ['cats'], False, False),
  ('cats', ['cat'], False, True),
  ('It was Leonardo da Vinci who painted it.', ['Leonardo da Vinci'], True, True),
  ('It was Leonardo, from Vinci.', ['Leonardo da Vinci'], False, False),
  ('I do not know.', ['know'], True, True),
  ('Washington', ['George Washington'], False, False),
  # accents and other scripts
  ('Yaoundé', ['Yaounde\u0301'], True, False),
  ('Yaoundé', ['Yaounde'], False, False),
  ('Yaounde', ['Yaoundé'], False, False),
  ('It is São Paulo.', ['são paulo'], True, True),
  ('STRASSE', ['Straße'], False, False),
  ('Straße', ['STRAßE'], True, True),
  ('Dvořák', ['dvořák'], True, True),
  ('ΑΘΗΝΑ', ['αθηνα'], True, True),
  ('Москва — столица России.', ['москва'], True, True),
  ('İstanbul', ['i\u0307stanbul'], True, True),
  ('naïve', ['naive'], False, False),
  ('北京', ['北京'], True, True),
  ('首都是北京。', ['北京'], False, True),
  ('首都是 北京 。', ['北京'], True, True),
  ('東京です', ['東京'], False, True),
  ('서울입니다', ['서울'], False, True),
  ('서울', ['서울'], True, True),
  ('मुंबई', ['मुंबई'], True, True),
  ('ｐａｒｉｓ', ['paris'], False, False),
  # punctuation and spaces
  ("It's Rock 'n' Roll.", ["rock 'n' roll"], True, True),
  ('Rock n Roll', ["Rock 'n' Roll"], False, False),
  ("O'Neill", ['ONeill'], False, False),
  ('O’Neill', ["O'Neill"], False, False),
  ('Jean-Paul Sartre', ['Jean-Paul'], True, True),
  ('Jean Paul Sartre', ['Jean-Paul'], False, True),
  ('the well-known A-Team', ['a-team'], True, True),
  ('AC/DC', ['AC DC'], False, True),
  ('U.S.A.', ['USA'], False, False),
  ('U.S.A.', ['u.s.a.'], True, True),
  ('Hello,World', ['world'], True, True),
  ('Hello_World', ['world'], True, True),
  ('New\u00a0York', ['new york'], True, True),
  ('New\n\tYork', ['New York'], True, True),
  ('"Paris"', ['Paris'], True, True),
  ('Paris (France)', ['Paris, France'], False, True),
  ('C++ and C', ['C++'], True, True),
  # numbers
  ('about 3.5 metres', ['3.5'], True, True),
  ('about 3 5 metres', ['3.5'], False, True),
  ('in 1945', ['1945'], True, True),
  ('in 19455', ['1945'], False, True),
  ('There are 7.', ['seven'], False, True),
  ('There are seven.', ['7'], False, False),
  ('There are 7.', ['seven', 'VII'], False, False),
  ('It has 1,000 legs', ['1000'], False, False),
  ('It has 21 legs', ['twenty-one'], False, True),
  ('the 2nd', ['2'], False, True),
  ('room 101b', ['101'], False, True),
  ('½ cup', ['½'], True, True),
  ('x²', ['x'], False, True),
  # empty
  ('', ['Paris'], False, False),
  ('   ', ['Paris'], False, False),
  ('Paris', [], False, False),
  ('Paris', ['', ' '], False, False),
  ('...', ['Paris'], False, False),
]


@pytest.mark.parametrize('answer,references,right,_', CASES)
def test_exist_match_as_ultraeval_audio(answer, references, right, _):
  assert exist_match(answer, references) is right


@pytest.mark.parametrize('answer,references,_,right', CASES)
def test_the_looser_rule_as_vita_audio(answer, references, _, right):
  assert contains(answer, references) is right


def test_there_are_enough_cases():
  assert len(CASES) >= 60


def test_tokens_are_runs_of_letters_digits_marks_or_single_others():
  assert tokenise("It's 3,5 %\tOK\u00a0—x2") == [
    'it',
    "'",
    's',
    '3',
    ',',
    '5',
    '%',
    'ok',
    '—',
    'x2',
  ]


@pytest.mark.parametrize(
  'text,number',
  [
    ('seven', '7'),
    ('seven colors', '7'),
    ('twenty-one', '21'),
    ('two thousand and four', '2004'),
    ('three hundred', '300'),
    ('007', '7'),
    ('paris', None),
    ('', None),
  ],
)
def test_numbers_of_the_looser_rule(text, number):
  assert as_number(text) == number
