"""The unit decoder's input layout: padding changes nothing, and what is frozen stays frozen."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import prompts
from echox_jax.models import positions, unit_decoder
from echox_jax.models.attention import Mask
from echox_jax.models.unit_decoder import (
  DenoisingAdapter,
  UnitDecoder,
  init_denoising_adapter,
  read_answer,
)
from tests.helpers import tiny

CFG = tiny.CONFIG
VOCAB = CFG.llm.vocab_size


@pytest.fixture(scope='module')
def params():
  # Smaller weights than `tiny` has: states of order 1, so that rounding stays below the tolerance
  # at any optimisation level.
  return jax.tree.map(lambda x: x / 2.5 if x.ndim > 1 else x, tiny.params())


@pytest.mark.parametrize('stride', [pytest.param(0, marks=pytest.mark.slow), 3])
def test_rows_are_those_of_the_text_to_codec_template(params, stride):
  """Assembled from parts and padded, a slice gives the hidden states of the contiguous training
  row, alone or packed behind another.
  """
  cfg = with_stride(stride)
  table = params['unit_text_embedding']['embedding']
  model, variables = UnitDecoder(cfg), {'params': params['t2c']}
  texts, words = [[20, 21, 22], [23], [24, 25, 26, 27, 28]], [4, 5, 29]
  lengths = jnp.array([len(t) for t in texts])
  ids = jnp.array([t + [0] * (7 - len(t)) for t in texts])

  @jax.jit
  def assembled(variables):
    prompt = unit_decoder.slice_prompt(cfg, table, unit_decoder.embed_text(table, ids), lengths)
    given = jnp.broadcast_to(jnp.array([CFG.special_ids.bos, *(VOCAB + w for w in words)]), (3, 4))
    row = unit_decoder.extend(prompt, model.apply(variables, table, given, method='embed'))
    hidden, _ = model.apply(
      variables, row.embeddings, row.positions, Mask(row.valid, causal=True), method='hidden'
    )
    return hidden[:, prompt.valid.shape[1] :], row.valid.sum(axis=1)

  with jax.default_matmul_precision('highest'):
    hidden, sizes = assembled(variables)
    for i, text in enumerate(texts):
      whole, _ = prompts.text_to_codec_row(
        CFG.special_ids, prompts.get_profile('paper'), text, words, VOCAB
      )
      whole = whole[:-1]
      assert sizes[i] == len(whole)
      expected = jax.jit(model.apply)(variables, table, jnp.array([whole]))
      np.testing.assert_allclose(hidden[i], expected[0, -4:], atol=2e-5)
      packed, segments = jnp.array([[*whole, *whole]]), jnp.repeat(jnp.array([[0, 1]]), len(whole))
      both = jax.jit(model.apply)(variables, table, packed, None, segments[None])
      np.testing.assert_allclose(hidden[i], both[0, -4:], atol=2e-5)


def test_a_slice_that_does_not_end_gets_a_mark_behind_it():
  decoder = dataclasses.replace(CFG.unit_decoder, closing_ids=(11, 12))
  cfg = dataclasses.replace(CFG, unit_decoder=decoder)
  table = jnp.arange(40.0)[:, None] * jnp.ones((1, 3))
  ids = jnp.array([[20, 21, 22], [20, 12, 0], [20, 0, 0], [0, 0, 0]])
  lengths = jnp.array([3, 2, 1, 0])
  text, closed = unit_decoder.close_slices(cfg, table, table[ids], ids, lengths)
  assert closed.tolist() == [4, 2, 2, 0] and text.shape == (4, 4, 3)
  assert text[0, :4, 0].tolist() == [20, 21, 22, 11]
  assert text[1, :2, 0].tolist() == [20, 12] and text[2, :2, 0].tolist() == [20, 11]
  plain = unit_decoder.close_slices(CFG, table, table[ids], ids, lengths)
  np.testing.assert_array_equal(plain[0], table[ids])
  assert plain[1].tolist() == [3, 2, 1, 0]
  assert positions.slice_row(cfg, 5) == positions.slice_row(CFG, 5) + 1


def with_stride(stride):
  decoder = dataclasses.replace(CFG.unit_decoder, text_stride=stride)
  return dataclasses.replace(CFG, unit_decoder=decoder)


def test_unit_words_are_near_the_text_that_they_say():
  text, words = [20, 21, 22, 23], [1, 2, 3, 4, 5, 6, 7]
  ids, _ = prompts.text_to_codec_row(
    CFG.special_ids, prompts.get_profile('chatml'), text, words, VOCAB
  )
  found = positions.of_unit_rows(with_stride(3), jnp.array([ids]), None)[0].tolist()
  before = len(ids) - len(words) - 2
  assert found == [*range(0, 3 * before, 3), *range(len(words) + 2)]
  assert positions.of_unit_rows(CFG, jnp.array([ids]), None)[0].tolist() == [*range(len(ids))]


def test_released_prefix_has_its_own_id():
  ids = dataclasses.replace(CFG.special_ids, typo_bos=33)
  assert prompts.slice_prefix(ids, prompts.get_profile('released'))[-1] == 33
  assert (
    prompts.slice_prefix(CFG.special_ids, prompts.get_profile('paper'))[-1] == CFG.special_ids.bos
  )


def test_right_align():
  text = jnp.array([[[1.0], [2.0], [3.0]], [[4.0], [9.0], [9.0]], [[9.0], [9.0], [9.0]]])
  prefix, suffix = jnp.full((3, 2, 1), 7.0), jnp.full((3, 1, 1), 8.0)
  prompt = unit_decoder.right_align(prefix, text, jnp.array([3, 1, 0]), suffix)
  np.testing.assert_array_equal(
    prompt.embeddings[..., 0], [[7, 7, 1, 2, 3, 8], [0, 0, 7, 7, 4, 8], [0, 0, 0, 7, 7, 8]]
  )
  np.testing.assert_array_equal(prompt.valid, [[1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
  np.testing.assert_array_equal(
    prompt.positions, [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 1, 2]]
  )


def test_text_table_is_frozen_and_words_are_not(params):
  model = UnitDecoder(CFG)

  def total(table, held):
    return jnp.sum(model.apply({'params': held}, table, jnp.array([20, VOCAB + 3]), method='embed'))

  table, held = jax.grad(total, argnums=(0, 1))(
    params['unit_text_embedding']['embedding'], params['t2c']
  )
  assert not np.any(table)
  np.testing.assert_array_equal(
    np.flatnonzero(np.any(held['unit_embedding']['embedding'] != 0, axis=1)), [3]
  )


def test_denoising_adapter_drops_only_in_training(params):
  cfg = dataclasses.replace(
    CFG, unit_decoder=dataclasses.replace(CFG.unit_decoder, denoising_dropout=0.5)
  )
  states = jnp.ones((1, 2, 24))
  apply = lambda c, **kw: DenoisingAdapter(c).apply(
    {'params': params['denoising_adapter']}, states, **kw
  )
  np.testing.assert_array_equal(apply(cfg), apply(CFG))
  assert not np.allclose(
    apply(cfg, deterministic=False, rngs={'dropout': jax.random.key(0)}), apply(CFG)
  )


def test_fused_text_is_all_that_an_untrained_echo_decoder_reads(params):
  cfg = dataclasses.replace(
    CFG, unit_decoder=dataclasses.replace(CFG.unit_decoder, text_fusion=True)
  )
  states, ids = jax.random.normal(jax.random.key(0), (1, 3, 24)), jnp.array([[20, 21, 22]])
  text = params['unit_text_embedding']['embedding'][ids]
  fresh = nn.meta.unbox(init_denoising_adapter(jax.random.key(1), cfg))
  read = lambda adapter, c: read_answer({**params, 'denoising_adapter': adapter}, c, states, ids)
  np.testing.assert_array_equal(read(fresh, cfg), text)
  plain = params['denoising_adapter']
  np.testing.assert_array_equal(
    read(plain, CFG), DenoisingAdapter(CFG).apply({'params': plain}, states)
  )
  half = plain | {'gate': jnp.full(24, 0.5)}
  np.testing.assert_allclose(read(half, cfg), text + read(plain, CFG) / 2, rtol=1e-6)
