"""Texts that are given are spoken by the text-to-codec model."""

import numpy as np
import pytest

from echox_jax import errors
from echox_jax.decoding import generate
from echox_jax.inference import reading
from echox_jax.inference.engine import Engine
from echox_jax.inference.reading import Reader
from echox_jax.models import unit_decoder
from tests.helpers import live_server, tiny_model
from tests.helpers.compiling import compiling


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
  reader = live_server.tiny_reader(tmp_path_factory.mktemp('tiny'))
  reader.warm_up()
  return reader


@pytest.mark.parametrize(
  'text, slices',
  [
    ('', []),
    ('  \n ', []),
    ('Short.', ['Short.']),
    ('One. Two. Three four five.', ['One.', 'Two.', 'Three four', 'five.']),
    ('One, two three', ['One,', 'two three']),
    ('abcdefghijkl', ['abcdefghij', 'kl']),
  ],
)
def test_texts_are_cut_where_they_pause(text, slices):
  encode = lambda text: [ord(letter) for letter in text]
  cut = [''.join(map(chr, ids)) for ids in reading.cut(text, encode, 10)]
  assert cut == slices and all(len(own) <= 10 for own in cut)


def test_a_slice_is_what_the_text_to_codec_model_says(reader):
  engine = reader.engine
  ids = engine.tokenizer.encode('two plus')
  (wave,) = reader.say('two plus')
  table = engine.params['unit_text_embedding']['embedding']
  row = np.zeros((1, 6), np.int32)
  row[0, : len(ids)] = ids
  words = generate.decode_unit_words(
    engine.params['t2c'],
    engine.config,
    table,
    unit_decoder.embed_text(table, row),
    np.asarray([len(ids)], np.int32),
    12,
  )
  own = np.asarray(words.ids)[0, : int(words.lengths[0])]
  expected, _ = engine.vocode(engine.unit_language.decode(own[own < 39]))
  assert len(expected) and np.abs(wave - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_long_text_is_spoken_and_nothing_is_compiled(reader):
  with compiling() as compiled:
    waves = list(reader.say('What is two plus two? Paris lies in France, one after another.'))
  assert not compiled
  assert len(waves) > 3 and all(np.isfinite(wave).all() for wave in waves)


def test_nothing_is_said_of_nothing(reader):
  with pytest.raises(errors.EchoXError, match='nothing to say'):
    next(reader.say(' '))


def test_a_model_without_the_part_is_refused(tmp_path):
  with pytest.raises(errors.CheckpointError, match='lacks t2c'):
    Reader(Engine(tiny_model.tiny_bundle(tmp_path)))
