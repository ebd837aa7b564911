"""ROUGE-L against the values of Google's `rouge_score` 0.1.2 (rougeL, no stemmer)."""

import pytest

from echox_jax.evaluation.agreement import rouge_l

pytest.importorskip('whisper_normalizer', reason="the scores need the extra 'eval'")

CASES = [
  ('Bees make honey.', 'bees make honey', 1.0),
  ('Bees make honey and wax.', 'Bees make wax.', 0.75),
  ('The capital of France is Paris.', 'Paris is the capital of France.', 2 / 3),
  ('a b c d e f', 'f e d c b a', 1 / 6),
  ('one one one', 'one', 0.5),
  ('I do not know.', 'Paris.', 0.0),
  ('', 'Paris.', 0.0),
  ('', '', 1.0),
]


@pytest.mark.parametrize('one, other, expected', CASES)
def test_the_longest_common_words(one, other, expected):
  assert rouge_l(one, other) == pytest.approx(expected)
  assert rouge_l(other, one) == pytest.approx(expected)


def test_numbers_and_spelling_are_normalised():
  assert rouge_l('It has seven colours.', 'it has 7 colors') == 1.0
