"""The scoring rule of the paper."""

import pytest

from echox_jax.evaluation.exist_match import exist_match, tokenise


@pytest.mark.parametrize(
  'answer,references,right',
  [
    ('The capital of France is Paris.', ['Paris'], True),
    ('the capital is PARIS!', ['Lyon', 'paris'], True),
    ('It is called Parisian.', ['Paris'], False),
    ('New York City is large', ['New York'], True),
    ('New, York', ['New York'], False),
    ('Yaoundé', ['Yaounde\u0301'], True),
    ('Yaoundé', ['Yaounde'], False),
    ('about 3.5 metres', ['3.5'], True),
    ('about 3 5 metres', ['3.5'], False),
    ('', ['Paris'], False),
    ('Paris', [], False),
    ('Paris', ['', ' '], False),
  ],
)
def test_any_reference_must_occur_word_for_word(answer, references, right):
  assert exist_match(answer, references) is right


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
