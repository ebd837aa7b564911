"""The programs of the engine use up their state: no second cache is ever in memory."""

import dataclasses

import jax
import numpy as np
import pytest

from echox_jax.inference import placement, programs
from tests.helpers import tiny_model


@pytest.mark.parametrize('width', [1, 32])
@pytest.mark.parametrize('name', ['read_first', 'read_further', 'decode_chunk', 'speak_chunk'])
def test_a_cache_is_updated_in_place(tmp_path, name, width):
  bundle = tiny_model.tiny_bundle(tmp_path)
  budgets = dataclasses.replace(bundle.engine, conversations=32, max_context=2000)
  llm = dataclasses.replace(bundle.config.llm, attention='auto')
  cfg = dataclasses.replace(bundle.config, llm=llm)
  params, cfg = placement.prepare(bundle.params, cfg, None)
  made = programs.Programs(cfg, budgets)
  rows = np.arange(width, dtype=np.int32)
  thinking, saying, none = made.new_conversations(), made.new_speaking(), np.zeros((), np.int32)
  state = saying if name == 'speak_chunk' else thinking
  cache = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
  if name.startswith('read'):
    sampling = jax.tree.map(lambda x: x[:1], state.sampling)
    rest = (none[None], np.zeros((1, 32), np.int32), None, sampling, none[None])
    if name == 'read_first':
      rest += (made.read_opening(params, np.zeros((1, 5), np.int32)),)
  elif name == 'decode_chunk':
    rest = (rows, none)
  else:
    rest = (rows, programs.spelling(bundle.unit_language, cfg), np.ones(width, bool), none)
  memory = getattr(made, name).lower(params, state, *rest).compile().memory_analysis()
  assert memory.alias_size_in_bytes >= cache
  if name != 'speak_chunk':  # its cache is too small to tell from what else it takes
    assert memory.temp_size_in_bytes < cache / 2
