"""Words near in meaning and in sound, and their places in the spaces of a model."""

import dataclasses

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.evaluation import gap, near_words
from echox_jax.evaluation.near_words import Neighbours
from tests.helpers import tiny_model

TOKENS = dict(hey=(1, 2), hi=(1,))  # "hey" is written with the token of "hi"; others have their own


def spelt(text):
  return [(word, TOKENS.get(word, (hash(word),))) for word in text.split()]


FACTS = (
  ('greetings', spelt('say hi'), ('hi',)),
  ('greetings', spelt('say hello'), ('hello',)),
  ('greetings', spelt('good morning'), ('Morning',)),
  ('heights', spelt('it is high'), ('high',)),
  ('heights', spelt('it is tall'), ('tall',)),
  ('games', spelt('a hey'), ('hey',)),
)
SAID = dict(
  hi='hY',
  hey='hY',
  hello='helO',
  morning='mORnig',
  high='hY',
  tall='tAl',
  say='sE',
  good='gud',
  it='it',
)


def test_hi_hello_and_high():
  words = near_words.vocabulary(FACTS, lambda word: SAID.get(word, ''))
  assert {word.text for word in words} == set(SAID)  # "is" has no pronunciation
  found = {one.anchor: one for one in near_words.neighbours(words)}
  assert (found['hi'].meaning, found['hi'].sound) in (('hello', 'high'), ('morning', 'high'))
  assert found['high'].sound == 'hey' and found['high'].meaning == 'tall'
  assert 'good' not in found and found['hi'].unrelated not in ('say', 'hi', 'high', 'hello')


def test_a_corpus_without_such_words_is_refused():
  words = near_words.vocabulary(FACTS[:1], lambda word: SAID.get(word, ''))
  with pytest.raises(errors.DataError, match='no word of the answers has a neighbour'):
    near_words.neighbours(words)


def test_similarities_of_places_made_by_hand():
  vectors = dict(a=np.array([2.0, 0]), m=np.array([2.0, 0.2]), s=np.array([0, 2.0]), u=-np.ones(2))
  units = dict(a=(1, 2, 3, 4), m=(9, 9, 9, 9), s=(1, 2, 3, 5), u=())
  places = gap.Places({gap.STATES: vectors}, {gap.UNITS: units})
  found = gap.similarities(places, [Neighbours('a', 'm', 's', 'u')] * 3)
  states = {kind: values[0] for kind, values in found[gap.STATES].items()}
  assert states['meaning'] > 0.9 > states['sound'] > states['unrelated']
  assert {kind: values[0] for kind, values in found[gap.UNITS].items()} == dict(
    meaning=0.0, sound=0.75, unrelated=0.0
  )
  summary = gap.summarise(found)
  told = gap.in_words('before echo training', summary)
  assert 'In S2T states before echo training, words near in meaning are more alike' in told
  assert 'In units before echo training, words near in sound are more alike' in told


def test_the_words_of_an_answer_are_found_in_all_spaces(tmp_path):
  model = tiny_model.tiny_bundle(tmp_path)
  params = {**model.params, 't2c': model.params['echo']}
  model = dataclasses.replace(model, params=params)
  ids = np.asarray(model.tokenizer.encode('Paris lies in France.'))
  found = gap.word_tokens(model.tokenizer, ids)
  assert [word for word, _ in found] == ['paris', 'lies', 'in', 'france']
  places = [int(i) for _, tokens in found for i in tokens]
  assert sorted(places) == places and len(ids) - 1 in (places[-1], places[-1] + 1)
  asked = [
    gap.Asked(tiny_model.question(0.5, seed), answer)
    for seed, answer in enumerate(('Paris lies in France.', 'Two plus two.'))
  ]
  located = gap.locate(model, asked, ['paris', 'france', 'two'])
  for space in (gap.READ, gap.UNITS):
    assert set(located.units[space]) == {'paris', 'france', 'two'}
  for space in gap.SPACES[:3]:
    assert all(vector.shape == (32,) for vector in located.vectors[space].values())
  table = model.params['unit_text_embedding']['embedding']
  np.testing.assert_allclose(
    located.vectors[gap.EMBEDDINGS]['paris'], table[ids[found[0][1]]].mean(axis=0), rtol=1e-5
  )
