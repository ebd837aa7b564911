"""Unit language: lossless both ways, words as asked, files, and a real gain where there is structure."""

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import UnitsConfig
from echox_jax.units import unit_language

UNITS = 30
KINDS = [('ngram', 1), ('ngram', 2), ('bpe', 1), ('plain', 1)]


def config(language='ngram', order=1, **changes):
  return UnitsConfig(num_units=UNITS, language=language, ngram_order=order, **{'max_word_units': 4, 'vocab_size': 80, **changes})


def speech_like(seed, count=60):
  """Sequences made of 25 fixed words: what a unit language should find again."""
  words = [tuple(w) for w in np.random.default_rng(7).integers(0, UNITS - 5, (25, 3))]
  rng = np.random.default_rng(seed)
  return [[u for w in rng.integers(0, 25, rng.integers(5, 15)) for u in words[w]] for _ in range(count)]


@pytest.fixture(scope='module', params=KINDS, ids=lambda kind: f'{kind[0]}{kind[1]}')
def language(request):
  return unit_language.fit(speech_like(0), config(*request.param))


repetitive = st.tuples(st.lists(st.integers(0, UNITS - 1), max_size=5), st.integers(0, 20)).map(lambda p: p[0] * p[1])


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.lists(st.integers(0, UNITS - 1), max_size=80), repetitive))
def test_lossless_on_anything(language, units):
  ids = language.encode(units)
  assert ids.dtype == np.int32
  assert language.decode(ids).tolist() == units


@settings(deadline=None, max_examples=15)
@given(st.lists(st.one_of(st.lists(st.integers(0, 9), max_size=30), repetitive), max_size=6), st.sampled_from(KINDS))
def test_lossless_whatever_it_was_fitted_on(sequences, kind):
  fitted = unit_language.fit(sequences, config(*kind, vocab_size=45, em_iterations=2))
  for units in [*sequences, list(range(UNITS))]:
    assert fitted.decode(fitted.encode(units)).tolist() == list(units)


def test_words_are_as_asked(language):
  words = language.model.words
  assert list(words[:UNITS]) == [(u,) for u in range(UNITS)]
  assert len(set(words)) == len(words) == language.vocab_size <= 80
  assert max(map(len, words)) <= 4


@pytest.mark.parametrize('kind, best', [(('ngram', 1), 0.36), (('ngram', 2), 0.36), (('bpe', 1), 0.45)])
def test_the_words_of_the_source_are_found(kind, best):
  fitted = unit_language.fit(speech_like(0), config(*kind))
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
  again = unit_language.fit(speech_like(0), config(language.kind, 2 if getattr(language.model, 'pairs', None) else 1))
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
    return 0.0 if n == 0 else max(best(n - k) + probs.get(units[n - k:n], -np.inf) for k in range(1, min(4, n) + 1))

  found = sum(fitted.model.log_probs[i] for i in fitted.encode(units))
  np.testing.assert_allclose(found, best(9))


@pytest.mark.parametrize('cfg', [config('other'), config(vocab_size=5), config(order=3), config(max_word_units=0)])
def test_configs_that_cannot_work(cfg):
  with pytest.raises(errors.ConfigError):
    unit_language.fit([[1, 2]], cfg)


def test_units_and_words_out_of_range(language):
  for call in (lambda: language.encode([UNITS]), lambda: language.encode([-1]), lambda: language.decode([500]),
               lambda: unit_language.fit([[UNITS]], config())):
    with pytest.raises(errors.DataError):
      call()


@pytest.mark.parametrize('text', ['{', '{}', '{"kind": "other", "num_units": 3, "vocabulary": [], "model": {}}'])
def test_damaged_file(tmp_path, text):
  (tmp_path / 'bad.json').write_text(text)
  with pytest.raises(errors.CheckpointError):
    unit_language.UnitLanguage.load(tmp_path / 'bad.json')
