"""Unit language: lossless both ways, words as asked, files, and a real gain where there is
structure.
"""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import UnitFitConfig, UnitsConfig
from echox_jax.units import ngram_fit, unit_language

UNITS = 30
KINDS = [('ngram', 1), ('ngram', 2), ('bpe', 1), ('plain', 1)]


def config(language='ngram', **changes):
  return UnitsConfig(
    num_units=UNITS, language=language, **{'max_word_units': 4, 'vocab_size': 80, **changes}
  )


def fitted_as(sequences, language='ngram', order=1, em_iterations=6, **changes):
  how = UnitFitConfig(ngram_order=order, em_iterations=em_iterations)
  return unit_language.fit(sequences, config(language, **changes), how)


SOURCE = [tuple(word) for word in np.random.default_rng(7).integers(0, UNITS - 5, (25, 3)).tolist()]


def speech_like(seed, count=60):
  """Sequences made of 25 fixed words: what a unit language should find again."""
  rng = np.random.default_rng(seed)
  return [
    [u for w in rng.integers(0, 25, rng.integers(5, 15)) for u in SOURCE[w]] for _ in range(count)
  ]


@pytest.fixture(scope='module', params=KINDS, ids=lambda kind: f'{kind[0]}{kind[1]}')
def language(request):
  return fitted_as(speech_like(0), *request.param)


repetitive = st.tuples(st.lists(st.integers(0, UNITS - 1), max_size=5), st.integers(0, 20)).map(
  lambda p: p[0] * p[1]
)


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.lists(st.integers(0, UNITS - 1), max_size=80), repetitive))
def test_lossless_on_anything(language, units):
  ids = language.encode(units)
  assert ids.dtype == np.int32
  assert language.decode(ids).tolist() == units


@settings(deadline=None, max_examples=15)
@given(
  st.lists(st.one_of(st.lists(st.integers(0, 9), max_size=30), repetitive), max_size=6),
  st.sampled_from(KINDS),
)
def test_lossless_whatever_it_was_fitted_on(sequences, kind):
  fitted = fitted_as(sequences, *kind, vocab_size=45, em_iterations=2)
  for units in [*sequences, list(range(UNITS))]:
    assert fitted.decode(fitted.encode(units)).tolist() == list(units)


def in_runs(count):
  """Reduced units of a slowly changing source."""
  rng = np.random.default_rng(5)
  return [
    [int(u) for u in units[np.flatnonzero(np.diff(units, prepend=-1))]]
    for units in (
      np.abs(np.cumsum(rng.integers(-2, 3, rng.integers(1, 300)))) % UNITS for _ in range(count)
    )
  ]


def check_lossless(language, count):
  """`count` sequences, a third each random, of the words of the source, and in runs."""
  rng, third = np.random.default_rng(11), count // 3
  sequences = [
    *([*map(int, rng.integers(0, UNITS, rng.integers(0, 200)))] for _ in range(third)),
    *speech_like(12, third),
    *in_runs(count - 2 * third),
  ]
  assert len(sequences) == count
  for units in sequences:
    assert language.decode(language.encode(units)).tolist() == units


def test_lossless_on_500_sequences(language):
  check_lossless(language, 500)


@pytest.mark.slow
def test_lossless_on_10000_sequences(language):
  check_lossless(language, 10_000)


@pytest.mark.parametrize('order', [1, 2])
def test_shards_find_the_words_that_one_shard_finds(order):
  sequences, cfg, how = speech_like(0), config(), UnitFitConfig(ngram_order=order)
  one, three = (
    unit_language.fit_shards(
      ngram_fit.InMemory(ngram_fit.make_shard(sequences[i::count]) for i in range(count)), cfg, how
    )
    for count in (1, 3)
  )
  assert one.vocabulary == unit_language.fit(sequences, cfg, how).vocabulary
  assert {*SOURCE} & {*one.model.words} == {*SOURCE} & {*three.model.words} and len(
    {*SOURCE} & {*one.model.words}
  ) >= 24
  assert three.compression(speech_like(1)) < 0.36 and three.vocab_size == 80
  for units in speech_like(2, 20):
    assert three.decode(three.encode(units)).tolist() == units


def test_what_a_shard_counts_is_bounded(monkeypatch):
  monkeypatch.setattr(ngram_fit, '_MAX_PAIRS', 7)
  shards = ngram_fit.InMemory([ngram_fit.make_shard(speech_like(seed, 10)) for seed in range(3)])
  counted = shards.map(
    'candidates',
    functools.partial(ngram_fit.count_candidates, num_units=UNITS, longest=4, limit=11),
  )
  assert all(
    len(shard[f'words{k}']) == 11 and shard[f'times{k}'].min() >= 2
    for shard in counted
    for k in (2, 3, 4)
  )
  assert (
    len(unit_language.fit_shards(shards, config(), UnitFitConfig(ngram_order=2)).model.pairs) == 7
  )


def test_words_are_as_asked(language):
  words = language.model.words
  assert list(words[:UNITS]) == [(u,) for u in range(UNITS)]
  assert len(set(words)) == len(words) == language.vocab_size <= 80
  assert max(map(len, words)) <= 4


@pytest.mark.parametrize(
  'kind, best', [(('ngram', 1), 0.36), (('ngram', 2), 0.36), (('bpe', 1), 0.45)]
)
def test_the_words_of_the_source_are_found(kind, best):
  fitted = fitted_as(speech_like(0), *kind)
  assert fitted.compression(speech_like(1)) < best  # the source's own words give 1/3


def test_plain_is_the_baseline():
  fitted = unit_language.fit([], config('plain'))
  assert fitted.vocab_size == UNITS and fitted.compression(speech_like(1, 3)) == 1.0


def test_vocabulary_fills_up():
  assert unit_language.fit(speech_like(0), config()).vocab_size == 80


def test_saved_language_is_the_same(language, tmp_path):
  language.save(tmp_path / 'language.json')
  loaded = unit_language.UnitLanguage.load(tmp_path / 'language.json')
  assert loaded.vocabulary == language.vocabulary
  for sequence in speech_like(2, 10):
    np.testing.assert_array_equal(loaded.encode(sequence), language.encode(sequence))


def test_fitting_is_deterministic(language):
  order = 2 if getattr(language.model, 'pairs', None) else 1
  again = fitted_as(speech_like(0), language.kind, order)
  assert again.vocabulary == language.vocabulary


def test_vocabulary_is_written_as_released():
  fitted = unit_language.fit([[3, 4, 5] * 10], config())
  assert fitted.vocabulary[3] == '▁3'
  assert '▁3▁4▁5' in fitted.vocabulary


def test_best_segmentation_is_found():
  """Against all segmentations of a short sequence."""
  fitted = unit_language.fit(speech_like(0), config())
  probs = dict(zip(fitted.model.words, fitted.model.log_probs))
  units = tuple(speech_like(3, 1)[0][:9])

  def best(n):
    return (
      0.0
      if n == 0
      else max(best(n - k) + probs.get(units[n - k : n], -np.inf) for k in range(1, min(4, n) + 1))
    )

  found = sum(fitted.model.log_probs[i] for i in fitted.encode(units))
  np.testing.assert_allclose(found, best(9))


@pytest.mark.parametrize(
  'fields', [dict(language='other'), dict(vocab_size=5), dict(order=3), dict(max_word_units=0)]
)
def test_configs_that_cannot_work(fields):
  with pytest.raises(errors.ConfigError):
    fitted_as([[1, 2]], **fields)


def test_units_and_words_out_of_range(language):
  for call in (
    lambda: language.encode([UNITS]),
    lambda: language.encode([-1]),
    lambda: language.decode([500]),
    lambda: unit_language.fit([[UNITS]], config()),
  ):
    with pytest.raises(errors.DataError):
      call()


@pytest.mark.parametrize(
  'text', ['{', '{}', '{"kind": "other", "num_units": 3, "vocabulary": [], "model": {}}']
)
def test_damaged_file(tmp_path, text):
  (tmp_path / 'bad.json').write_text(text)
  with pytest.raises(errors.CheckpointError):
    unit_language.UnitLanguage.load(tmp_path / 'bad.json')
