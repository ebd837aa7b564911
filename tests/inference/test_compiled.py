"""A second start finds the programs of the first one and traces none of them."""

import dataclasses

import jax
import numpy as np
import pytest

from echox_jax.inference import chat, hearing, placement, programs
from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from tests.helpers import tiny_model

WAVE = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path):
  """A cache folder of its own, of whose programs none is compiled."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'programs'))
  yield tmp_path / 'programs' / 'traced'
  jax.config.update('jax_compilation_cache_dir', before)


def heard(engine):
  """The last event of an answer: its text and its sound."""
  return list(engine.stream(engine.ask(Request(WAVE, max_tokens=8))))[-1]


def refuse(*_):
  raise AssertionError('a program was traced')


@pytest.mark.slow
def test_a_second_start_traces_nothing_and_answers_the_same(tmp_path, monkeypatch, cache):
  bundle = tiny_model.tiny_bundle(tmp_path)
  first = heard(Engine(bundle))
  assert len(list(cache.iterdir())) == 2  # what makes weights ready, and what answers
  monkeypatch.setattr(placement, '_ready', refuse)
  monkeypatch.setattr(hearing, 'hear', refuse)
  for name in ('_cut', '_read', '_of_rows', '_begin_slice', '_forget'):
    monkeypatch.setattr(programs, name, refuse)
  second = heard(Engine(bundle))
  assert second.text == first.text
  np.testing.assert_array_equal(second.waveform, first.waveform)
  with pytest.raises(AssertionError, match='traced'):  # other budgets, other programs
    heard(Engine(dataclasses.replace(bundle, engine=dataclasses.replace(bundle.engine, tokens=5))))


@pytest.mark.slow
def test_damaged_and_unwritable_programs_are_traced_anew(tmp_path, cache):
  bundle = tiny_model.tiny_bundle(tmp_path)
  first = heard(Engine(bundle))
  kept = [path for folder in cache.iterdir() for path in folder.iterdir()]
  assert len(kept) > 5
  for path in kept:
    path.write_bytes(path.read_bytes()[:1000])
  assert heard(Engine(bundle)).text == first.text
  assert all(path.stat().st_size > 1000 for path in kept)
  for path in kept:
    path.unlink()
    path.mkdir()
  assert heard(Engine(bundle)).text == first.text


@pytest.mark.slow
def test_int8_weights_have_programs_of_their_own(tmp_path):
  bundle = tiny_model.tiny_bundle(tmp_path)
  model = chat.Model(
    bundle.config, bundle.params, bundle.engine, bundle.tokenizer, bundle.unit_language
  )
  for int8 in (False, True):
    one = dataclasses.replace(model, int8=int8)
    assert heard(Engine(one)).text == heard(Engine(one)).text
