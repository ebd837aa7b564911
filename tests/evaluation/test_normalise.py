"""Two spellings of one thing must compare as equal; two different things must not."""

import pytest

from echox_jax.evaluation import judge, normalise


@pytest.mark.parametrize(
  'text,expected',
  [
    ('fourteen', '14'),
    ('Twenty-one and three', '21 and 3'),
    ('one two three', '1 2 3'),
    ('twenty eleven', '20 11'),
    ('two hundred and five', '205'),
    ('a hundred men', '100 men'),
    ('a cat', 'a cat'),
    ('three thousand four hundred', '3400'),
    ('two and two make four', '2 and 2 make 4'),
    ('zero', '0'),
    ('1,000 days', '1000 days'),
    ('3-2 = 1', '3 minus 2 equals 1'),
    ('−5', 'minus 5'),
    ('3+2', '3 plus 2'),
    ('a well-known someone', 'a well-known someone'),
    ('hundred', 'hundred'),
    ('', ''),
  ],
)
def test_numbers_and_signs(text, expected):
  assert normalise.numbers(text) == expected


@pytest.mark.parametrize(
  'one,other',
  [
    ('3-2 is 1.', 'Three minus two is one'),
    ('fourteen', '14'),
    ('Two and two make four.', '2 and 2 make 4'),
    ('one, two', '1 2'),
    ('Five plus six', '5 + 6'),
    ('minus five', '-5'),
    ("It's a colour", 'it is a color'),
    ('Nine take away four leaves five.', '9 take away 4 leaves 5'),
    ('Element number twenty-one is scandium.', 'element number 21 is Scandium'),
  ],
)
def test_spellings_of_one_thing_are_alike(one, other):
  pytest.importorskip('whisper_normalizer', reason="the normaliser is in the extra 'eval'")
  assert normalise.normalise(one) == normalise.normalise(other)


def test_different_things_stay_different():
  pytest.importorskip('whisper_normalizer', reason="the normaliser is in the extra 'eval'")
  assert normalise.normalise('three minus two') != normalise.normalise('three two')
  assert normalise.normalise('thirteen') != normalise.normalise('thirty')


def test_word_error_rate_counts_insertions_deletions_and_substitutions():
  assert judge.word_errors('a b c d', 'a b c d') == (0, 4)
  assert judge.word_errors('a b c d', 'a x c d') == (1, 4)
  assert judge.word_errors('a b c d', 'a c d e f') == (3, 4)
  assert judge.word_errors('a b', '') == (2, 2)
  assert judge.word_errors('', 'x') == (1, 0)
