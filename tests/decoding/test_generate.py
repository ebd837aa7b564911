"""Cached decoding equals decoding by whole forward passes, and a row in a batch equals the row
alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import prompts
from echox_jax.decoding import generate, sampler
from echox_jax.models import echox, unit_decoder
from echox_jax.models.llama import Llama
from echox_jax.models.unit_decoder import UnitDecoder
from tests.helpers import tiny

CFG = tiny.CONFIG
VOCAB = CFG.llm.vocab_size
ROW = 32  # room for a whole slice
IDS = CFG.special_ids
RELEASED = dataclasses.replace(CFG, profile='released')


@pytest.fixture(autouse=True, scope='module')
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def params():
  made = tiny.params()
  # some rows end early
  made['t2c']['lm_head']['embedding'] = (
    made['t2c']['lm_head']['embedding'].at[IDS.eot].multiply(1.8)
  )
  return made


def slow_unit_tokens(params, text, steps):
  """One slice; every token by a forward pass over the whole row of ids."""
  row = [
    *prompts.slice_prefix(IDS, prompts.get_profile('paper')),
    *text,
    *prompts.slice_suffix(IDS, prompts.get_profile('paper')),
    IDS.bos,
  ]
  allowed = np.array([IDS.eot, *range(VOCAB, VOCAB + 30)])
  model, table, variables = (
    UnitDecoder(CFG),
    params['unit_text_embedding']['embedding'],
    {'params': params['t2c']},
  )
  forward = jax.jit(
    lambda ids: model.apply(variables, model.apply(variables, table, ids), method='logits')
  )
  said = []
  while len(said) < steps:
    logits = forward(jnp.array([(row + said + [0] * ROW)[:ROW]]))[0, len(row) + len(said) - 1]
    token = int(allowed[np.argmax(np.asarray(logits)[allowed])])
    if token == IDS.eot:
      break
    said.append(token)
  return said


def test_unit_tokens_are_those_of_whole_passes(params):
  table, texts, steps = (
    params['unit_text_embedding']['embedding'],
    [[20, 21, 22], [23], [], [24, 25, 26, 27]],
    9,
  )
  ids = jnp.array([t + [0] * (6 - len(t)) for t in texts])
  decode = jax.jit(
    lambda held, text: generate.decode_unit_tokens(
      held,
      CFG,
      table,
      unit_decoder.embed_text(table, text),
      jnp.array([len(t) for t in texts]),
      steps,
    )
  )
  tokens, counts, ended = decode(params['t2c'], ids)
  assert counts[2] == 0 and ended[2]
  for i in (0, 1, 3):
    expected = slow_unit_tokens(params, texts[i], steps)
    assert tokens[i, : counts[i]].tolist() == expected
    assert bool(ended[i]) == (len(expected) < steps)


@pytest.mark.parametrize('cfg', [CFG, RELEASED], ids=lambda cfg: cfg.profile)
def test_unit_words_keep_words_only_and_count_overflow(params, cfg, monkeypatch):
  steps = 5 + (cfg is RELEASED)
  said = {
    'paper': [[VOCAB, VOCAB + 7], [VOCAB + 1] * 5],
    'released': [[IDS.bos, VOCAB, 20, VOCAB + 7], [VOCAB + 1] * 6],
  }

  def decoded(*args):
    assert args[-1] == steps
    rows = [(row + [IDS.eot] * steps)[:steps] for row in said[cfg.profile]]
    return jnp.array(rows), jnp.array([len(r) for r in said[cfg.profile]]), jnp.array([True, False])

  monkeypatch.setattr(generate, 'decode_unit_tokens', decoded)
  words = generate.decode_unit_words(
    params['t2c'], cfg, jnp.zeros((VOCAB, 24)), jnp.zeros((2, 3, 24)), jnp.ones(2, int), 4
  )
  assert words.ids.tolist() == [[0, 7, 0, 0], [1, 1, 1, 1]]
  assert words.lengths.tolist() == [2, 4] and words.overflow.tolist() == [0, 1]


def prompt_batch():
  """Two questions of different lengths with speech of different lengths."""
  rows = [
    prompts.question_prompt(IDS, prompts.get_profile('paper'), [], text, audio=True)
    for text in ([20, 21, 22, 23], [])
  ]
  width = max(map(len, rows))
  ids = np.array([row + [IDS.pad] * (width - len(row)) for row in rows])
  states = np.random.default_rng(0).normal(size=(2, 12, 16)).astype(np.float32)
  return ids, states, np.array([12, 8])


@pytest.fixture(scope='module')
def made(params):
  return jax.jit(lambda *batch: generate.generate_text(params, CFG, *batch, 8))(*prompt_batch())


def test_a_row_in_a_batch_is_the_row_alone(params, made):
  ids, states, lengths = prompt_batch()
  size = np.flatnonzero(ids[1] != IDS.pad)[-1] + 1
  alone = jax.jit(lambda *batch: generate.generate_text(params, CFG, *batch, 8))(
    ids[1:, :size], states[1:, : lengths[1]], lengths[1:]
  )
  count = int(made.lengths[1])
  assert alone.lengths.tolist() == [count]
  np.testing.assert_array_equal(alone.ids[0, :count], made.ids[1, :count])
  np.testing.assert_allclose(alone.hidden[0, :count], made.hidden[1, :count], atol=2e-5)


def test_generated_text_is_that_of_a_whole_pass(params, made):
  ids, states, lengths = prompt_batch()
  sizes = [np.flatnonzero(row != IDS.pad)[-1] + 1 for row in ids]
  rows = np.full((2, ids.shape[1] + 8), IDS.pad)
  for i, size in enumerate(sizes):
    count = int(made.lengths[i])
    rows[i, : size + count] = [*ids[i, :size], *made.ids[i, :count]]
  output = jax.jit(lambda batch: echox.s2t_forward(params, CFG, batch))(
    {'input_ids': rows, 'labels': rows, 'states': states, 'state_lengths': lengths}
  )
  logits = echox.lm_logits(params, CFG, output.hidden)
  for i, size in enumerate(sizes):
    count, start = int(made.lengths[i]), size + int(output.speech.kept[i]) - 2
    np.testing.assert_allclose(
      output.hidden[i, start : start + count], made.hidden[i, :count], atol=2e-5
    )
    np.testing.assert_array_equal(
      np.argmax(logits[i, start : start + count], axis=-1), made.ids[i, :count]
    )


def test_steps_one_by_one_are_the_batched_loop(params, made):
  @jax.jit
  def steps(ids, *speech):
    embeddings = Llama(CFG.llm).apply({'params': params['llm']}, ids, method='embed')
    spliced = echox.splice(CFG, ids, embeddings, echox.embed_speech(params, CFG, *speech))
    states = [generate.prefill(params, CFG, spliced, 4)]
    states.append(
      generate.decode_step(
        params, CFG, states[0], jnp.argmax(states[0].logits, axis=-1).astype(jnp.int32)
      )
    )
    return [state.hidden for state in states]

  for i, hidden in enumerate(steps(*prompt_batch())):
    np.testing.assert_allclose(hidden, made.hidden[:, i], atol=1e-5)


def test_text_only(params):
  ids = np.array(
    [prompts.question_prompt(IDS, prompts.get_profile('paper'), [], [20, 21], audio=False)]
  )
  made = jax.jit(lambda ids: generate.generate_text(params, CFG, ids, None, None, 4))(ids)
  assert made.ids.shape == (1, 4) and made.hidden.shape == (1, 4, 24)


def many(logits, count=2000, said=None, **changes):
  """Draws of as many rows, each of its own seed."""
  fields = dict(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0) | changes
  kinds = sampler.greedy(count)._asdict()
  rows = {name: jnp.full(count, value, kinds[name].dtype) for name, value in fields.items()}
  rows |= dict(seed=jnp.arange(count, dtype=jnp.uint32), begins=kinds['begins'])
  sampling = sampler.Sampling(**rows)
  said = None if said is None else jnp.broadcast_to(jnp.asarray(said), (count, len(said)))
  choose = jax.jit(sampler.choose)
  logits = jnp.broadcast_to(logits, (count, logits.shape[-1]))
  return np.asarray(choose(logits, sampling, jnp.zeros(count, jnp.int32), said))


def test_top_k_and_repetition_penalty():
  logits = jnp.array([[2.0, 1.0, 0.5, -1.0]])
  assert set(many(logits, top_k=2)) == {0, 1}
  assert set(many(logits, top_k=1)) == {0}
  said = [True, False, False, True]
  share = np.bincount(many(logits, said=said, repetition_penalty=2.0), minlength=4) / 2000
  lowered = np.exp([1.0, 1.0, 0.5, -2.0])
  np.testing.assert_allclose(share, lowered / lowered.sum(), atol=0.04)


@pytest.mark.parametrize('top_p', [0.3, 0.9, 0.999])
def test_a_large_vocabulary(top_p):
  """The same ids as a whole sort allows, with the likelier ones as often as they should be."""
  logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, (1, 500)), jnp.float32)
  probability = np.asarray(jax.nn.softmax(logits[0]))
  order = np.argsort(-probability)
  before = np.cumsum(probability[order]) - probability[order]
  kept = order[before <= top_p]
  drawn = many(logits, count=4000, top_p=top_p)
  assert set(drawn) <= set(kept.tolist())
  share = np.bincount(drawn, minlength=500)[kept] / 4000
  np.testing.assert_allclose(share, probability[kept] / probability[kept].sum(), atol=0.03)


def test_sampling():
  logits = jnp.log(jnp.array([[0.05, 0.6, 0.3, 0.05]]))
  draw = many(logits, temperature=1.0, top_p=0.85)
  assert sampler.choose(logits, sampler.greedy(1), jnp.zeros(1, jnp.int32)).tolist() == [1]
  share = np.bincount(draw, minlength=4) / 2000
  # 0.9 is passed only after the second
  np.testing.assert_allclose(share, [0, 2 / 3, 1 / 3, 0], atol=0.04)
  cold = many(logits, temperature=0.2, top_p=1.0)
  np.testing.assert_allclose(
    np.mean(cold == 1), 0.6**5 / (0.6**5 + 0.3**5 + 2 * 0.05**5), atol=0.03
  )
