"""Tables and words of an ablation, from answers made by hand."""

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.evaluation import ablation


def answers(shares, seeds=2, questions=200):
  """Answers of which the share of a split is heard as right; the texts are all right."""
  rng = np.random.default_rng(0)
  marks = rng.random((seeds, questions))
  splits = ['heard', 'known', 'new', 'new']
  return {
    seed: [
      dict(
        id=str(i),
        split=splits[i % 4],
        s2t=True,
        s2s=bool(marks[seed, i] < shares[splits[i % 4]]),
        errors=1,
        words=4,
        lag=8 + seed,
        slices=2,
        first_audio_s=0.1,
      )
      for i in range(questions)
    ]
    for seed in range(seeds)
  }


BASE = answers(dict(heard=0.9, known=0.6, new=0.3))
WORSE = answers(dict(heard=0.9, known=0.1, new=0.0))


def test_a_row_counts_every_split():
  row = ablation.row('x', 'one that fails', WORSE, BASE)
  assert row.seeds == 2 and row.s2t.mean == 1.0 and row.wer == 0.25 and row.lag == 8.5
  assert row.s2s['heard'].mean == pytest.approx(0.9, abs=0.06)
  assert row.s2s['new words'].mean == 0.0
  assert row.gap.mean == pytest.approx(1 - (0.9 + 0.1) / 4, abs=0.05)
  assert row.difference['heard'].mean == 0.0 and row.difference['unheard'].high < 0


def test_the_words_follow_the_figures_whichever_way_they_fall():
  worse = ablation.row('x', 'one that fails', WORSE, BASE)
  told = ablation.against('echo', worse)
  assert 'Against echo, one that fails cannot be told apart on heard facts (+0.0 points' in told
  assert ' and is right less often on unheard facts (-' in told
  better = ablation.row('echo', 'echo', BASE, WORSE)
  assert 'is right more often on unheard facts (+' in ablation.against('one that fails', better)
  assert ablation.caution([worse, better]).startswith('Of 4 differences, 2 exclude 0')


def test_a_table_has_a_line_for_each_variant_and_marks_what_is_certain():
  rows = [ablation.row('echo', 'echo', BASE), ablation.row('x', 'one that fails', WORSE, BASE)]
  lines = ablation.markdown(rows).splitlines()
  assert len(lines) == 4 and len({line.count('|') for line in lines}) == 1
  assert lines[2].endswith('| base | base |') and lines[3].count('**') == 4
  assert 'first sound' in ablation.markdown(rows, timed=True)


def test_seeds_that_only_one_has_count_in_its_shares_and_not_in_the_difference():
  own, base = {0: WORSE[0], 1: WORSE[1], 7: BASE[0]}, {1: BASE[1], 2: BASE[0]}
  row, shared = ablation.row('x', '', own, base), ablation.row('x', '', {1: own[1]}, {1: base[1]})
  assert row.seeds == 3 and row.difference == shared.difference
  assert row.s2s == ablation.row('x', '', own).s2s
  rows = [ablation.row('echo', 'echo', BASE), ablation.row('x', 'other', {5: BASE[0]}, BASE)]
  assert rows[1].difference == {} and ablation.markdown(rows).splitlines()[3].endswith('| – | – |')
  assert 'other' not in ablation.in_words('Title', rows)


def test_what_is_not_trained_is_compared_with_every_seed():
  row = ablation.row('x', 'untrained', {None: WORSE[0]}, BASE)
  wanted = [
    np.mean([a['s2s'] - b['s2s'] for a, b in zip(WORSE[0], BASE[seed]) if a['split'] != 'heard'])
    for seed in (0, 1)
  ]
  assert row.seeds == 1 and row.difference['unheard'].mean == pytest.approx(np.mean(wanted))


def test_other_questions_are_refused():
  with pytest.raises(errors.DataError, match='answered different questions'):
    ablation.row('x', '', {0: WORSE[0][:10]}, BASE)
